"""`trex dynamic`: one bundle with several plans of a front, and what chooses among them."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trex.commands import _arguments

if TYPE_CHECKING:
    from trex.hardware import Accounting
    from trex.runtime.bundle import Contents
    from trex.store.schemas import Manifest

_logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "source",
        type=Path,
        metavar="RUN_OR_BUNDLE",
        help="what `trex search` or `trex fit` wrote, or the folder of `trex search --budgets`: a "
        "bundle is made of it; or a dynamic bundle: it is measured, adapted, simulated",
    )
    made = parser.add_argument_group("making a bundle of a run")
    made.add_argument(
        "--points", type=int, metavar="K", help="how many plans to take from the front (5)"
    )
    made.add_argument("--out", type=Path, metavar="DIR", help="a new folder")
    made.add_argument(
        "--minimize",
        choices=("latency", "energy", "edap"),
        help="the cost that the front is drawn against, and that names its points (latency)",
    )
    made.add_argument("--original", action="store_true", help="add the original as one more plan")
    made.add_argument(
        "--keep",
        choices=("fp16", "fp32"),
        help="number format of the plans' own parameters (fp16); the original's do not change",
    )
    made.add_argument(
        "--weights", type=Path, metavar="FILE", help="the original's weights, if they have moved"
    )
    of = parser.add_argument_group("of a dynamic bundle")
    of.add_argument(
        "--mean-latency",
        metavar="LIMIT",
        help="find the cascade and the early exits that lose least within this mean: 5ms, 0.5x",
    )
    of.add_argument("--mean-energy", metavar="LIMIT", help="the same for mean energy")
    of.add_argument(
        "--calib",
        metavar="DATASET",
        help="images to fit exits and choose thresholds with, no labels",
    )
    of.add_argument(
        "--data",
        metavar="DATASET",
        help="labelled images: measure every plan, the cascade and the exits",
    )
    of.add_argument(
        "--simulate",
        action="store_true",
        help="simulate a queue with deadlines: the controller and every fixed plan",
    )
    of.add_argument("--load", type=Path, metavar="FILE", help="arrivals in seconds, one a line")
    of.add_argument(
        "--deadline",
        metavar="TIME",
        help="deadline of a request; else 4 times the latency of the most expensive plan",
    )
    of.add_argument(
        "--requests",
        type=int,
        default=20_000,
        metavar="N",
        help="requests of the simulated load (20000)",
    )
    of.add_argument("--seed", type=int, default=0)
    _arguments.add_data(parser)
    _arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Make a bundle, or work with one."""
    from trex.runtime.bundle import is_dynamic

    if is_dynamic(args.source):
        from trex.commands import _dynamic

        return _dynamic.run(args)
    return _make(args)


def _make(args: argparse.Namespace) -> int:
    """Choose the points, write the bundle, read it back."""
    from trex.errors import BundleError
    from trex.runtime.bundle import load_dynamic, save_dynamic

    for name in ("mean_latency", "mean_energy", "calib", "data", "load", "deadline"):
        if getattr(args, name) is not None:
            raise BundleError(
                f"--{name.replace('_', '-')} is of a dynamic bundle, and {args.source} is none",
                hint="make one first: trex dynamic RUN --out DIR",
            )
    if args.simulate:
        raise BundleError(
            f"--simulate is of a dynamic bundle, and {args.source} is none",
            hint="make one first: trex dynamic RUN --out DIR",
        )
    if args.out is None:
        raise BundleError("no folder for the bundle", hint="say where to with --out DIR")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise BundleError(f"{args.out} is not an empty folder", hint="choose another --out folder")
    contents, more = contents_of_runs(args)
    sizes = save_dynamic(args.out, contents, half=args.keep != "fp32", extra=more)
    model = load_dynamic(args.out)
    answer = {
        "dynamic": str(args.out),
        "model": contents.name,
        "plans": [
            {
                "name": point.name,
                "plan": point.plan,
                "estimate": dict(point.estimate),
                "measured": point.measured,
                "own_bytes": sizes.plans[point.name],
            }
            for point in model.points
        ],
        "baseline": contents.baseline,
        "base_bytes": sizes.base,
        "total_bytes": sizes.total,
        "ratio": sizes.total / sizes.base,
    }
    print(json.dumps(answer) if args.json else "\n".join(_lines(answer)))
    return 0


def contents_of_runs(args: argparse.Namespace) -> tuple[Contents, dict[str, Any]]:
    """The points of a run, or of several, as a bundle's contents, and what travels along.

    Raises:
        TrexError: there are too few points, or something of the runs is gone.
    """
    from trex.errors import ChipError
    from trex.hardware import load_device
    from trex.models.registry import architecture_of
    from trex.plan import Plan
    from trex.runtime.bundle import Contents
    from trex.runtime.costs import exit_cost, parts_of
    from trex.runtime.dynamic import Point
    from trex.search.pick import load_original
    from trex.search.points import Cost, choose_points, cost_of, names_of, runs_of

    runs = runs_of(args.source)
    cost: Cost = args.minimize or "latency"
    chosen = choose_points(runs, 5 if args.points is None else args.points, cost)
    manifest = runs[0].manifest()
    settings, baseline = manifest.settings, manifest.baseline
    device = load_device(_device_of(manifest))
    if device.fingerprint != settings.chip_sha256:
        raise ChipError(
            f"the files of {settings.chip} have changed since the search",
            hint="search again, so that all prices are of one chip",
        )
    original, config = load_original(runs[0], args.weights)
    architecture = architecture_of(original.model, original.name)
    accounting = cast("Accounting", settings.accounting)  # a chip's; a machine has none
    planes = manifest.densities.planes if manifest.densities else None
    names = names_of([of.cost(cost) / cost_of(baseline, cost) for of in chosen])
    variants = []
    rows: list[tuple[str, str, dict[str, Any], dict[str, Any] | None]] = [
        (name, of.record.plan, of.record.estimate.as_json(), of.record.selection.as_json())
        for name, of in zip(names, chosen, strict=True)
    ]
    if args.original:
        rows.append(("original", "", baseline.as_json(), None))
    for number, (name, plan, estimate, measured) in enumerate(rows):
        parts = parts_of(architecture, Plan.parse(plan), device, accounting, planes)
        point = Point(name=name, plan=plan, estimate=estimate, parts=parts, measured=measured)
        model = chosen[number].variant(original) if number < len(chosen) else original.model
        variants.append((point, model))
    width = _class_width(original)
    more = {
        "device": settings.chip,
        "accounting": settings.accounting,
        "calibration": manifest.calibration,
        "weights_source": manifest.weights_source,
        "exit_cost": exit_cost(architecture, width, device, accounting),
    }
    made = Contents(
        name=original.name,
        arguments=original.arguments,
        base=original.model,
        base_weights_sha256=original.weights_sha256,
        data_config=config,
        baseline=baseline.as_json(),
        variants=variants,
    )
    return made, more


def _class_width(original: Any) -> int:
    """Values that an early exit reads: of all class tokens side by side."""
    adapter, model = original.adapter, original.model
    layout = adapter.layout(model)
    block = model.get_submodule(adapter.containers(model)[0])[0]
    return int(max(layout.class_rows, 1) * adapter.projection(block).out_features)


def _device_of(manifest: Manifest) -> str:
    """As the search was given it: a chip of one's own is known by its path alone."""
    command = manifest.command
    for position, argument in enumerate(command):
        if argument == "--hw" and position + 1 < len(command):
            return command[position + 1]
        if argument.startswith("--hw="):
            return argument.removeprefix("--hw=")
    return manifest.settings.chip


def _lines(answer: dict[str, Any]) -> list[str]:
    """The bundle for people."""
    from trex.units import format_quantity

    baseline = answer["baseline"]
    lines = [f"{answer['dynamic']}: {answer['model']}, {len(answer['plans'])} plans"]
    for row in answer["plans"]:
        cost, measured = row["estimate"], row["measured"]
        share = cost["latency_s"] / baseline["latency_s"]
        agrees = "" if measured is None else f", agreement {100 * measured['agreement']:.1f} %"
        lines.append(
            f"  {row['name']}: {format_quantity(cost['latency_s'], 's')} ({share:.2f}x), "
            f"{format_quantity(cost['energy_j'], 'J')} (estimates){agrees}; "
            f"{row['own_bytes'] / 1e6:.2f} MB of its own; {row['plan'] or 'as it is'}"
        )
    lines.append(
        f"  {answer['total_bytes'] / 1e6:.2f} MB, of which {answer['base_bytes'] / 1e6:.2f} MB "
        f"are the original's: {answer['ratio']:.3f}x"
    )
    return [*lines, "", "  import trex", "", f'  model = trex.load("{answer["dynamic"]}")']
