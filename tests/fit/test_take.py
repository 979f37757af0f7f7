"""Candidates that several workers take from one list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest
import torch
from tiny_models import KINDS

from trex.fit.calibration import Calibration, FitSettings
from trex.fit.fitter import PlanFitter
from trex.models.registry import adapter_of
from trex.plan import Plan

PLANS = ("1<-0", "1<-0 3<-2", "1<-0 3<-2 5<-4", "1<-0 4<-3", "3<-2", "3<-2 4<-2", "5<-4")


def candidates() -> list[Plan]:
    plans = map(Plan.parse, PLANS)
    return [p for p in plans]


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calibration]:
    kind = KINDS["vit"]
    model, images = kind.build(), kind.images(16)
    with closing(
        Calibration(
            model,
            adapter_of(model),
            [images[:10]],
            [images[10:]],
            settings=FitSettings(),
            scratch=tmp_path_factory.mktemp("scratch"),
        )
    ) as done:
        yield done


class Taken:
    """A shared list: every candidate can be taken once."""

    def __init__(self, *gone: str) -> None:
        self.keys = list(gone)

    def __call__(self, left: Sequence[Plan]) -> Plan | None:
        for candidate in left:
            if candidate.key not in self.keys:
                self.keys.append(candidate.key)
                return candidate
        return None


def test_each_candidate_is_fitted_once_by_whoever_takes_it(calibration: Calibration) -> None:
    together = {f.plan.key: f.logits for f in PlanFitter(calibration).fit(candidates())}
    shared = Taken()
    rotated = candidates()[4:] + candidates()[:4]
    workers = [PlanFitter(calibration).fit(order, shared) for order in (candidates(), rotated)]
    apart = {}
    while workers:
        for worker in list(workers):
            fitted = next(worker, None)
            if fitted is None:
                workers.remove(worker)
            else:
                assert fitted.plan.key not in apart
                apart[fitted.plan.key] = fitted.logits
    assert apart.keys() == together.keys()
    assert all(torch.equal(apart[key], together[key]) for key in apart)


def test_no_work_is_done_for_candidates_that_others_took(calibration: Calibration) -> None:
    steps: list[int] = []
    gone = [candidate.key for candidate in candidates()]
    fitter = PlanFitter(calibration, progress=steps.append)
    assert list(fitter.fit(candidates(), Taken(*gone))) == []
    assert steps == []
    (left,) = PlanFitter(calibration, progress=steps.append).fit(candidates(), Taken(*gone[1:]))
    assert left.plan.key == gone[0]
    # every encoder once; fitted images may go on for a plan that begins alike
    assert PlanFitter(calibration).steps([left.plan]) <= sum(steps) <= 6 * calibration.n_images


def test_one_worker_alone_shares_all_beginnings(calibration: Calibration) -> None:
    steps: list[int] = []
    fitter = PlanFitter(calibration, progress=steps.append)
    assert len(list(fitter.fit(candidates(), Taken()))) == len(PLANS)
    assert sum(steps) == fitter.steps(candidates())
