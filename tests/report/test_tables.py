from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trex.report.tables import FAR, aligned, evaluation_lines, percent, points, search_table
from trex.store.schemas import Evaluation, Summary

WORDS = st.text("abcxyz0189.-+%<", max_size=12)


@given(st.integers(1, 5).flatmap(
    lambda n: st.lists(st.lists(WORDS, min_size=n, max_size=n), min_size=1, max_size=6)
))  # fmt: skip
def test_columns_stand_below_each_other(rows: list[list[str]]) -> None:
    head, rule, *body = aligned(rows[0], rows[1:])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    assert set(rule) <= {"-"}
    assert len(rule) == sum(widths) + 2 * (len(widths) - 1)
    for line, row in zip([head, *body], rows, strict=True):
        assert len(line) <= len(rule)
        at = 0
        for cell, width in zip(row, widths, strict=True):
            assert line[at : at + width].strip() == cell
            at += width + 2


def test_the_first_column_stands_left_and_numbers_right() -> None:
    assert aligned(("name", "n"), [("a", "10"), ("long name", "9")]) == [
        "name        n",
        "-------------",
        "a          10",
        "long name   9",
    ]


def test_numbers_in_words() -> None:
    assert percent(0.8175) == "81.8"
    assert percent(1.0) == "100.0"
    assert percent(None) == "-"
    assert percent(0.12345, 3) == "12.345"
    assert (points(0.0123), points(-0.05), points(0.0)) == ("+1.2", "-5.0", "+0.0")


def record(plan: str, latency_s: float, loss: float, top1: float | None = 0.75) -> dict[str, Any]:
    return {
        "plan": plan,
        "n_reuse": len(plan.split()),
        "transform": "linear",
        "estimate": estimate(latency_s),
        "predicted_loss": loss,
        "selection": {
            "loss": loss, "agreement": 0.9, "soft_agreement": 0.8, "top1": top1,
            "baseline_top1": None if top1 is None else 0.8125, "n": 48,
        },
    }  # fmt: skip


def estimate(latency_s: float) -> dict[str, Any]:
    energy_j, area_m2 = 2e-3, 5e-4
    return {
        "chip": "a_chip",
        "accounting": "paper",
        "latency_s": latency_s,
        "energy_j": energy_j,
        "area_m2": area_m2,
        "edap_mj_ms_mm2": latency_s * energy_j * area_m2 * 1e12,
    }


MEASURED = {
    "data": "some/images", "top1": 0.7, "top5": 0.9, "baseline_top1": 0.75, "baseline_top5": 0.95,
    "difference": -0.05, "ci95": [-0.08, -0.02], "p_value": 0.0123, "agreement": 0.9, "n": 200,
    "skipped": 0, "images_per_second": 12.34, "baseline_images_per_second": 10.0, "speedup": 1.2,
}  # fmt: skip


def result(**changes: Any) -> dict[str, Any]:
    best = record("3<-2", 0.008, 0.1)
    return {
        "run": "runs/mine",
        "model": "a_model",
        "chip": "a_chip",
        "accounting": "paper",
        "budget": "latency <= 0.8x",
        "strategy": "exact",
        "baseline": estimate(0.010),
        "best": {**best, "evaluation": None},
        "pareto": [record("1<-0 3<-2", 0.006, 0.4), best],
        "front": {"points": [best], "hypervolume": 0.25, "knee": None},
        "proof": {"method": "enumeration", "proved": True},
        "candidates": {"space": 2048, "feasible": 1200, "evaluated": 32},
        **changes,
    }


def lines_of(**changes: Any) -> list[str]:
    return search_table(Summary.model_validate(result(**changes)))


def rows_of(lines: list[str], *plans: str) -> list[str]:
    return [next(line for line in lines if line.endswith(plan)) for plan in plans]


def test_a_long_plan_has_the_columns_that_numbers_leave() -> None:
    long = " ".join(f"{i + 1}<-{i}" for i in range(20))
    for loss in (0.1, 123456.7):
        lines = lines_of(pareto=[record(long, 0.006, loss), record("3<-2", 0.008, 0.1)])
        row = next(line for line in lines if "..." in line)
        assert len(row) == 100 == max(map(len, lines))


def test_a_best_plan_that_is_cut_stands_below_as_a_whole() -> None:
    long = " ".join(f"{i + 1}<-{i}" for i in range(40))
    best = {**record(long, 0.006, 0.1), "evaluation": None}
    lines = lines_of(best=best, pareto=[best])
    start = next(i for i, line in enumerate(lines) if line.startswith("the best plan: "))
    assert max(map(len, lines)) <= 100
    end = lines.index("", start)
    assert " ".join(" ".join(lines[start:end]).split()) == f"the best plan: {long}"
    assert not any(line.startswith("the best plan: ") for line in lines_of())


def test_a_search_in_a_table() -> None:
    lines = lines_of()
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    assert "a_model on a_chip, paper accounting, budget latency <= 0.8x" in text
    assert "2,048 plans, 1,200 within the budget, 32 fitted and measured" in text
    assert "48 images" in text
    assert "runs/mine/best" in text
    original, winner, other = rows_of(lines, "no reuse", "  3<-2", "1<-0 3<-2")
    assert winner.split()[0] == "*"
    assert "*" not in other + original
    # reuse, ms, uJ, mm2, EDAP gain, loss, agreement, top-1
    assert original.split()[:5] == ["0", "10", "2000", "500", "1.00"]
    assert winner.split()[1:6] == ["1", "8", "2000", "500", "1.25"]
    assert winner.split()[6:9] == ["0.1000", "90.0", "75.0"]
    assert original.split()[7] == "81.2"


def test_a_winner_off_the_front_is_shown_too() -> None:
    best = record("5<-4", 0.009, 0.2)
    lines = lines_of(best={**best, "evaluation": None})
    assert rows_of(lines, "  5<-4")[0].split()[0] == "*"


def test_of_one_plan_in_two_forms_only_the_winner_is_marked() -> None:
    best = record("3<-2", 0.008, 0.1)
    other = record("3<-2:output/none", 0.007, 0.3)
    lines = lines_of(best={**best, "evaluation": None}, pareto=[other, best])
    assert sum(line.lstrip().startswith("* ") and line.endswith("3<-2") for line in lines) == 1
    assert not any(line.startswith("*") and line.endswith("none") for line in lines)


def test_without_labels_there_is_no_accuracy() -> None:
    best = record("3<-2", 0.008, 0.1, top1=None)
    lines = lines_of(best={**best, "evaluation": None}, pareto=[best])
    for line in rows_of(lines, "no reuse", "3<-2"):
        assert "  -  " in line


def test_long_plans_do_not_widen_the_table() -> None:
    plan = " ".join(f"{i}<-0" for i in range(1, 24))
    best = record(plan, 0.004, 0.9)
    lines = lines_of(best={**best, "evaluation": dict(MEASURED)}, pareto=[best])
    table = [line for line in lines if "<-" in line and line.startswith("*")]
    assert len(table) == 1
    assert len(table[0]) <= 100


def test_a_measurement_in_words() -> None:
    lines = evaluation_lines("3<-2", Evaluation.model_validate(MEASURED))
    assert lines[0] == "measured on 200 images of some/images: 3<-2"
    original, variant = (
        next(x for x in lines if x.startswith(w)) for w in ("original", "variant")
    )
    assert original.split() == ["original", "75.0", "95.0", "10.0"]
    assert variant.split() == ["variant", "70.0", "90.0", "12.3"]
    assert "difference -5.0 points, 95 % interval -8.0 to -2.0" in lines[-1]
    assert "p = 0.012" in lines[-1]  # of an earlier version, which kept no divergence
    told = evaluation_lines("3<-2", Evaluation.model_validate({**MEASURED, "mean_kl": 0.01234}))
    assert told == [
        *lines,
        "the same first guess in 90.0 % of them, KL from the original 0.0123 nats",
    ]


def test_left_out_images_are_told() -> None:
    lines = evaluation_lines("", Evaluation.model_validate({**MEASURED, "skipped": 3}))
    assert (
        lines[0] == "measured on 200 images of some/images, 3 unreadable ones left out: no reuse"
    )


def test_a_winner_by_refinement_says_so() -> None:
    best = {**result()["best"], "refined": {
        "loss": 0.0123, "soft_agreement": 0.7123, "agreement": 0.875, "n": 48,
        "top1": None, "baseline_top1": None,
    }}  # fmt: skip
    text = "\n".join(lines_of(best=best))
    assert "71.2 % after refining" in text
    assert "first guess for 87.5 % (95 % interval 75.3 to 94.1) of 48 images" in text
    assert "refining" not in "\n".join(lines_of())


def test_no_plan_is_told_without_its_interval_and_none_is_called_a_winner() -> None:
    for lines in (lines_of(), lines_of(ranked_on="loss")):
        text = "\n".join(lines)
        assert "winner" not in text
        assert (
            "original's first guess for 90.0 % (95 % interval 78.3 to 95.7) of 48 images." in text
        )
        assert "Warning" not in text


def test_a_plan_far_from_the_original_says_so() -> None:
    best = record("3<-2", 0.008, 0.1)
    best["selection"]["agreement"] = 0.875
    lines = lines_of(best={**best, "evaluation": None})
    assert max(map(len, lines)) <= 100
    assert f"  Warning: {FAR}" in lines


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (
            0.4,
            "fitted: share 0.4 of the solved step, drift 1, class tokens weighing 100,",
        ),
        (0.0, "fitted: share 0 of the solved step, since no other share lost less on images"),
    ],
)
def test_how_plans_were_fitted_is_told(share: float, told: str) -> None:
    fit = {"shrink": share, "drift": 1.0, "class_weight": 100.0, "ridge": 1.0}
    fit["producers"] = 0.5
    assert told in lines_of(fit=fit)
    assert told not in lines_of()
