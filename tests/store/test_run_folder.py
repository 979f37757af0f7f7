from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trex.errors import RunError, StorageError
from trex.store.record import Later, Record
from trex.store.run import Run
from trex.store.schemas import Manifest

PRICE = {
    "chip": "chip", "accounting": "paper", "latency_s": 1e-3, "energy_j": 1e-4, "area_m2": 1e-4,
    "edap_mj_ms_mm2": 10.0,
}  # fmt: skip
SETTINGS = {
    "model": "tiny", "model_args": {}, "weights_sha256": "abc", "chip": "chip",
    "accounting": "paper", "budget": "latency <= 0.6x", "space": {}, "search": {}, "seed": 0,
}  # fmt: skip


def asked(**settings: Any) -> Manifest:
    return Manifest.model_validate({
        "settings": {**SETTINGS, **settings}, "command": [], "space_size": 2, "feasible": None,
        "baseline": PRICE,
    })  # fmt: skip


MANIFEST = asked()


def measured(loss: float) -> dict[str, Any]:
    rates = {"agreement": 1.0, "soft_agreement": 0.5, "top1": None, "baseline_top1": None}
    return {"loss": loss, **rates, "n": 6}


def spent(rung: str, loss: float) -> dict[str, Any]:
    return {"rung": rung, "loss": loss, "images": 10, "seconds": 0.5}


def record(key: str, **more: Any) -> dict[str, Any]:
    return {
        "key": key, "plan": "", "n_reuse": 0, "transform": "none", "estimate": PRICE,
        "selection": measured(2.0), **more,
    }  # fmt: skip


def sound(key: str, **more: Any) -> Record:
    return Record.model_validate(record(key, **more))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_run_goes_on_under_the_same_settings(tmp_path: Path) -> None:
    run = Run.start(tmp_path / "deep" / "run", MANIFEST)
    run.append(sound("a"))
    before = contents(run.path)
    again = Run.start(run.path, MANIFEST.model_copy(update={"command": ["another", "time"]}))
    assert again.records() == run.records()
    assert contents(run.path) == before
    assert Run.open(run.path).manifest() == MANIFEST


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0, now it is 1"),
        ({"model": "other"}, 'model was "tiny", now it is "other"'),
        ({"more": True}, "more was null, now it is true"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_overwritten(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    run = Run.start(tmp_path / "run", MANIFEST)
    run.append(sound("a"))
    before = contents(run.path)
    with pytest.raises(RunError, match="holds a run of other settings") as caught:
        Run.start(run.path, asked(**change))
    assert message in caught.value.message
    assert "nothing was changed" in caught.value.hint
    assert contents(run.path) == before


def test_settings_are_compared_as_json_holds_them(tmp_path: Path) -> None:
    Run.start(tmp_path / "run", asked(size=(3, 4), rate=0.1))
    Run.start(tmp_path / "run", asked(size=[3, 4], rate=0.1))


def test_long_values_are_shortened(tmp_path: Path) -> None:
    Run.start(tmp_path / "run", asked(budget="a" * 500))
    with pytest.raises(RunError) as caught:
        Run.start(tmp_path / "run", asked(budget="b" * 500))
    assert len(caught.value.message) < 400


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="is not a run folder"):
        Run.start(tmp_path, MANIFEST)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_an_empty_folder_and_what_a_kill_leaves_are_fine(tmp_path: Path) -> None:
    (tmp_path / ".manifest.json.0badcafe.tmp").write_text("{")
    run = Run.start(tmp_path, MANIFEST)
    with run.joined():
        assert run.candidates.is_dir()


def test_a_file_in_the_way_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(StorageError, match="cannot be created") as caught:
            Run.start(path, MANIFEST)
        assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no manifest.json"),
        ("{", "cannot be read"),
        ("[]", "is of schema None"),
        ("{}", "is of schema None"),
        ('{"schema": 9, "settings": {}}', "is of schema 9, this TReX reads 3 and 2"),
        ('{"schema": 3, "settings": []}', "is damaged: settings: .*, not a list of 0"),
        ('{"schema": 3}', "is damaged: settings: Field required"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    before = contents(tmp_path)
    with pytest.raises(RunError, match=message) as caught:
        Run.open(tmp_path)
    assert caught.value.hint
    if text is not None:
        with pytest.raises(RunError, match=message):
            Run.start(tmp_path, MANIFEST)
    assert contents(tmp_path) == before


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no manifest\.json"):
        Run.open(tmp_path / "missing")


def test_an_unfinished_run_says_how_to_go_on(tmp_path: Path) -> None:
    run = Run.start(tmp_path, MANIFEST)
    with pytest.raises(RunError, match=r"has no best/best\.json") as caught:
        run.read_json("best/best.json")
    assert "same command again" in caught.value.hint


def test_records_come_once_and_in_order(tmp_path: Path) -> None:
    run = Run.start(tmp_path, MANIFEST)
    assert run.records() == []
    for key in ("b", "a", "b", "c"):
        run.append(sound(key, seconds=float(len(run.records()))))
    assert [(r.key, r.seconds) for r in run.records()] == [("b", 0), ("a", 1), ("c", 2)]


def test_a_torn_last_record_is_left_out_and_then_repaired(tmp_path: Path) -> None:
    run = Run.start(tmp_path, MANIFEST)
    run.append(sound("a"))
    file = tmp_path / "results.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole[: len(whole) // 2])
    assert [r.key for r in run.records()] == ["a"]
    run.append(sound("b"))
    assert file.read_bytes().startswith(whole)
    assert [r.key for r in run.records()] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", r"results\.jsonl:2: is not a JSON object"),
        ("[1]", r"results\.jsonl:2: is not a JSON object"),
        ("{}", r"results\.jsonl:2: is not a record this TReX reads"),
        (json.dumps({"schema": 9, **record("b")}), r"results\.jsonl:2: is not a record"),
        (json.dumps({"schema": 3, "key": "b", "plan": ""}), r"jsonl:2 is damaged: n_reuse: Field"),
        (json.dumps({"schema": 3, **record("b", plan="1<-9")}), r"jsonl:2 is damaged: plan: enc"),
        (
            json.dumps({"schema": 3, **record("b", selection=measured(float("nan")))}),
            r"jsonl:2 is damaged: selection.loss: .*finite number, not nan",
        ),
        (
            json.dumps({"schema": 3, **record("b", rungs=[spent("finetuned-x", 1.0)])}),
            r"jsonl:2 is damaged: rungs.0.rung: ",
        ),
        (json.dumps({"schema": 3, **record("b")}).replace('"key"', '"kee"'), r"jsonl:2: is not a"),
    ],
)
def test_damaged_records_are_named_by_line(tmp_path: Path, line: str, message: str) -> None:
    run = Run.start(tmp_path, MANIFEST)
    first = json.dumps({"schema": 3, **record("a")})
    (tmp_path / "results.jsonl").write_text(f"{first}\n{line}\n")
    with pytest.raises(RunError, match=message):
        run.records()


def test_a_digit_that_became_another_one_is_seen(tmp_path: Path) -> None:
    run = Run.start(tmp_path, MANIFEST)
    for key in ("a", "b", "c"):
        run.append(sound(key))
    file = tmp_path / "results.jsonl"
    lines = file.read_text().splitlines()
    lines[1] = lines[1].replace('"loss": 2.0', '"loss": 3.0')
    file.write_text("\n".join(lines) + "\n")
    for reader in (run, Run.open(tmp_path)):
        with pytest.raises(RunError, match=r"results\.jsonl:2 is damaged: .* checksum") as caught:
            reader.records()
        assert "drop the line" in caught.value.hint
    file.write_text(lines[0] + "\n" + lines[2] + "\n")
    assert [r.key for r in run.records()] == ["a", "c"]


def test_records_without_checksums_are_read_and_gone_on_with(tmp_path: Path) -> None:
    run = Run.start(tmp_path, MANIFEST)
    old = json.dumps({"schema": 3, **record("a")})
    file = tmp_path / "results.jsonl"
    file.write_text(old + "\n")
    run.append(sound("b"))
    assert [r.key for r in Run.open(tmp_path).records()] == ["a", "b"]
    with file.open("a") as lines:
        lines.write(json.dumps({"schema": 3, **record("c")}) + "\n")
    with pytest.raises(RunError, match=r"results\.jsonl:3 is damaged: it has no checksum"):
        run.records()


def test_what_others_append_is_read_and_nothing_twice(tmp_path: Path, monkeypatch) -> None:
    run = Run.start(tmp_path, MANIFEST)
    parsed = []

    def counted(line: bytes) -> object:
        parsed.append(line)
        return json.loads(line)

    monkeypatch.setattr("trex.files.parse_json", counted)
    for number in range(20):
        Run(tmp_path).append(sound(f"k{number}"))
        assert len(run.records()) == number + 1
    assert len(parsed) == 20


def test_searches_join_each_other_and_keep_pruning_out(tmp_path: Path) -> None:
    run = Run.start(tmp_path, MANIFEST)
    script = (
        "import sys; from pathlib import Path; from trex.store.run import Run\n"
        "with getattr(Run.open(Path(sys.argv[1])), sys.argv[2])(): pass"
    )
    join, lock = (
        [sys.executable, "-c", script, str(tmp_path), how] for how in ("joined", "locked")
    )
    with run.joined():
        assert subprocess.run(join, env=os.environ).returncode == 0
        refused = subprocess.run(lock, capture_output=True, text=True, env=os.environ)
        assert "another process is searching" in refused.stderr
    with run.locked():
        refused = subprocess.run(join, capture_output=True, text=True, env=os.environ)
        assert "another process is pruning" in refused.stderr
    assert subprocess.run(lock, env=os.environ).returncode == 0


def test_later_rungs_add_to_a_record(tmp_path: Path) -> None:
    run = Run.start(tmp_path, MANIFEST)
    run.append(sound("a", rungs=[spent("fitted", 2.0)]))
    for loss in (1.0, 9.0):
        run.append(Later.model_validate({
            "key": "a", "rung": spent("refined", loss), "measured": measured(loss),
        }))  # fmt: skip
    (found,) = run.records()
    assert [rung.loss for rung in found.rungs] == [2.0, 1.0]
    assert found.later["refined"].as_json() == measured(1.0)


def test_a_record_is_not_appended_where_it_is_known(tmp_path: Path) -> None:
    run = Run.start(tmp_path, MANIFEST)
    for known in (None, "already"):
        run.append_unless(lambda known=known: known, sound("a"))
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1


def test_a_lock_ends_with_its_search_however_that_ends(tmp_path: Path) -> None:
    run = Run.start(tmp_path, MANIFEST)
    with pytest.raises(KeyboardInterrupt), run.locked():
        raise KeyboardInterrupt
    with run.locked(), pytest.raises(RunError, match="another process"), run.locked():
        pass
