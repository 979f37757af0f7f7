"""TReX variants that were made before: of run folders, fine-tunings and bundles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from trex.compare.target import ModelOnDevice, Price
from trex.errors import RunError
from trex.exporters.bundle import CONFIG, load_bundle, load_config
from trex.hardware import workload
from trex.models.registry import LoadedModel
from trex.plan import Plan
from trex.search.pick import pick_variant
from trex.store.ranking import best_record
from trex.store.run import Run
from trex.stored import read_plan


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedVariant:
    """A variant with its price.

    Attributes:
        title: names the folder.
        plan: what it runs.
        trained: whether it was fine-tuned.
        within: whether it is within the latency limit.
        identity: changes with its weights.
        note: what a reader should know, or nothing.
        load: the running variant; the original stays as it is.
    """

    title: str
    plan: Plan
    trained: bool
    price: Price
    within: bool
    identity: str
    note: str
    load: Callable[[LoadedModel], nn.Module]


def read_saved(
    path: Path, target: ModelOnDevice, weights_sha256: str | None, limit_s: float
) -> SavedVariant:
    """A run's best measured plan within the limit, or the variant of a bundle or fine-tuning.

    A run without a plan within the limit gives its fastest. Plans are priced anew, on the
    target's chip.

    Args:
        path: the folder.
        target: what is compared on.
        weights_sha256: of the original, where it is loaded.
        limit_s: most latency.

    Raises:
        RunError: it is no such folder, unfinished, of another version, model or weights.
        BundleError: the bundle is damaged.
    """
    for folder, trained in ((path, False), (path / "bundle", True)):
        if (folder / CONFIG).is_file():
            return _of_bundle(folder, path.name, trained, target, weights_sha256, limit_s)
    run = Run.open(path)
    settings = run.manifest().settings
    _check(path, target, settings.model, settings.weights_sha256, weights_sha256)
    records = run.records()
    if not records:
        raise RunError(
            f"{path} has no finished candidate",
            hint="run the same `trex search` command again; it goes on where it stopped",
        )
    prices = [_price(target, record.parsed) for record in records]
    fits = [i for i, price in enumerate(prices) if price.within(limit_s)]
    if fits:
        record = best_record([records[i] for i in fits])
    else:
        record = records[min(range(len(prices)), key=lambda i: prices[i].latency_s)]
    winner = run.winner()
    best = winner is not None and winner.key == record.key
    elsewhere = [
        f"{name} {there}"
        for name, there, here in (
            ("chip", settings.chip, target.device.name),
            ("accounting", settings.accounting, target.accounting),
        )
        if there != here
    ]
    pick = "best" if best else record.plan
    return SavedVariant(
        title=f"TReX ({path.resolve().name})",
        plan=record.parsed,
        trained=False,
        price=_price(target, record.parsed),
        within=bool(fits),
        identity=load_config(run.best)["weights_sha256"] if best else record.key,
        note=f"{path.resolve().name} was searched for {', '.join(elsewhere)}" if elsewhere else "",
        load=lambda original: pick_variant(run, pick, original)[1],
    )


def _of_bundle(
    folder: Path,
    name: str,
    trained: bool,
    target: ModelOnDevice,
    weights_sha256: str | None,
    limit_s: float,
) -> SavedVariant:
    config = load_config(folder)
    _check(folder, target, config["model"], config["base_weights_sha256"], weights_sha256)
    plan = read_plan(config)
    price = _price(target, plan)
    return SavedVariant(
        title=f"TReX ({name})",
        plan=plan,
        trained=trained,
        price=price,
        within=price.within(limit_s),
        identity=config["weights_sha256"],
        note="",
        load=lambda original: load_bundle(folder),
    )


def _price(target: ModelOnDevice, plan: Plan) -> Price:
    return target.price_work(workload(target.model, plan))


def _check(
    path: Path, target: ModelOnDevice, model: str, base_sha256: str, weights_sha256: str | None
) -> None:
    if model != target.model.model:
        raise RunError(
            f"{path} is of {model}, not of {target.model.model}",
            hint=f"compare it with --model {model}",
        )
    if weights_sha256 not in (None, base_sha256):
        raise RunError(
            f"{path} was made from other weights of {model}",
            hint=f"give the checkpoint of hash {base_sha256} with --weights",
        )
