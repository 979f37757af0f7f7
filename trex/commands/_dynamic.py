"""What `trex dynamic` does with a bundle that is there: measure, adapt, simulate."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trex.commands import _arguments

if TYPE_CHECKING:
    from torch import Tensor

    from trex.runtime.choose import Chosen
    from trex.runtime.dynamic import DynamicModel, Quantity
    from trex.runtime.simulate import Service
    from trex.training.data import ImageSet
    from trex.training.transforms import InputConfig

_logger = logging.getLogger(__name__)

#: what `--data` measured, in the bundle's folder
MEASURED: Final = "measured.json"
_BATCH: Final = 50


def run(args: argparse.Namespace) -> int:
    """Do what is asked, in this order: choose, measure, simulate."""
    from trex.api.data import check_sources
    from trex.errors import BundleError
    from trex.runtime.bundle import load_dynamic, load_dynamic_config
    from trex.training.transforms import input_config_from_json

    for name in ("points", "out", "minimize", "keep", "weights"):
        if getattr(args, name) is not None:
            raise BundleError(
                f"--{name} makes a bundle of a run, and {args.source} is a bundle",
                hint="give the run's folder, or leave it out",
            )
    if args.mean_latency and args.mean_energy:
        raise BundleError("--mean-latency and --mean-energy are both given", hint="give one")
    limited = args.mean_latency or args.mean_energy
    if not (limited or args.data or args.simulate):
        raise BundleError(
            f"{args.source} is a dynamic bundle, and nothing is asked of it",
            hint="add --data, --simulate, or --mean-latency with --calib",
        )
    if limited and args.calib is None:
        raise BundleError(
            "--calib is missing: thresholds are chosen on images",
            hint="give the images that the plans were fitted on, or others without labels",
        )
    check_sources(args.calib, args.data)
    stored, model = load_dynamic_config(args.source), load_dynamic(args.source)
    config = input_config_from_json(stored["data"])
    answer: dict[str, Any] = {"dynamic": str(args.source)}
    chosen: dict[str, Chosen] = {}
    if limited:
        chosen, answer["adaptive"] = _choose(args, stored, model, config)
    if args.data:
        answer["measured"] = _measure(args, model, config, chosen)
    if args.simulate:
        answer["simulated"] = _simulate(args, model)
    print(json.dumps(answer) if args.json else "\n".join(_lines(answer)))
    return 0


def _choose(
    args: argparse.Namespace, stored: dict[str, Any], model: DynamicModel, config: InputConfig
) -> tuple[dict[str, Chosen], dict[str, Any]]:
    """The cascade and the exits within the limit, on calibration images."""
    from dataclasses import asdict

    from trex.errors import ModelError
    from trex.runtime.adaptive import class_tokens
    from trex.runtime.choose import choose, fit_exits, observe
    from trex.runtime.ways import save_ways
    from trex.training.data import batches, open_dataset
    from trex.training.transforms import eval_transform

    quantity: Quantity = "latency" if args.mean_latency else "energy"
    quantity, limit = model.limit(args.mean_latency or args.mean_energy, quantity)
    images = open_dataset(
        args.calib, transform=eval_transform(config), labels=False, strict=args.strict
    )
    fitted, choosing = images.split((0.5, 0.5), args.seed)
    exit_cost = stored.get("exit_cost", {"latency": 0.0, "energy": 0.0})
    heads: Any = {}
    try:
        class_tokens(model)
    except ModelError as error:
        _logger.warning("no early exits: %s", error.message)
    else:
        encoders = len(model.adapter.layout(model.base).stages)
        places = range(encoders // 3, encoders - 1)
        with _progress("exits: fit", len(fitted)) as advance:
            heads = fit_exits(model, places, batches(fitted, _BATCH), progress=advance)
    with _progress("thresholds", len(choosing)) as advance:
        seen = observe(model, heads, batches(choosing, _BATCH), progress=advance)
    found = choose(model, seen, limit, quantity=quantity, exit_cost=exit_cost)
    answer = {
        "quantity": quantity,
        "limit": limit,
        "calibration": images.origin,
        "exit_cost": exit_cost,
        "seed": args.seed,
    }
    save_ways(args.source, found, heads, entries=answer)
    ways = [{**asdict(way), "title": way.title} for way in found.values()]
    return found, {**answer, "ways": ways}


def _progress(label: str, total: int) -> Any:
    from trex.search.problem import progress_bar

    return progress_bar(label, total)


def _measure(
    args: argparse.Namespace,
    model: DynamicModel,
    config: InputConfig,
    chosen: dict[str, Chosen],
) -> dict[str, Any]:
    """Every plan, and what was chosen, on labelled images, paired with the original."""
    from trex.api.data import open_labelled
    from trex.api.models import classes_of
    from trex.files import write_atomic

    images = open_labelled(
        args.data, config, classes_of(model.base), _arguments.data_options(args)
    )
    rows = _measured_rows(args.source, model, images, chosen)
    answer = {"data": images.origin, "rows": rows}
    write_atomic(args.source / MEASURED, json.dumps(answer, indent=2) + "\n")
    return answer


def _measured_rows(
    folder: Path, model: DynamicModel, images: ImageSet, chosen: dict[str, Chosen]
) -> list[dict[str, Any]]:
    import torch

    from trex.models.answers import first_tensor
    from trex.runtime.ways import load_adaptive
    from trex.training.data import batches
    from trex.training.evaluate import compare_paired

    ways = {
        kind: load_adaptive(folder, kind, model)  # type: ignore[arg-type]
        for kind in chosen
        if kind != "plan"
    }
    logits: dict[str, list[Tensor]] = {}
    taken: dict[str, list[Tensor]] = {kind: [] for kind in ways}
    labels: list[Tensor] = []
    with torch.no_grad(), _progress("measure", len(images)) as advance:
        for batch in batches(images, _BATCH):
            logits.setdefault("", []).append(first_tensor(model.base(batch.images)).float())
            for name in model.plans:
                answer = first_tensor(model(batch.images, plan=name)).float()
                logits.setdefault(f"plan {name}", []).append(answer)
            for kind, way in ways.items():
                of = way.answer(batch.images)
                logits.setdefault(kind, []).append(of.logits.float())
                taken[kind].append(of.way)
            labels.append(batch.labels)
            advance(len(batch.images))
    truth = torch.cat(labels)
    joined = {name: torch.cat(parts) for name, parts in logits.items()}
    rows = []
    for name, own in joined.items():
        if not name:
            continue
        paired = compare_paired(own, joined[""], truth)
        row = {
            "name": name,
            "top1": paired.top1,
            "baseline_top1": paired.baseline_top1,
            "difference": paired.difference,
            "ci95": list(paired.ci95),
            "p_value": paired.p_value,
            "agreement": paired.agreement,
            "n": paired.n,
        }
        for quantity in ("latency", "energy"):
            row[f"mean_{quantity}"] = _mean_cost(model, name, ways.get(name), taken, quantity)
        if name in ways:
            took = torch.cat(taken[name])
            count = len(ways[name].costs("latency"))
            row["title"] = chosen[name].title
            row["shares"] = [float((took == n).double().mean()) for n in range(count)]
            best = chosen.get("plan")
            if best is not None:
                fixed = compare_paired(own, joined[f"plan {best.plans[0]}"], truth)
                row["over_plan"] = {
                    "plan": best.plans[0], "difference": fixed.difference,
                    "ci95": list(fixed.ci95), "p_value": fixed.p_value,
                }  # fmt: skip
        rows.append(row)
    return rows


def _mean_cost(
    model: DynamicModel, name: str, way: Any, taken: dict[str, list[Tensor]], quantity: Any
) -> float | None:
    """Of the images that took each way, priced by their shares; None where nobody priced it."""
    import math

    import torch

    try:
        if way is None:
            cost = model.point(name.removeprefix("plan ")).cost(quantity)
        else:
            each = torch.tensor(way.costs(quantity), dtype=torch.float64)
            cost = float(each[torch.cat(taken[name])].mean())
    except KeyError:
        return None
    return cost if math.isfinite(cost) else None


def _simulate(args: argparse.Namespace, model: DynamicModel) -> dict[str, Any]:
    """A load on every fixed plan and on the controller."""
    from dataclasses import asdict

    from trex.errors import DataError, UnitError
    from trex.runtime.simulate import DEADLINE, bursty, compare_policies, recorded, verdict
    from trex.units import parse_quantity

    dear = max(point.cost("latency") for point in model.points)
    deadline_s = DEADLINE * dear
    if args.deadline is not None:
        try:
            deadline_s = parse_quantity(args.deadline, "time")
        except UnitError as error:
            raise DataError(f"--deadline {error.message}", hint=error.hint) from None
    if args.requests < 1:
        raise DataError(f"--requests {args.requests}", hint="at least 1")
    load = (
        recorded(args.load, deadline_s)
        if args.load
        else bursty(model.points, requests=args.requests, seed=args.seed, deadline_s=deadline_s)
    )
    services, origin = services_of(args.source, model)
    outcomes = compare_policies(load, model.points, services)
    return {
        "load": load.origin,
        "deadline_s": load.deadline_s,
        "accuracy_of": origin,
        "outcomes": [asdict(of) for of in outcomes],
        "verdict": verdict(outcomes),
    }


def services_of(folder: Path, model: DynamicModel) -> tuple[dict[str, Service], str]:
    """What every plan takes and how well it answers, and where its accuracy is from.

    Raises:
        BundleError: nobody measured the plans.
    """
    from trex.errors import BundleError
    from trex.files import parse_json
    from trex.runtime.simulate import Service

    accuracy: dict[str, float] = {}
    origin = "agreement with the original on the images that plans were compared on"
    try:
        answer = parse_json((folder / MEASURED).read_text(encoding="utf-8"))
        found = {row["name"].removeprefix("plan "): float(row["top1"]) for row in answer["rows"]}
        if all(name in found for name in model.plans):
            accuracy, origin = found, f"top-1 on {answer['data']}"
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{folder / MEASURED} cannot be read: {error}", hint="measure again with --data"
        ) from None
    if not accuracy:
        for point in model.points:
            if point.measured is not None:
                accuracy[point.name] = float(point.measured["agreement"])
            elif not point.plan:
                accuracy[point.name] = 1.0
            else:
                raise BundleError(
                    f"nobody measured the plan {point.name}", hint="measure first with --data"
                )
    return {
        point.name: Service(
            latency_s=point.cost("latency"),
            energy_j=float(point.estimate.get("energy_j") or 0.0),
            accuracy=accuracy[point.name],
        )
        for point in model.points
    }, origin


def _lines(answer: dict[str, Any]) -> list[str]:
    """What was found, for people."""
    from trex.units import format_quantity

    lines = []
    if (adaptive := answer.get("adaptive")) is not None:
        unit = {"latency": "s", "energy": "J"}[adaptive["quantity"]]
        lines.append(
            f"mean {adaptive['quantity']} <= {format_quantity(adaptive['limit'], unit)}, chosen "
            f"on {adaptive['ways'][0]['images']} of {adaptive['calibration']}:"
        )
        for way in adaptive["ways"]:
            shares = ", ".join(f"{100 * share:.0f} %" for share in way["shares"])
            lines.append(
                f"  {way['title']}: {format_quantity(way['cost'], unit)}, agreement "
                f"{100 * way['agreement']:.1f} %, {way['loss']:.4f} nats; images by way {shares}"
            )
    if (measured := answer.get("measured")) is not None:
        first = measured["rows"][0]
        lines.append(
            f"measured on {first['n']} of {measured['data']}; original "
            f"{100 * first['baseline_top1']:.1f} % top-1:"
        )
        for row in measured["rows"]:
            low, high = (100 * end for end in row["ci95"])
            cost = row["mean_latency"]
            lines.append(
                f"  {row.get('title', row['name'])}: {100 * row['top1']:.1f} %, "
                f"{100 * row['difference']:+.1f} points ({low:+.1f} to {high:+.1f}), mean latency "
                f"{format_quantity(cost, 's')} (estimate)"
            )
            if (over := row.get("over_plan")) is not None:
                low, high = (100 * end for end in over["ci95"])
                lines.append(
                    f"    over plan {over['plan']}: {100 * over['difference']:+.1f} points "
                    f"({low:+.1f} to {high:+.1f})"
                )
    if (simulated := answer.get("simulated")) is not None:
        lines.append(
            f"{simulated['load']}, deadline {format_quantity(simulated['deadline_s'], 's')}, "
            f"accuracy: {simulated['accuracy_of']}:"
        )
        for of in simulated["outcomes"]:
            lines.append(
                f"  {of['policy']}: {of['served']} of {of['requests']} in time, {of['missed']} "
                f"missed, accuracy {100 * of['accuracy']:.2f} %, right in time "
                f"{100 * of['right']:.2f} %, {format_quantity(of['energy_j'], 'J')}, "
                f"{of['switches']} switches"
            )
        lines.append(simulated["verdict"])
    return lines
