"""The schedules side by side, for `trex cost --schedules`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trex.commands._price_lines import (
    bottleneck_json,
    bottleneck_text,
    caveats,
    figures,
    plain,
    plan_lines,
    short,
)

if TYPE_CHECKING:
    from trex.hardware import ScheduleCosts


def schedules_json(compared: list[ScheduleCosts]) -> dict[str, object]:
    """Every schedule's figures, as plain values."""
    cost = compared[0].cost
    return {
        "model": cost.model,
        "chip": cost.chip,
        "accounting": cost.accounting,
        "plan": cost.plan,
        "n_reuse": cost.n_reuse,
        "transform": cost.transform,
        "tokens": [list(pair) for pair in cost.tokens],
        "schedules": [
            {
                **_json(c),
                "by_stage": {name: plain(s) for name, s in c.cost.by_stage().items()},
                "original_by_stage": {name: plain(s) for name, s in c.original.by_stage().items()},
                "softmax_the_other_way": _json(c.other) if c.other else None,
            }
            for c in compared
        ],
        "warnings": list(cost.warnings),
        "not_modelled": list(cost.not_modelled),
        "assumptions": list(cost.assumptions),
        "notes": list(cost.notes),
    }


def _json(of: ScheduleCosts) -> dict[str, object]:
    return {
        "schedule": of.schedule,
        "depth_first_softmax": of.depth_first,
        **figures(of.cost),
        "latency_ratio": of.latency_ratio,
        "interval_s": of.cost.interval_s,
        "interval_ratio": of.interval_ratio,
        "bottleneck": bottleneck_json(of.cost),
        "original_bottleneck": bottleneck_json(of.original),
        "edap_gain": of.edap_gain,
        "edap_gain_without_dead_rows": of.edap_gain_without_dead_rows,
        "original": figures(of.original),
        "original_without_dead_rows": figures(of.trimmed) if of.trimmed else None,
    }


def schedules_text(compared: list[ScheduleCosts]) -> list[str]:
    """The schedules' table for people."""
    cost = compared[0].cost
    head = (
        f"{'schedule':<11} {'latency (ms)':>12} {'ratio':>6} {'every (ms)':>11} {'ratio':>6} "
        f"{'EDAP gain':>9}  most of the latency"
    )
    lines = [
        f"{cost.model} on {cost.chip}, full accounting",
        *plan_lines(cost),
        "ratio: to the original; every: time between two images",
        "",
        head,
        "-" * 97,
    ]
    for c in compared:
        stages = ", ".join(f"{name} {share:.0%}" for name, share in c.largest_stages())
        lines.append(
            f"{c.schedule:<11} {c.cost.latency_s * 1e3:>12.4f} {c.latency_ratio:>6.3f} "
            f"{c.cost.interval_s * 1e3:>11.4f} {c.interval_ratio:>6.3f} {c.edap_gain:>9.3f}  "
            f"{stages}"
        )
    gains = [
        f"{c.schedule} {c.edap_gain_without_dead_rows:.3f}"
        for c in compared
        if c.edap_gain_without_dead_rows is not None
    ]
    if gains:
        lines.append(f"EDAP gain over the original without dead rows: {', '.join(gains)}")
    lines += ["", *_bottlenecks_text(compared)]
    lines += [f"warning: {text}" for text in cost.warnings]
    return [*lines, "", *_stages_text(compared), *caveats(cost)]


def _bottlenecks_text(compared: list[ScheduleCosts]) -> list[str]:
    """What sets the pace, and the gains with the softmax depth-first and not."""
    lines = [
        f"{'schedule':<11} {'depth-first softmax':>19} {'EDAP gain':>9}  bottleneck",
        "-" * 97,
    ]
    for c in compared:
        for of in filter(None, (c, c.other)):
            own = "on" if of.depth_first else "off"
            shown = own if of is c else f"if it were {own}"
            told = bottleneck_text(of.cost)
            lines.append(f"{of.schedule:<11} {shown:>19} {of.edap_gain:>9.3f}  {told}")
    return lines


def _stages_text(compared: list[ScheduleCosts]) -> list[str]:
    """Where the time goes under each schedule, and what the plan takes away there."""
    heads = "".join(f"{c.schedule:>15}{'saved':>10}" for c in compared)
    lines = [f"{'latency (ms)':<16}{heads}", "-" * 97]
    latencies = [
        [{name: s.latency_s for name, s in of.by_stage().items()} for of in (c.cost, c.original)]
        for c in compared
    ]
    stages = dict.fromkeys(name for pair in latencies for of in reversed(pair) for name in of)
    shown = [
        (name, [(own.get(name, 0.0), original.get(name, 0.0)) for own, original in latencies])
        for name in stages
    ]
    shown.append(("total", [(c.cost.latency_s, c.original.latency_s) for c in compared]))
    for name, pairs in shown:
        if any(max(pair) for pair in pairs):
            cells = "".join(f"{own * 1e3:>15.4f}{(was - own) * 1e3:>10.4f}" for own, was in pairs)
            lines.append(f"{short(name, 16):<16}{cells}")
    return lines
