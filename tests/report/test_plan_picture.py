"""What a plan does, in numbers and in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up_runs import LAYOUT, record, write_run

from trex.cli import main
from trex.plan import Layout
from trex.report.facts import read_facts
from trex.report.plans import PlanPicture, plan_in_words, plan_numbers, tokens_in_words
from trex.stored import read_layout

DEIT = read_layout(LAYOUT)
JOINT = "5<-4 8<-2:map/linear 3~40 6~40 9~40 11=class"


def test_a_picture_has_arcs_tokens_and_dead_rows() -> None:
    assert plan_numbers(JOINT, DEIT) == PlanPicture(
        num_encoders=12,
        arcs=((4, 5), (2, 8)),
        tokens=(197,) * 4 + (157,) * 3 + (117,) * 3 + (77,) * 2,
        rows=((11, 1),),
    )
    assert plan_numbers(JOINT, DEIT).longest == 6


@pytest.mark.parametrize("plan", ["", "5<-4 8<-2:map"])
def test_where_no_token_goes_none_is_drawn(plan: str) -> None:
    staged = Layout(stages=(0,) * 6 + (1,) * 6, tokens=0)
    assert plan_numbers(plan, DEIT).tokens == ()
    assert tokens_in_words(plan, DEIT) == tokens_in_words(plan, staged) == ""


@pytest.mark.parametrize(
    ("plan", "does", "tokens"),
    [
        ("", "0 of 12 encoders reuse attention", ""),
        ("5<-4 8<-2", "2 of 12 encoders reuse attention", ""),
        ("3~40", "1 of 12 encoders merges tokens", "Tokens: 197 enter, 157 behind encoder 3."),
        ("11=class", "the last computes its class rows only",
         "Tokens: 197 enter. Encoder 11 reads 197 and puts out 1: no head reads the rest."),
        (JOINT,
         "2 of 12 encoders reuse attention, 3 merge tokens, the last computes its class rows only",
         "Tokens: 197 enter, 157 behind encoder 3, 117 behind encoder 6, 77 behind encoder 9. "
         "Encoder 11 reads 77 and puts out 1: no head reads the rest."),
    ],
)  # fmt: skip
def test_words(plan: str, does: str, tokens: str) -> None:
    assert plan_in_words(plan, DEIT) == does
    assert tokens_in_words(plan, DEIT) == tokens


def test_the_page_tells_where_tokens_go(tmp_path: Path) -> None:
    records = [record([3, 5], 0.1, more="4~40 8~20 11=class"), record([3, 5, 7], 0.4)]
    run = write_run(tmp_path / "run", records)
    assert main(["report", str(run), "--json"]) == 0
    page = (run / "report" / "index.html").read_text()
    assert "2 of 12 encoders reuse attention, 2 merge tokens, the last computes" in page
    assert "Tokens: 197 enter, 157 behind encoder 4, 137 behind encoder 8." in page
    svg = (run / "report" / "figures" / "run-plan.svg").read_text()
    for told in ("157", "137 → 1"):
        assert f">{told}</text>" in svg
    plain = write_run(tmp_path / "plain", records[1:])
    assert main(["report", str(plain)]) == 0
    assert "Tokens:" not in (plain / "report" / "index.html").read_text()


def test_a_run_of_version_0_1_knows_its_stages_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", space={"may_reuse": [True] * 12, "stages": [0] * 12})
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["layout"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    facts = read_facts(run)
    assert facts.layout == Layout(stages=(0,) * 12, tokens=0)
    assert facts.num_encoders == 12
