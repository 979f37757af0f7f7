"""What a plan does, in numbers and in words."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
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


#: shared rows, one encoder's groups used twice, a map mixed and an average, class rows of its own
ROWS = "5<-4:map/mixed 8:map/average 3~40 6=53 7=@6 5=class"


def test_a_picture_has_rows_averages_and_own_class_rows() -> None:
    assert plan_numbers(ROWS, DEIT) == PlanPicture(
        num_encoders=12,
        arcs=((4, 5),),
        averages=(8,),
        own_class=(5,),
        tokens=(197,) * 4 + (157,) * 8,
        shared=((6, 53), (7, 53)),
    )


def test_class_rows_of_its_own_leave_all_tokens() -> None:
    picture = plan_numbers("5<-4:map 5=class", DEIT)
    assert (picture.own_class, picture.tokens, picture.rows) == ((5,), (), ())


def test_rows_are_shared_in_windows() -> None:
    plan = "1=9 2=@1 4=4"
    layout = Layout(stages=(0, 0, 0, 1, 1), tokens=0, windows=(36, 36, 36, 9, 9))
    assert plan_numbers(plan, layout).tokens == (36, 36, 36, 9, 9)
    any_size = replace(layout, windows=(0,) * 5)
    found = plan_numbers(plan, any_size)
    assert (found.tokens, found.shared) == ((), ((1, 9), (2, 9), (4, 4)))
    assert tokens_in_words(plan, any_size) == (
        "Rows of attention: 9 in encoder 1, 9 in encoder 2 (shared as in 1), 4 in encoder 4; "
        "the tokens stay."
    )


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
        (ROWS,
         "1 of 12 encoders reuses attention, 1 attends by an average map, 1 merges tokens, "
         "2 share rows of attention",
         "Tokens: 197 enter, 157 behind encoder 3. Rows of attention: 53 in encoder 6, 53 in "
         "encoder 7 (shared as in 6); the tokens stay. Encoder 5 computes class rows of its own."),
        ("4<-3:map 5<-3:map 4=class 5=class", "2 of 12 encoders reuse attention",
         "Encoders 4 and 5 compute class rows of their own."),
        ("6=53", "1 of 12 encoders shares rows of attention",
         "Rows of attention: 53 in encoder 6; the tokens stay."),
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
    shared = write_run(tmp_path / "shared", [record([3], 0.1, more="8:map/average 4~40 6=53")])
    assert main(["report", str(shared)]) == 0
    drawn = (shared / "report" / "figures" / "shared-plan.svg").read_text()
    for told in ("157", "53", "mean"):
        assert f">{told}</text>" in drawn
    page = (shared / "report" / "index.html").read_text()
    assert "1 shares rows of attention" in page
    assert "rows of attention that tokens share" in page
    plain = write_run(tmp_path / "plain", records[1:])
    assert main(["report", str(plain)]) == 0
    assert "Tokens:" not in (plain / "report" / "index.html").read_text()


def test_a_layout_is_read_as_it_was() -> None:
    layout = Layout(stages=(0, 0, 1), tokens=0, windows=(9, 9, 4), no_merging="grids")
    assert read_layout(json.loads(json.dumps(asdict(layout)))) == layout


def test_a_run_of_version_0_1_knows_its_stages_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", space={"may_reuse": [True] * 12, "stages": [0] * 12})
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["layout"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    facts = read_facts(run)
    assert facts.layout == Layout(stages=(0,) * 12, tokens=0)
    assert facts.num_encoders == 12
