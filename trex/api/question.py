"""What a search is asked, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trex.api.devices import accounting_of, open_device
from trex.api.models import load_model
from trex.api.problem import Given, Prepared, carry_out, check_least, search_of
from trex.api.rungs import RungOptions
from trex.api.space import SpaceOptions
from trex.errors import BudgetError
from trex.fit.calibration import FitSettings
from trex.fit.refine import RefineSettings
from trex.hardware import Chip, DeviceAccounting, MeasuredDevice
from trex.models.registry import architecture_of
from trex.search.budget import QUANTITIES, Budget, Quantity
from trex.search.engine import Search
from trex.search.problem import Problem, SearchSettings
from trex.search.space import SearchSpace
from trex.store.schemas import Summary

#: how plans are chosen
Strategy = Literal["exact", "optuna", "paper", "random"]
#: limits: of latency alone, `"0.6x"`, or of several costs, `{"latency": "9ms", "area": "0.9x"}`
BudgetGiven = str | Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Everything that a search is asked.

    Attributes:
        given: model, data, device, run folder, and how the work is done.
        limits: of costs, in text; None where there is none.
        accounting: of a chip; None takes `usual`.
        usual: the accounting where none is asked for.
        force: as `open_device`.
        space: which plans there are.
        strategy: how plans are chosen.
        sampler: of `optuna`.
        pareto: whether plans are spread over all prices within the limits.
        evaluations: plans measured; None is the usual number.
        refine_rounds: of the best plan; None is the usual number.
        quick: a first answer, of fewer images and plans.
        rungs: how far the best plans are taken.
    """

    given: Given
    limits: Mapping[Quantity, str | None]
    accounting: DeviceAccounting | None = None
    usual: DeviceAccounting = "paper"
    force: bool = False
    space: SpaceOptions = field(default_factory=SpaceOptions)
    strategy: Strategy = "exact"
    sampler: Literal["tpe", "nsga2"] = "tpe"
    pareto: bool = False
    evaluations: int | None = None
    refine_rounds: int | None = None
    quick: bool = False
    rungs: RungOptions = field(default_factory=RungOptions)

    def check(self) -> None:
        """See that numbers are not too small.

        Raises:
            BudgetError: one is.
        """
        check_least(
            {"evaluations": 1, "refined_candidates": 0, "refine_rounds": 0},
            evaluations=self.evaluations,
            refined_candidates=self.rungs.refined,
            refine_rounds=self.refine_rounds,
        )
        self.given.work.check()

    def budget(self, device: Chip | MeasuredDevice) -> Budget:
        """The limits that were given.

        Raises:
            BudgetError: none was, one is malformed, or of what nobody measured on the device.
        """
        limits = dict(self.limits)
        if self.pareto and not any(limits.values()):
            limits["latency" if isinstance(device, MeasuredDevice) else "edap"] = "1x"
        budget = Budget.parse(limits)
        if isinstance(device, MeasuredDevice):
            device.refuse([limit.quantity for limit in budget.limits])
        return budget

    def settings(self, space: SearchSpace) -> dict[str, Any]:
        """How many plans are measured, on what, and how far they are refined."""
        joint, evaluations = space.joint, self.evaluations
        if evaluations is None:
            evaluations = 12 if self.quick else 24 if joint else 32
        rounds = self.refine_rounds
        if rounds is None:
            rounds = 0 if joint else 1 if self.quick else 3
        effort: dict[str, Any] = {"evaluations": evaluations}
        if self.quick:
            effort |= {"surrogate_images": 120, "choice_images": 80}
        if joint and self.strategy == "exact":
            effort = {"surrogate_images": 240, "choice_images": 160, **effort}
            effort |= {"confirmed": min(4, evaluations), "fresh_share": 0.2}
            if not self.pareto:
                effort["moves"] = evaluations - max(1, evaluations // 3)
        precision = self.given.work.settled_precision()
        return {
            **effort,
            "fit": FitSettings(batch_size=self.given.work.batch_size, precision=precision),
            "refine": RefineSettings(rounds=rounds, precision=precision),
        }


def prepare(question: Question, like: Search | None = None) -> Prepared:
    """Check everything a search needs, before any work; also how to measure bundles.

    Args:
        question: what is asked.
        like: a search that differs in its limits alone, whose passes are shared.

    Raises:
        TrexError: anything the caller gave is missing, malformed or does not fit.
    """
    given = question.given
    question.check()
    device = (
        open_device(given.device, force=question.force) if like is None else like.problem.device
    )
    budget = question.budget(device)
    accounting = accounting_of(question.accounting, device, question.usual)
    given.check_sources()
    loaded = load_model(given.model, given.options) if like is None else like.problem.loaded
    model = architecture_of(loaded.model, loaded.name)
    space = question.space.load(model, question.strategy)
    settings = question.settings(space)
    opened = given.open(loaded)
    usual_views = 0 if space.joint or question.quick else 2
    problem = Problem(
        loaded=loaded,
        device=device,
        accounting=accounting,
        space=space,
        images=opened.images,
        data_config=opened.config,
        settings=SearchSettings(
            seed=given.work.seed,
            strategy=question.strategy,
            pareto=question.pareto,
            sampler=question.sampler,
            refined_candidates=question.rungs.refined,
            final_views=given.work.views(opened.images, opened.config, usual_views),
            finetuning=question.rungs.finetuning(opened.images),
            **settings,
        ),
    )
    return search_of(given, problem, budget, opened.evaluated, like)


def run(question: Question) -> Summary:
    """Search, and what it came to; the run folder holds the rest.

    Raises:
        TrexError: as `prepare`; or the work fails.
        InfeasibleError: nothing fits the budget.
    """
    return carry_out(lambda: prepare(question))


def limits_of(budget: BudgetGiven | None) -> dict[Quantity, str | None]:
    """Limits by their costs' names.

    Raises:
        BudgetError: one is of no known cost, or no text.
    """
    if budget is None:
        return {}
    texts = {"latency": budget} if isinstance(budget, str) else dict(budget)
    limits: dict[Quantity, str | None] = {}
    for name, text in texts.items():
        known = next((quantity for quantity in QUANTITIES if quantity == name), None)
        if known is None:
            raise BudgetError(
                f"the budget limits {name!r}, which is no cost",
                hint=f"costs are {', '.join(QUANTITIES)}",
            )
        if not isinstance(text, str):
            raise BudgetError(
                f"the budget's {name} is {text!r}, no text",
                hint="give a number with a unit, '9ms', or a share of the original: '0.6x'",
            )
        limits[known] = text
    return limits
