"""A search's later rungs, its winner and its texts on the page; all made up."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from made_up_runs import RECORDS, SCHEMA, write_run

from trex.cli import main
from trex.report.facts import read_facts
from trex.report.page import write_report

#: Off the front: as dear as the second, and loses more.
WINNER = RECORDS[2]


def measured(loss: float, **more: Any) -> dict[str, Any]:
    return {
        "loss": loss, "agreement": 0.91, "soft_agreement": 0.8, "top1": 0.71,
        "baseline_top1": 0.8, "n": 400, **more,
    }  # fmt: skip


def trained_run(path: Path) -> Path:
    """A run whose last rung, a training, made another plan the winner than its fits would."""
    spent = {"refined": 600, "finetuned-1": 96}
    trained = {
        **WINNER,
        "refined": measured(0.19),
        "finetuned-1": measured(0.0777, start="refined", epochs=1),
        "rungs": [{"rung": r, "loss": 0.1, "images": n, "seconds": 1} for r, n in spent.items()],
    }
    run = write_run(path, RECORDS)
    with (run / "results.jsonl").open("a") as file:
        for rung in trained["rungs"]:
            line = {"key": WINNER["key"], "rung": rung, "measured": trained[rung["rung"]]}
            file.write(json.dumps({"schema": SCHEMA, **line}) + "\n")
    (run / "best").mkdir()
    (run / "best" / "best.json").write_text(
        json.dumps({"schema": SCHEMA, "key": WINNER["key"], "plan": WINNER["plan"]})
    )
    summary = json.loads((run / "summary.json").read_text())
    evaluation = {**summary["best"]["evaluation"], "top1": 0.7654, "difference": -0.0346}
    summary["best"] = {**trained, "evaluation": None}
    summary["finetuned"] = {
        "plan": WINNER["plan"], "rung": "finetuned-1", "images": 96,
        "measured": trained["finetuned-1"], "evaluation": evaluation,
    }  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    return run


def test_later_rungs_are_told_one_a_row(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run")
    facts = read_facts(run)
    assert [(r.rung, r.plan, r.images, r.measured.loss) for r in facts.rungs] == [
        ("refined", WINNER["plan"], 600, 0.19),
        ("finetuned-1", WINNER["plan"], 96, 0.0777),
    ]
    assert read_facts(write_run(tmp_path / "plain")).rungs == ()
    assert main(["report", str(run)]) == 0
    page = (run / "report" / "index.html").read_text()
    assert "<td>finetuned-1</td><td>96</td><td>0.0777</td>" in page
    assert "best plan, fine-tuned by the search" in page
    assert "<td>76.5</td>" in page
    assert "-3.5" in page
    assert "best plan, not trained" not in page  # that one was not measured


def test_the_page_says_by_what_the_winner_was_chosen(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run")
    facts = read_facts(run)
    assert "most soft agreement, 80.0 % after training on 96 images" in facts.chosen
    assert main(["report", str(run)]) == 0
    assert facts.chosen in (run / "report" / "index.html").read_text().replace("&#39;", "'")
    (run / "summary.json").unlink()
    assert read_facts(run).chosen == ""


def test_tables_of_the_front_hold_and_mark_a_winner_off_it(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run")
    facts = read_facts(run)
    assert facts.winner not in facts.front
    assert main(["report", str(run)]) == 0
    for name, lines in (("front", len(facts.front) + 1), ("candidates", len(RECORDS))):
        with (run / "report" / "tables" / f"run-{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == lines
        assert [r["plan"] for r in rows if r["best"] == "yes"] == [WINNER["plan"]]
    page = (run / "report" / "index.html").read_text()
    plan = WINNER["plan"].replace("<", "&lt;")
    assert f'<tr class="best"><th>{plan}</th><td>{WINNER["n_reuse"]}</td>' in page


def test_a_long_front_still_shows_its_winner(tmp_path: Path) -> None:
    from made_up_runs import record

    many = [
        {**record([*range(1, 2 + number // 6)], 0.5 - 0.001 * number), "key": f"key{number}"}
        for number in range(30)
    ]
    for number, each in enumerate(many):
        each["estimate"] = {**each["estimate"], "edap_mj_ms_mm2": 1.0 + number}
    run = write_run(tmp_path / "run", many)
    assert main(["report", str(run)]) == 0
    page = (run / "report" / "index.html").read_text()
    assert page.count('<tr class="best"><th>') >= 2  # the answer's and the front's
    assert "6 more in tables/run-front.csv" in page


def test_letters_that_the_font_lacks_are_one_line_a_figure(tmp_path: Path, caplog) -> None:
    run = write_run(tmp_path / "run", model="\N{CJK UNIFIED IDEOGRAPH-65E5}")
    with caplog.at_level("WARNING", logger="trex"):
        write_report([read_facts(run)], run / "report")
    told = [r.getMessage() for r in caplog.records if "boxes for letters" in r.getMessage()]
    figures = list((run / "report" / "figures").glob("*.png"))
    assert 0 < len(set(told)) == len(told) <= len(figures)
    svg = (run / "report" / "figures" / "run-front.svg").read_text()
    assert "\N{CJK UNIFIED IDEOGRAPH-65E5} on trex_fefet_32nm" in svg


def test_a_run_on_texts_counts_texts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", data={"tokens": 10})
    summary = json.loads((run / "summary.json").read_text())
    of_two = {"unit": "texts", "matthews": 0.123, "baseline_matthews": 0.234, "top5": 1.0}
    summary["best"]["evaluation"] |= of_two
    (run / "summary.json").write_text(json.dumps(summary))
    assert main(["report", str(run)]) == 0
    page = (run / "report" / "index.html").read_text()
    for words in ("1000 texts of images", "measured, 400 texts", "<th>Matthews</th>", "0.123"):
        assert words in page
    assert "top-5" not in page
