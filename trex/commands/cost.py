"""`trex cost`: price a model and a plan on a chip."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any, Final

from trex.commands import _arguments, _densities, _devices
from trex.commands._measured_lines import machine_lines
from trex.commands._price_lines import (
    accuracy_lines,
    bottleneck_json,
    bottleneck_text,
    caveats,
    figures,
    plain,
    plan_lines,
    short,
    wear_lines,
)
from trex.commands._schedules import schedules_json, schedules_text
from trex.errors import ChipError

if TYPE_CHECKING:
    from trex.architecture import Operation
    from trex.hardware import Cost, Sums

# The same names as in trex.hardware, which is too heavy to import for `--help`.
SCHEDULES = ("sequential", "parallel", "pipelined")
_SET_EXAMPLE: Final = "softmax.units=12"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    _arguments.add_model(parser)
    _devices.add_device(parser, "paper")
    parser.add_argument("--plan", default="", help='"5<-4 7<-6:map/linear 3~40 11=class"')
    parser.add_argument(
        "--transform",
        default="linear",
        choices=_arguments.TRANSFORMS_LEFT_OUT,
        help="of the consumers whose transform the plan leaves out",
    )
    parser.add_argument("--schedule", choices=SCHEDULES, help="of full accounting")
    parser.add_argument(
        "--schedules",
        action="store_true",
        help="compare the schedules: where the time goes, and what the plan saves",
    )
    _arguments.add_set(parser, "the chip file", _SET_EXAMPLE)
    parser.add_argument(
        "--by",
        default="stage",
        choices=("stage", "component", "layer"),
        help="rows of the table",
    )
    parser.add_argument(
        "--brief", action="store_true", help="the totals alone, without rows, assumptions, notes"
    )
    _densities.add_arguments(parser)
    _arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Price the plan, and beside it the original, as loaded and without dead rows."""
    from trex.api import price
    from trex.hardware import MeasuredDevice
    from trex.plan import Plan

    if args.schedules and (args.accounting != "full" or args.schedule):
        raise ChipError(
            "--schedules compares all of them under full accounting",
            hint="add --accounting full and leave out --schedule",
        )
    if args.brief and args.schedules:
        raise ChipError("--schedules has its own table", hint="leave --brief out")
    question = price.Question(
        model=args.model,
        device=args.hw,
        plan=Plan.parse(args.plan, args.transform),
        options=_arguments.model_options(args),
        accounting=args.accounting,
        schedule=args.schedule,
        overrides=_arguments.set_values(args.set, _SET_EXAMPLE, ChipError),
        data=args.calib,
        data_images=args.calib_images,
        force=args.force,
    )
    device = question.open_device()
    if args.schedules and not isinstance(device, MeasuredDevice):
        compared, measured = price.schedules(question, device)
        cost, result, lines = compared[0].cost, schedules_json(compared), schedules_text(compared)
    else:
        found = price.run(question, device)  # of a machine, refuses what only chips have
        if isinstance(found, price.MachinePrice):
            print(json.dumps(found.as_json()) if args.json else "\n".join(machine_lines(found)))
            return 0
        assert not isinstance(device, MeasuredDevice)
        costs = (found.cost, found.original, found.without_dead_rows)
        cost, measured = found.cost, found.densities
        result, lines = (
            as_json(*costs),
            as_text(found.cost, None if args.brief else args.by, *costs[1:]),
        )
    if args.json:
        result["densities"] = _densities.as_json(measured, cost, device)
        print(json.dumps(result, ensure_ascii=False))
    else:
        head = lines.index("")
        lines[head:head] = _densities.as_text(measured, cost, device)
        print("\n".join(lines))
    return 0


def as_json(cost: Cost, original: Cost, trimmed: Cost | None = None) -> dict[str, Any]:
    """Everything about a cost, as plain values; `trimmed` is the original without dead rows."""
    operations = {op.name: op for op in cost.operations}
    return {
        "model": cost.model,
        "chip": cost.chip,
        "accounting": cost.accounting,
        "schedule": cost.schedule,
        "plan": cost.plan,
        "n_reuse": cost.n_reuse,
        "transform": cost.transform,
        "tokens": [list(pair) for pair in cost.tokens],
        "rows": list(cost.rows),
        **figures(cost),
        "interval_s": cost.interval_s,
        "bottleneck": bottleneck_json(cost),
        "lifetime": dict(cost.lifetime._asdict()) if cost.lifetime else None,
        "warnings": list(cost.warnings),
        "edap_gain": original.edap_j_s_m2 / cost.edap_j_s_m2,
        "edap_gain_without_dead_rows": (
            trimmed.edap_j_s_m2 / cost.edap_j_s_m2 if trimmed else None
        ),
        "original": figures(original),
        "original_without_dead_rows": figures(trimmed) if trimmed else None,
        "macs": cost.macs,
        "original_macs": cost.original_macs,
        "tops_per_w": cost.tops_per_w,
        "tops_per_mm2": cost.tops_per_mm2,
        "actual_tops_per_mm2": cost.actual_tops_per_mm2,
        "by_layer": [
            {"layer": name, **_shape(operations.get(name)), **plain(sums)}
            for name, sums in cost.by_layer().items()
        ],
        "by_component": {name: plain(s) for name, s in cost.by_component().items()},
        "by_stage": {name: plain(s) for name, s in cost.by_stage().items()},
        "not_modelled": list(cost.not_modelled),
        "assumptions": list(cost.assumptions),
        "notes": list(cost.notes),
        "accuracy": [figure.as_json() for figure in cost.accuracy],
    }


def as_text(cost: Cost, by: str | None, original: Cost, trimmed: Cost | None = None) -> list[str]:
    """The lines of the table for people; `trimmed` is the original without dead rows.

    With `by` None its totals alone.
    """
    parts = {"stage": cost.by_stage, "component": cost.by_component, "layer": cost.by_layer}
    sums = parts[by]() if by else {}
    groups = sums
    if by == "layer":
        shapes = {op.name: _shape_text(op) for op in cost.operations}
        longest = min(34, max(map(len, sums)))
        groups = {
            f"{short(name, longest):<{longest}}  {shapes.get(name, '')}": part
            for name, part in sums.items()
        }
    lines = [
        f"{cost.model} on {cost.chip}, {cost.accounting} accounting, {cost.schedule}",
        *plan_lines(cost),
        "",
    ]
    width = min(58, max([17, *map(len, groups)]))
    head = f"{by or '':<{width}} {'latency (ms)':>14} {'energy (mJ)':>13} {'area (mm2)':>12}"
    lines += [head, "-" * len(head)]
    lines += [_row(name, sums, width) for name, sums in groups.items()]
    lines += [*(["-" * len(head)] if by else []), _row("total", cost, width)]
    gains = ""
    if cost.plan:
        lines += [_row("original", original, width)]
        gains = f", {original.edap_j_s_m2 / cost.edap_j_s_m2:.3g} times lower than the original"
    if cost.plan and trimmed:
        lines += [_row("without dead rows", trimmed, width)]
        gains += f", {trimmed.edap_j_s_m2 / cost.edap_j_s_m2:.3g} times without dead rows"
    lines += [
        "",
        f"EDAP {cost.edap_mj_ms_mm2:.6g} mJ*ms*mm2{gains}",
        f"{cost.macs / 1e9:.4g} GMAC, {cost.tops_per_w:.4g} TOPS/W (1 MAC = 1 operation)",
        f"TOPS/mm2: {cost.tops_per_mm2:.2g} by the original's operations, as the paper counts; "
        f"{cost.actual_tops_per_mm2:.2g} by actual ones",
    ]
    if cost.schedule == "pipelined":
        lines.append(f"an image every {cost.interval_s * 1e3:.4g} ms")
    if cost.accounting == "full":
        lines.append(f"bottleneck: {bottleneck_text(cost)}")
        lines += wear_lines(cost)
    lines += accuracy_lines(cost.accuracy)
    if by:
        return [*lines, *caveats(cost)]
    left_out = f"{len(cost.not_modelled)} things are not modelled, {len(cost.assumptions)} values "
    return [*lines, f"{left_out}assumed; without --brief they are listed"]


def _row(name: str, sums: Sums | Cost, width: int) -> str:
    shown = short(name, width)
    return (
        f"{shown:<{width}} {sums.latency_s * 1e3:>14.4f} {sums.energy_j * 1e3:>13.5f} "
        f"{sums.area_m2 * 1e6:>12.3f}"
    )


def _shape(op: Operation | None) -> dict[str, object]:
    """What a layer is; empty for what the chip has once."""
    if op is None:
        return {}
    return {
        "kind": op.kind,
        "groups": op.groups,
        "vectors": op.vectors,
        "in_features": op.in_features,
        "out_features": op.out_features,
        "macs": op.macs,
    }


def _shape_text(op: Operation) -> str:
    """`6 x (197 x 64 -> 197)`: groups, vectors, inputs, outputs."""
    inner = f"{op.in_features} -> {op.out_features}" if op.macs else f"{op.out_features}"
    shape = f"{op.vectors} x {inner}"
    return f"{op.groups} x ({shape})" if op.groups > 1 else shape
