"""`trex finetune DIR --dynamic`: all plans of a dynamic bundle, trained together."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from trex.commands import _training

if TYPE_CHECKING:
    from trex.models.registry import LoadedModel
    from trex.runtime.dynamic import DynamicModel
    from trex.training.finetune import Job


def run(args: argparse.Namespace) -> int:
    """Train, measure, print."""
    from trex.training.finetune.processes import start_processes
    from trex.training.finetune.shared import finetune_shared

    job = prepare(args)
    with start_processes(args.device) as processes:
        answer = finetune_shared(
            job, args.run_folder, processes, between=args.between, twins=args.twins
        )
    print(json.dumps({"out": str(args.out), **answer}) if args.json else "\n".join(_lines(answer)))
    return 0


def prepare(args: argparse.Namespace) -> Job:
    """Check everything that a shared training needs, before any work.

    Raises:
        TrexError: anything the user gave is missing, malformed or does not fit.
    """
    from trex.errors import TrainingError
    from trex.runtime.bundle import load_dynamic, load_dynamic_config
    from trex.store.schemas import Stage
    from trex.training.finetune import Job
    from trex.training.finetune.shared import paths_of
    from trex.training.transforms import input_config_from_json

    if args.non_ideal or args.pick != "best":
        raise TrainingError(
            f"{'--non-ideal' if args.non_ideal else '--pick'} is of one plan",
            hint="leave it out with --dynamic",
        )
    training = _training.training_data(args)
    recipe = training.settled_recipe()
    stored, model = load_dynamic_config(args.run_folder), load_dynamic(args.run_folder)
    config = input_config_from_json(stored["data"])
    original = original_of(args, stored, model)
    sets = training.open(recipe, original, config)
    return Job(
        original=original,
        data_config=config,
        fitted=paths_of(model, between=args.between, seed=args.seed),
        fitted_on=None,
        candidate=Stage(stage="fitted", plan=""),
        images=sets.images,
        extra=sets.extra,
        evaluation=sets.evaluation,
        recipe=recipe,
        chip=None,
        seed=args.seed,
        workers=args.workers,
        out=args.out,
        origin=str(args.run_folder),
    )


def original_of(
    args: argparse.Namespace, stored: dict[str, Any], model: DynamicModel
) -> LoadedModel:
    """The original, which teaches: the bundle's base unless that was trained.

    Raises:
        WeightsError: its weights are elsewhere, or are others.
    """
    from copy import deepcopy

    from trex.errors import WeightsError
    from trex.models.registry import LoadedModel, load
    from trex.runtime.bundle import is_original

    if is_original(stored, model):
        return LoadedModel(
            name=stored["model"],
            arguments=stored["model_args"],
            model=deepcopy(model.base),
            adapter=model.adapter,
            weights_source=str(args.run_folder),
            weights_sha256=stored["base_weights_sha256"],
            report=None,
        )
    loaded = load(stored["model"], weights=args.weights, **stored["model_args"])
    if loaded.weights_sha256 != stored["base_weights_sha256"]:
        raise WeightsError(
            f"{args.weights or 'the hub'} holds other weights than {args.run_folder} was made of",
            hint="give the original's checkpoint with --weights",
        )
    return loaded


def _lines(answer: dict[str, Any]) -> list[str]:
    """Every plan before and after, for people."""
    lines = []
    for row in answer["paths"]:
        lines.append(f"{row['name']}: {row['plan'] or 'as it is'}")
        for name in ("untrained", "shared", "alone"):
            measured = row.get(name)
            if measured is not None:
                low, high = (100 * end for end in measured["ci95"])
                lines.append(
                    f"  {name}: top-1 {100 * measured['top1']:.1f} %, "
                    f"{100 * measured['difference']:+.1f} points ({low:+.1f} to {high:+.1f})"
                )
    return [*lines, f"bundle: {answer['bundle']}"]
