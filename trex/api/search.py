"""Finding the plan that fits a budget and loses least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from trex.api import budgets
from trex.api.data import Data, DataOptions
from trex.api.devices import DeviceGiven
from trex.api.models import Model, ModelOptions
from trex.api.problem import Given, Precision, WorkOptions
from trex.api.question import BudgetGiven, Question, Strategy, limits_of, run
from trex.api.result import Result
from trex.api.rungs import RungOptions
from trex.api.runs import run_folder
from trex.api.space import Axis, SpaceOptions
from trex.hardware import DeviceAccounting
from trex.progress import Callback, told_to


def search(
    model: Model,
    data: Data,
    device: DeviceGiven,
    *,
    budget: BudgetGiven | None = None,
    max_drop: float | None = None,
    minimize: budgets.Minimized = "latency",
    out: str | Path | None = None,
    evaluate_on: Data | None = None,
    accounting: DeviceAccounting | None = None,
    space: str | Path | None = None,
    only: Axis | None = None,
    keep_tokens: bool = False,
    space_changes: Mapping[str, Any] | None = None,
    strategy: Strategy = "exact",
    sampler: Literal["tpe", "nsga2"] = "tpe",
    pareto: bool = False,
    quick: bool = False,
    evaluations: int | None = None,
    refine_rounds: int | None = None,
    refined_candidates: int = 0,
    finetuned_candidates: Sequence[int] = (),
    finetune_images: Sequence[int] | None = None,
    finetune_recipe: str | Path | None = None,
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
    storage: str | None = None,
    study: str | None = None,
    like: str | Path | None = None,
    force: bool = False,
    progress: Callback | None = None,
) -> Result:
    """Find the plan that fits a budget and loses least; fit it, and measure it.

    Searching again with the same `out` and arguments goes on where it was stopped.

    Args:
        model: a name, as on the command line, or a model object; it stays as it is.
        data: images to fit and compare plans with, a thousand or so; labels are not needed. A
            folder, a .tar, `hfds/NAME`; or tensors as the model takes them, any iterable of
            batches of these (alone, or as (images, labels)), a loader, a data set.
        device: a shipped chip's name, a path, or the folder of a machine that was measured.
        budget: the most latency, `"9ms"` or `"0.6x"` of the original's; or several limits by
            name: latency, energy, area, edap, params, macs.
        max_drop: in the place of a limit of `minimize`: the cheapest plan that loses at most so
            many points, of top-1 where the data have labels, else of agreement with the original.
        minimize: the cost that `max_drop` minimises.
        out: the run folder; None takes one that goes with the result unless it is saved.
        evaluate_on: labelled images that choose nothing, to measure the best plan on.
        accounting: of a chip: `paper` or `full`; None is `full`, everything it must do.
        space: a shipped search space, or a path; None is the joint one.
        only: one axis alone.
        keep_tokens: no merging, for models whose every token is read.
        space_changes: fields of the space's file -> other values.
        strategy: how plans are chosen.
        sampler: of the strategy `optuna`.
        pareto: spread plans over all prices within the limits; without any, up to the original.
        quick: a first answer, of fewer images and plans.
        evaluations: plans that are measured.
        refine_rounds: of the best plan's refinement.
        refined_candidates: the best so many are refined and compared once more.
        finetuned_candidates: the best so many are trained for a short while and compared.
        finetune_images: that each of them is trained on.
        finetune_recipe: how they are trained.
        final_views: augmented views of every image in the best plan's last fit.
        weights: a local file, of a model given by name; None takes the hub's.
        num_classes: of the head, of a model given by name.
        img_size: in pixels, of a model given by name.
        tokens: of a text model given by name.
        tokenizer: of a text model.
        mean: of the channels; None takes the model's.
        std: of the channels; None takes the model's.
        class_map: a file of class folders in the head's order.
        strict: make an unreadable image an error.
        seed: of all that is drawn.
        batch_size: images at a time.
        precision: of forwards while fitting.
        scratch: a folder for activations; None takes the run's.
        workers: processes of one thread each.
        storage: address of a database that many machines share.
        study: its name there.
        like: a run of the same model, space and images, whose probes are taken.
        force: take a measured machine's latencies though it is not this one.
        progress: called with every step forward; without it bars show in a terminal.

    Raises:
        TrexError: anything given is missing, malformed or does not fit; before any work.
        InfeasibleError: nothing fits the budget; the nearest plan is named.
    """
    limits = limits_of(budget)
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
                storage=storage,
                study=study,
                like=None if like is None else Path(like),
            ),
        ),
        limits=limits,
        accounting=accounting,
        usual="full",
        force=force,
        space=SpaceOptions(
            name=space, only=only, keep_tokens=keep_tokens, changes=dict(space_changes or {})
        ),
        strategy=strategy,
        sampler=sampler,
        pareto=pareto,
        evaluations=evaluations,
        refine_rounds=refine_rounds,
        quick=quick,
        rungs=RungOptions(
            refined=refined_candidates,
            finetuned=tuple(finetuned_candidates),
            images=finetune_images,
            recipe=finetune_recipe,
        ),
    )
    with told_to(progress):
        if max_drop is None:
            run(question)
            return Result.of(folder, model)
        many = budgets.Many(limits=(), max_drop=max_drop, minimized=minimize)
        cheapest = budgets.cheapest(many, question)
        return Result.of(folder.inner(cheapest.path), model)
