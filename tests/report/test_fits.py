"""How plans were fitted, on the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from made_up_runs import record, write_run

from trex.cli import main
from trex.report.fits import cells, fits_in_words
from trex.store.run import FIT, SCHEMA
from trex.store.schemas import Fit


def way(shrink: float, loss: float | None) -> dict[str, Any]:
    return {
        "shrink": shrink,
        "drift": 0.5,
        "class_weight": 100.0,
        "ridge": 0.1,
        "producers": 0.5,
        "loss": loss,
    }


def stored(*tried: dict[str, Any]) -> dict[str, Any]:
    chosen = {name: value for name, value in tried[0].items() if name != "loss"}
    return {"schema": SCHEMA, "fitted": "3<-2 6<-5", "chosen": chosen, "tried": list(tried)}


def page_of(run: Path) -> str:
    assert main(["report", str(run)]) == 0
    return (run / "report" / "index.html").read_text()


def test_the_page_says_which_way_was_chosen_and_what_was_tried(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert "How plans were fitted" not in page_of(run)
    (run / FIT).write_text(json.dumps(stored(way(0.4, 0.0321), way(1.0, 0.0555))))
    page = page_of(run)
    assert "Of 2 ways of fitting" in page
    assert "0.4 of the step from their start" in page
    assert page.index("0.0321") < page.index("0.0555")
    assert "3&lt;-2 6&lt;-5" in page


def test_a_start_that_nothing_beats_is_told() -> None:
    fits = Fit.model_validate(stored(way(0.0, 0.1), way(1.0, 0.2)))
    assert "none beat the start" in fits_in_words(fits)


def test_where_there_was_nothing_to_choose_no_table_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / FIT).write_text(json.dumps(stored(way(0.4, None))))
    page = page_of(run)
    assert "No plan had anything to choose" in page
    assert "share of the step" not in page


def test_a_run_that_chose_no_drift_corrected_all_of_it() -> None:
    new = way(0.4, 0.1)
    old = {name: value for name, value in new.items() if name not in ("drift", "producers")}
    for tried, drift, producers in ((old, "1", "0"), (new, "0.5", "0.5")):
        fits = Fit.model_validate(stored(tried))
        assert cells(fits.tried[0]) == ("0.4", drift, "100", "0.1", producers, "0.1000")


def test_a_plan_far_from_the_original_is_warned_of(tmp_path: Path) -> None:
    found = record([3], 0.1)
    near = write_run(tmp_path / "near", [found])
    share, n = found["selection"]["agreement"], found["selection"]["n"]
    assert share >= 0.9
    assert "far from the original" not in page_of(near)
    found["selection"]["agreement"] = 0.75
    page = page_of(write_run(tmp_path / "far", [found]))
    assert "far from the original: it gives its first guess for 75.0 % (95 % interval" in page
    assert f"of {n} images" in page
