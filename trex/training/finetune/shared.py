"""All plans of a dynamic bundle trained together, beside each untrained and trained alone."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from torch import nn

from trex.errors import RunError, TrainingError
from trex.exporters.bundle import load_bundle, save_bundle
from trex.files import parse_json, write_atomic
from trex.runtime.bundle import contents_of, load_dynamic, save_dynamic
from trex.runtime.dynamic import DynamicModel
from trex.store.finetuning import FinetuneFolder
from trex.store.schemas import Stage
from trex.training.finetune.job import Job, manifest_of, train
from trex.training.finetune.paths import Paths
from trex.training.finetune.precision import settled
from trex.training.finetune.processes import Processes
from trex.training.measure import measure_pair

#: what became of every plan, in the fine-tuning's folder
RESULTS: Final = "paths.json"
_TWINS: Final = "twins"


def paths_of(model: DynamicModel, *, between: int, seed: int) -> Paths:
    """A dynamic model's plans, to be trained together.

    Args:
        model: its plans learn in place.
        between: plans that a step trains beside the cheapest and the dearest.
        seed: of their choice.

    Raises:
        TrainingError: `between` is negative.
    """
    if between < 0:
        raise TrainingError(f"{between} plans between", hint="give at least 0")
    return Paths([model.variant(name) for name in model.plans], between=between, seed=seed)


def finetune_shared(
    job: Job, bundle: Path, processes: Processes, *, between: int, twins: bool
) -> dict[str, Any]:
    """Train, write, measure; what `paths.json` holds.

    The trained bundle lies in the folder's `bundle/`. Going on in a folder repeats nothing that is
    done; with `twins` every plan is also trained alone, by the same recipe, in `twins/NAME/`.

    Args:
        job: `fitted` are the paths of the bundle as it is; `candidate` says nothing of one plan.
        bundle: the dynamic bundle to begin with.
        processes: one.
        between: as `paths_of` takes it.
        twins: whether plans are also trained alone.

    Raises:
        TrexError: something does not fit together, or the training cannot go on.
    """
    if processes.world > 1:
        raise TrainingError("several plans are trained in one process", hint="leave torchrun out")
    job.recipe.check_extra(job.extra is not None)
    job = replace(job, recipe=settled(job.recipe, processes.device))
    folder = FinetuneFolder(job.out)
    manifest = manifest_of(job, processes, between=between)
    model, untrained = load_dynamic(bundle), load_dynamic(bundle)
    with folder.locked():
        folder.start(manifest)
        if not (folder.bundle / "dynamic.json").is_file():
            paths = paths_of(model, between=between, seed=job.seed)
            outcome, _ = train(job, paths, processes)
            trained = {
                "kept": outcome.kept,
                "steps": outcome.steps,
                "seconds": round(outcome.seconds, 1),
                "between": between,
                "seed": job.seed,
                "recipe": job.recipe.model_dump(),
            }
            made = contents_of(bundle, model)
            save_dynamic(folder.bundle, _untold(made), extra={"trained": trained})
        alone = _twins(job, untrained, processes) if twins else {}
        results = {"bundle": str(folder.bundle), "paths": _measured(job, folder, untrained, alone)}
        write_atomic(folder.path / RESULTS, json.dumps(results, indent=2) + "\n")
        for file in (folder.path / "checkpoints").glob("step-*.pt"):
            file.unlink()
    return results


def read_paths(folder: Path) -> dict[str, Any]:
    """What a shared training told.

    Raises:
        RunError: the folder holds none, or it is damaged.
    """
    try:
        results: dict[str, Any] = parse_json((folder / RESULTS).read_text(encoding="utf-8"))
        if not isinstance(results["paths"], list):
            raise ValueError("paths is no list")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{folder / RESULTS} cannot be read: {error}", hint="run the same command again"
        ) from None
    return results


def _stage(plan: str) -> Stage:
    return Stage(stage="fitted", plan=plan)


def _untold(contents: Any) -> Any:
    """Contents without what was measured before the training."""
    return replace(
        contents,
        variants=[(replace(point, measured=None), model) for point, model in contents.variants],
    )


def _twins(job: Job, untrained: DynamicModel, processes: Processes) -> dict[str, nn.Module]:
    """Every plan trained alone, as it was before the shared training."""
    made: dict[str, nn.Module] = {}
    for point in untrained.points:
        out = job.out / _TWINS / point.name
        bundle = out / "bundle"
        if not (bundle / "config.json").is_file():
            variant = deepcopy(untrained.variant(point.name))
            own = replace(
                job, fitted=untrained.variant(point.name), out=out, candidate=_stage(point.plan)
            )
            FinetuneFolder(out).start(manifest_of(own, processes))
            train(own, variant, processes)
            save_bundle(
                bundle,
                variant,
                name=job.original.name,
                arguments=job.original.arguments,
                base_weights_sha256=job.original.weights_sha256,
                data_config=job.data_config,
                extra={"estimate": dict(point.estimate)},
            )
            for file in (out / "checkpoints").glob("step-*.pt"):
                file.unlink()
        made[point.name] = load_bundle(bundle)
    return made


def _measured(
    job: Job, folder: FinetuneFolder, untrained: DynamicModel, alone: dict[str, nn.Module]
) -> list[dict[str, Any]]:
    """Every plan untrained, trained with the others, and trained alone, on the same images."""
    shared = load_dynamic(folder.bundle)
    rows = []
    for point in untrained.points:
        models = {"untrained": untrained.variant(point.name), "shared": shared.variant(point.name)}
        if point.name in alone:
            models["alone"] = alone[point.name]
        rows.append(
            {
                "name": point.name,
                "plan": point.plan,
                "estimate": dict(point.estimate),
                **{
                    name: None
                    if job.evaluation is None
                    else measure_pair(
                        model, job.original.model, job.evaluation, workers=job.workers
                    ).as_json()
                    for name, model in models.items()
                },
            }
        )
    return rows
