"""`trex runs` on made-up folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up_runs import RECORDS, write_run
from test_measured import PLAN, write_finetuning

from trex.cli import main


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    capsys.readouterr()
    assert main(["runs", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_list_names_every_run_and_why_one_cannot_be_read(tmp_path: Path, capsys) -> None:
    write_run(tmp_path / "good")
    newer = write_run(tmp_path / "newer")
    (newer / "manifest.json").write_text('{"schema": 99}')
    stopped = write_run(tmp_path / "stopped")
    (stopped / "summary.json").unlink()
    (tmp_path / "no run").mkdir()
    found = answer(capsys, "list", tmp_path)["runs"]
    assert {Path(row["run"]).name: row["state"] for row in found} == {
        "good": "finished", "newer": "unreadable", "stopped": "stopped",
    }  # fmt: skip
    assert found[0]["edap_gain"] == pytest.approx(1 / 0.85**3)
    assert main(["runs", "list", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines()[:5])) <= 100
    assert "schema 99" in out


def test_fine_tunings_are_listed_and_called_so(tmp_path: Path, capsys) -> None:
    run = write_run(tmp_path / "run")
    write_finetuning(tmp_path / "tuned", run)
    going_on = write_finetuning(tmp_path / "unfinished", run)
    (going_on / "results.jsonl").unlink()
    found = answer(capsys, "list", tmp_path)["runs"]
    assert {Path(row["run"]).name: row["state"] for row in found} == {
        "run": "finished", "tuned": "fine-tuned", "unfinished": "fine-tuning",
    }  # fmt: skip
    assert (found[1]["plan"], found[1]["top1"], found[1]["problem"]) == (PLAN, 0.76, None)
    for arguments in (["show"], ["prune", "--yes"], ["diff", str(run)]):
        assert main(["runs", *arguments, str(tmp_path / "tuned")]) == 2
        assert "is a fine-tuning, not a search's run" in capsys.readouterr().err
    assert (tmp_path / "tuned" / "curve.csv").exists()


def test_long_settings_can_be_told_apart_in_a_difference(tmp_path: Path, capsys) -> None:
    names = [f"learning_rate_of_the_{name}_parameters" for name in ("new", "old", "frozen")]
    one = write_run(tmp_path / "one")
    other = write_run(tmp_path / "other", search={"seed": 7, "recipe": dict.fromkeys(names, 1)})
    capsys.readouterr()
    assert main(["runs", "diff", str(one), str(other)]) == 0
    out = capsys.readouterr().out.splitlines()
    settings = [line.split()[0] for line in out if "parameters" in line]
    assert len(set(settings)) == len(names)
    assert max(map(len, out)) <= 100


def test_list_of_no_folder_is_exit_code_2(tmp_path: Path) -> None:
    assert main(["runs", "list", str(tmp_path / "nowhere")]) == 2


def test_show(tmp_path: Path, capsys) -> None:
    run = write_run(tmp_path / "run")
    assert answer(capsys, "show", run)["summary"]["best"]["plan"] == RECORDS[1]["plan"]
    assert main(["runs", "show", str(run)]) == 0
    assert RECORDS[1]["plan"] in capsys.readouterr().out
    (run / "summary.json").unlink()
    assert main(["runs", "show", str(run)]) == 0
    assert "not finished" in capsys.readouterr().out


def test_a_run_that_was_moved_is_shown_where_it_is(tmp_path: Path, capsys) -> None:
    moved = write_run(tmp_path / "before").rename(tmp_path / "after")
    assert main(["runs", "show", str(moved)]) == 0
    out = capsys.readouterr().out
    assert f"run folder: {moved} (the best plan is in {moved}/best)" in out


def test_diff_tells_settings_and_results_apart(tmp_path: Path, capsys) -> None:
    one = write_run(tmp_path / "one")
    other = write_run(tmp_path / "other", RECORDS[:1], budget="area <= 0.9x", search={"seed": 8})
    found = answer(capsys, "diff", one, other)
    assert found["settings"]["budget"] == ["latency <= 0.9x", "area <= 0.9x"]
    assert found["settings"]["search.seed"] == [7, 8]
    assert found["results"]["candidates"] == [4, 1]
    assert "model" not in found["settings"]
    assert main(["runs", "diff", str(one), str(one)]) == 0
    assert "do not differ" in capsys.readouterr().out


def test_prune_asks_first_and_keeps_the_front_and_the_records(tmp_path: Path, capsys) -> None:
    run = write_run(tmp_path / "run")
    off_the_front = [f"{RECORDS[2]['key']}.safetensors"]
    before = sorted(run.rglob("*.safetensors"))
    found = answer(capsys, "prune", run)
    assert (found["deleted"], found["runs"][0]["files"]) == (False, off_the_front)
    assert sorted(run.rglob("*.safetensors")) == before
    assert main(["runs", "prune", str(run)]) == 0
    assert "nothing was deleted" in capsys.readouterr().out
    assert answer(capsys, "prune", run, "--yes")["runs"][0]["bytes"] == 100
    left = {file.name for file in run.rglob("*.safetensors")}
    assert left == {file.name for file in before} - set(off_the_front)
    assert len((run / "results.jsonl").read_text().splitlines()) == len(RECORDS)
    assert answer(capsys, "prune", run, "--yes")["runs"][0]["files"] == []


def test_a_run_that_has_not_ended_is_not_pruned(tmp_path: Path, capsys) -> None:
    run = write_run(tmp_path / "run")
    (run / "summary.json").unlink()
    assert main(["runs", "prune", str(run), "--yes"]) == 2
    assert "not finished" in capsys.readouterr().err
    assert len(list(run.rglob("*.safetensors"))) == len(RECORDS)
