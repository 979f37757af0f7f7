"""The rung after the fit: the best candidates refined, each compared once more."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from safetensors.torch import load_file

from trex.reuse.fit import Candidate, FittedPlan, PlanFitter, Take, apply_fitted
from trex.reuse.precision import forward_precision
from trex.reuse.refine import refine
from trex.search.entries import LOSS, RECORD, entry
from trex.search.records import candidate_of
from trex.search.winner import answered
from trex.search.workers import Result
from trex.search.workshop import Workshop
from trex.training.data import batches


def measure_refined(shop: Workshop, records: Sequence[dict[str, Any]]) -> None:
    """Refine fitted candidates on the images they were fitted on, measure and record them."""
    by_key = {record["key"]: record for record in records}

    def result(line: dict[str, Any]) -> Result:
        return Result(line["key"], [line["measured"]["loss"]], {RECORD: line})

    def known(key: str) -> Result | None:
        record = shop.record(key)
        if record is None or "refined" not in record:
            return None
        rung = next(rung for rung in record["rungs"] if rung["rung"] == "refined")
        return result({"key": key, "rung": rung, "measured": record["refined"]})

    def work(order: Sequence[Candidate], take: Take) -> Iterator[Result]:
        while (candidate := take(order)) is not None:
            key, started = candidate.key, time.monotonic()
            measured = _refine(shop, by_key[key])
            rung = shop.rung("refined", measured["loss"], time.monotonic() - started)
            line = {"key": key, "rung": rung, "measured": measured}
            shop.run.append(line)
            yield result(line)

    done = shop.work_off(
        "refined",
        [entry(candidate_of(r), shop.priced.choices, {}) for r in records],
        work=work,
        known=known,
        objectives=[LOSS],
    )
    for key in by_key:  # measured on other machines
        shop.run.append_unless(partial(known, key), done[key].user_attrs[RECORD])


def _refine(shop: Workshop, record: dict[str, Any]) -> dict[str, Any]:
    """What refining one candidate gains on the images that it is compared on."""
    calibration, settings = shop.calibration, shop.problem.settings
    size = settings.fit.batch_size
    fit, select = shop.parts

    variant = apply_fitted(deepcopy(shop.problem.loaded.model), _state(shop, record))
    refine(
        variant,
        shop.problem.loaded.adapter,
        partial(answered, [fit], calibration.logits, size),
        settings=settings.refine,
        scratch=shop.scratch,
        seed=settings.seed,
    )
    with torch.no_grad(), forward_precision(settings.fit.precision):
        logits = torch.cat([variant(batch.images).float() for batch in batches(select, size)])
    return shop.selection(logits)


def _state(shop: Workshop, record: dict[str, Any]) -> FittedPlan:
    """A fitted candidate, fitted again where another machine did it."""
    candidate = candidate_of(record)
    file = shop.run.candidates / f"{record['key']}.safetensors"
    if file.exists():
        return FittedPlan(candidate=candidate, state=load_file(file), logits=torch.empty(0))
    (fitted,) = PlanFitter(shop.calibration).fit([candidate])
    return fitted
