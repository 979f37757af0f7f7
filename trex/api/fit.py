"""Plans of a caller's own, fitted, measured and kept as a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trex.api.data import Data, DataOptions
from trex.api.devices import DeviceGiven, open_device
from trex.api.models import Model, ModelOptions, architecture_given, load_model
from trex.api.plans import PlanGiven, plans_of
from trex.api.problem import Given, Precision, Prepared, WorkOptions, carry_out, search_of
from trex.api.result import Result
from trex.api.runs import run_folder
from trex.errors import ChipError
from trex.fit.calibration import FitSettings
from trex.fit.refine import RefineSettings
from trex.hardware import Accounting, Chip, load_chip
from trex.plan import Plan
from trex.progress import Callback, told_to
from trex.search.budget import Budget
from trex.search.problem import Problem, SearchSettings
from trex.search.space import SearchSpace
from trex.store.schemas import Summary

#: the chip that prices are of where none is asked for
CHIP: Final = "trex_fefet_32nm"
#: of a refinement
_ROUNDS: Final = 3
#: augmented views of every image in the last fit, where nobody says how many
_VIEWS: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Everything that a fit is asked.

    Attributes:
        given: model, data, device, run folder, and how the work is done.
        plans: each once.
        accounting: of prices.
        refine: whether the best plan's fit is refined by what the output feels.
    """

    given: Given
    plans: tuple[Plan, ...]
    accounting: Accounting = "full"
    refine: bool = False


def prepare(question: Question) -> Prepared:
    """Check everything a fit needs, before any work; also how to measure bundles.

    Raises:
        TrexError: anything the caller gave is missing, malformed or does not fit.
    """
    given, work = question.given, question.given.work
    work.check()
    chip = _chip(given.device)
    given.check_sources()
    model = architecture_given(given.model, given.options)
    for plan in question.plans:
        plan.validate(model.layout)
    loaded = load_model(given.model, given.options)
    opened = given.open(loaded)
    precision = work.settled_precision()
    problem = Problem(
        loaded=loaded,
        device=chip,
        accounting=question.accounting,
        space=SearchSpace.without_choice(question.plans, model),
        images=opened.images,
        data_config=opened.config,
        settings=SearchSettings(
            seed=work.seed,
            strategy="given",
            evaluations=len(question.plans),
            final_views=work.views(opened.images, opened.config, _VIEWS),
            fit=FitSettings(batch_size=work.batch_size, precision=precision),
            refine=RefineSettings(rounds=_ROUNDS if question.refine else 0, precision=precision),
        ),
        plans=question.plans,
    )
    return search_of(given, problem, Budget(limits=()), opened.evaluated)


def run(question: Question) -> Summary:
    """Fit and measure, and what it came to; the run folder holds the rest.

    Raises:
        TrexError: as `prepare`; or the work fails.
    """
    return carry_out(lambda: prepare(question))


def fit(
    model: Model,
    plan: PlanGiven | Sequence[PlanGiven],
    data: Data,
    *,
    device: DeviceGiven = CHIP,
    accounting: Accounting = "full",
    out: str | Path | None = None,
    evaluate_on: Data | None = None,
    refine: bool = False,
    final_views: int | None = None,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    img_size: int | None = None,
    tokens: int | None = None,
    tokenizer: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_map: str | Path | None = None,
    strict: bool = False,
    seed: int = 0,
    batch_size: int = 50,
    precision: Precision = "auto",
    scratch: str | Path | None = None,
    workers: int = 1,
    progress: Callback | None = None,
) -> Result:
    """Fit plans in closed form, measure them, and keep the best one running.

    Args:
        model: as in `trex.search`.
        plan: one, or several, which share work where they begin alike; `"5<-4 3~40 11=class"`.
        data: as in `trex.search`.
        device: a chip that prices are of.
        accounting: of the prices.
        out: the run folder; None takes one that goes with the result unless it is saved.
        evaluate_on: labelled images to measure the best plan on.
        refine: refine the best plan's fit by what the output feels; minutes.
        final_views: as in `trex.search`.
        weights: as in `trex.search`.
        num_classes: as in `trex.search`.
        img_size: as in `trex.search`.
        tokens: as in `trex.search`.
        tokenizer: as in `trex.search`.
        mean: as in `trex.search`.
        std: as in `trex.search`.
        class_map: as in `trex.search`.
        strict: as in `trex.search`.
        seed: as in `trex.search`.
        batch_size: as in `trex.search`.
        precision: as in `trex.search`.
        scratch: as in `trex.search`.
        workers: as in `trex.search`.
        progress: as in `trex.search`.

    Raises:
        TrexError: anything given is missing, malformed or does not fit; before any work.
    """
    plans = plans_of([plan] if isinstance(plan, str | Plan) else list(plan))
    folder = run_folder(out)
    question = Question(
        given=Given(
            model=model,
            data=data,
            device=device,
            out=folder.path,
            evaluated=evaluate_on,
            options=ModelOptions(
                weights=weights,
                num_classes=num_classes,
                img_size=img_size,
                tokens=tokens,
                tokenizer=tokenizer,
                mean=None if mean is None else tuple(mean),
                std=None if std is None else tuple(std),
            ),
            reading=DataOptions.of(class_map, strict),
            work=WorkOptions(
                seed=seed,
                final_views=final_views,
                batch_size=batch_size,
                precision=precision,
                scratch=None if scratch is None else Path(scratch),
                workers=workers,
            ),
        ),
        plans=plans,
        accounting=accounting,
        refine=refine,
    )
    with told_to(progress):
        run(question)
    return Result.of(folder, model)


def _chip(device: DeviceGiven) -> Chip:
    """A chip; whoever measured a machine knows no energy of it.

    Raises:
        ChipError: it is no chip.
    """
    if isinstance(device, str | Path):
        return load_chip(device)
    found = open_device(device)
    if not isinstance(found, Chip):
        raise ChipError(
            f"{found.name} is a measured machine; fits are priced on a chip",
            hint=f"give a chip, such as {CHIP}",
        )
    return found
