"""Getting a variant and its original back out of a run folder."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn

from trex.errors import RunError, WeightsError
from trex.exporters.bundle import load_bundle, load_config
from trex.fit.fitter import FittedPlan, apply_fitted
from trex.models.registry import LoadedModel, load
from trex.search.front import measured_front
from trex.store.ranking import best_record, records_of
from trex.store.record import Record
from trex.store.run import ORIGINAL, Run
from trex.store.schemas import ModelArguments
from trex.training.transforms import InputConfig, input_config_from_json


def load_original(run: Run, weights: Path | None = None) -> tuple[LoadedModel, InputConfig]:
    """The original a run searched on, and its preprocessing.

    Args:
        run: the run.
        weights: its checkpoint, where it is no longer where the run found it.

    Raises:
        WeightsError: the checkpoint is gone, or holds other weights than the run used.
    """
    manifest = run.manifest()
    settings = manifest.settings
    source = manifest.weights_source
    if weights is None and source != "hub":
        weights = run.path / ORIGINAL if source == ORIGINAL else Path(source)
        if not weights.exists():
            raise WeightsError(
                f"{weights}, which {run.path} was made with, is not there",
                hint="say where it is now with --weights",
            )
    loaded = _load_same(
        settings.model, weights, settings.model_args, settings.weights_sha256, run.path
    )
    return loaded, input_config_from_json(settings.data)


def load_original_of_bundle(
    folder: Path, weights: Path | None = None
) -> tuple[LoadedModel, InputConfig]:
    """The original a bundle was made from, and its preprocessing.

    Args:
        folder: the bundle.
        weights: the original's checkpoint; else the hub's.

    Raises:
        BundleError: the bundle is missing or damaged.
        WeightsError: the checkpoint holds other weights than the bundle was made from.
    """
    stored = load_config(folder)
    loaded = _load_same(
        stored["model"],
        weights,
        ModelArguments.model_validate(stored["model_args"]),
        stored["base_weights_sha256"],
        folder,
    )
    return loaded, input_config_from_json(stored["data"])


def _load_same(
    name: str, weights: Path | None, arguments: ModelArguments, sha256: str, made: Path
) -> LoadedModel:
    loaded = load(name, weights=weights, **arguments.as_json())
    if loaded.weights_sha256 != sha256:
        raise WeightsError(
            f"{weights or 'the hub'} holds other weights than {made} was made with",
            hint=f"give the checkpoint of hash {sha256} with --weights",
        )
    return loaded


def pick_record(run: Run, pick: str) -> Record:
    """The record of the winner, `best` or `finetuned`, of the `knee`, or of a plan in text.

    A number is the best measured plan with so many consumers. Of consumers whose transform the
    plan's text leaves out, the best transforms are meant.

    Raises:
        RunError: the run has no winner yet, no knee, or has not measured such a plan.
    """
    if pick == "best":
        return record_of(run, run.chosen().key)
    if pick == "finetuned":
        search = run.manifest().settings.search
        if not search.get("finetuning", {}).get("images"):
            raise RunError(
                f"{run.path} has fine-tuned nothing",
                hint="search with --finetuned-candidates, or use `trex finetune`",
            )
        return record_of(run, run.tuned().key)
    if pick == "knee":
        front = measured_front(run.records(), run.manifest().baseline) if run.records() else None
        if front is None or front.knee is None:
            raise RunError(
                f"the front of {run.path} has no knee",
                hint="search with --pareto, and with more --evaluations",
            )
        return front.knee
    if re.fullmatch(r"[0-9]{1,9}", pick):
        of_count = [record for record in run.records() if record.n_reuse == int(pick)]
        if not of_count:
            counts = sorted({record.n_reuse for record in run.records()})
            raise RunError(
                f"{run.path} has measured no plan of {pick} consumers",
                hint=f"it holds plans of {', '.join(map(str, counts)) or 'no'} consumers",
            )
        return best_record(of_count)
    records = records_of(run.records(), pick)
    if not records:
        raise RunError(
            f'{run.path} has not measured the plan "{pick}"',
            hint=f"it holds {len(run.records())} plans; see {run.path / 'results.jsonl'}",
        )
    return best_record(records)


def record_of(run: Run, key: str) -> Record:
    """A candidate's record.

    Raises:
        RunError: there is none.
    """
    if (record := run.record(key)) is not None:
        return record
    raise RunError(
        f"{run.path / 'results.jsonl'} has no record of the winner, {key}",
        hint="restore the file, or run the same command again",
    )


def pick_variant(run: Run, pick: str, original: LoadedModel) -> tuple[str, nn.Module]:
    """A plan in text and the running variant; `original.model` stays as it is.

    Args:
        run: the run.
        pick: `best`, fitted on all images; `finetuned`, with the weights of the last short
            training; `knee`, a number of consumers, or a plan the run has measured, as they were
            fitted to be compared.
        original: of the run.

    Raises:
        RunError: the run has no winner yet, has not measured the plan, or its parameters are
            missing or damaged.
    """
    record = pick_record(run, pick)
    if pick == "best":
        return record.plan, load_bundle(run.best, original.own_base())
    if pick == "finetuned":
        return record.plan, load_bundle(run.finetuned, original.own_base())
    fitted = FittedPlan(
        plan=record.parsed, state=run.parameters(record.key), logits=torch.empty(0)
    )
    return record.plan, apply_fitted(deepcopy(original.model), fitted)
