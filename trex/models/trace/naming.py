"""Gives every recorded operation its own name, from the path of its module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from trex.architecture import Operation
from trex.models.trace.recorder import Record, Unknown
from trex.models.trace.rules import CONTEXT, SCORES

#: Labels that say more than a module's own name does.
_TELLING = (SCORES, "softmax", CONTEXT)


def named(records: Sequence[Record]) -> tuple[Operation, ...]:
    """The operations under unique names.

    A module's only operation has the module's path (`blocks.3.mlp.fc1`); where there are several,
    each adds its label (`blocks.3.attn.scores`), and a number from its second run on
    (`blocks.3.add`, `blocks.3.add_2`). `part` is the module's own name, or the label.
    """
    runs = Counter(record.module for record in records)
    taken: set[str] = set()
    operations = []
    for record in records:
        label = record.operation.part
        module = record.module
        alone = runs[module] == 1 and module != ""
        name = module if alone else ".".join(filter(None, (module, label)))
        part = _last_word(module) if alone and label not in _TELLING else ""
        operations.append(replace(record.operation, name=_unique(name, taken), part=part or label))
    return tuple(operations)


def described(unknown: Sequence[Unknown], counted_macs: int) -> tuple[str, ...]:
    """One line for each operator of each module that could not be counted."""
    groups: dict[tuple[str, str], list[Unknown]] = {}
    for run in unknown:
        groups.setdefault((run.operator, run.module), []).append(run)
    known_macs = counted_macs + sum(run.macs or 0 for run in unknown)
    lines = []
    for (operator, module), runs in groups.items():
        values = sum(run.values for run in runs)
        bounds = [run.macs for run in runs if run.macs is not None]
        share = f"{sum(bounds) / known_macs:.2%} of the MACs" if bounds else "MACs unknown"
        where = module or "the model itself"
        lines.append(f"{operator} in {where}, {len(runs)}×: {values} values out, {share}")
    return tuple(lines)


def _unique(name: str, taken: set[str]) -> str:
    candidate, run = name, 1
    while candidate in taken:
        run += 1
        candidate = f"{name}_{run}"
    taken.add(candidate)
    return candidate


def _last_word(path: str) -> str:
    """`attn` for `blocks.3.attn`, `act` for `layers.act.0`; "" where there are only numbers."""
    return next((word for word in reversed(path.split(".")) if not word.isdigit()), "")
