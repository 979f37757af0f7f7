"""A variant as one graph of operations, and what can be counted in such a graph."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trex.errors import ExportError
from trex.exporters.variant import Variant
from trex.models.registry import adapter_of
from trex.plan import Layout, Plan, most_pairs
from trex.reuse.apply import planned_containers

#: Images of the example that graphs are traced with: 1 would be taken for a constant.
_EXAMPLE: Final = 2

_FUSED: Final = "scaled_dot_product_attention"
_SOFTMAX: Final = ("softmax", "_softmax")


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What a graph computes; None where it cannot be told.

    Attributes:
        attentions: softmaxed maps.
        matchings: rounds of finding tokens that merge or share rows.
    """

    attentions: int
    matchings: int | None


def program_of(variant: Variant, *, batch: int | None = None) -> ExportedProgram:
    """The graph of a variant.

    Args:
        variant: what to trace.
        batch: for so many images only; any number by default.

    Raises:
        ExportError: torch cannot trace the model.
    """
    example = variant.example(_EXAMPLE if batch is None else batch)
    try:
        # with gradients, every matching would be a graph of its own
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations
            return torch.export.export(
                variant.model,
                (example,),
                dynamic_shapes=({0: Dim.DYNAMIC},) if batch is None else None,
                strict=False,
            )
    except Exception as error:  # torch.export raises nearly anything
        raise ExportError(
            f'{variant.name} with "{variant.plan}" cannot be traced: '
            f"{type(error).__name__}: {_first_line(error)}",
            hint="export a bundle or timm's format instead, and report it",
        ) from error


def counts_of_program(program: ExportedProgram) -> Counts:
    """What a traced graph computes."""
    names = [
        cast(Any, node.target).__name__.partition(".")[0]
        for node in program.graph.nodes
        if node.op == "call_function"
    ]
    return Counts(
        attentions=sum(name in (*_SOFTMAX, _FUSED) for name in names),
        matchings=names.count("topk"),
    )


def expected_counts(variant: Variant) -> Counts:
    """What a variant's graph has to compute: what its plan says, and what is outside of it."""
    layout = _layout_of(variant.model)
    return Counts(
        attentions=_attentions_of_plan(variant.plan, layout) + _attentions_outside(variant),
        matchings=_matchings_of_plan(variant.plan, layout),
    )


def _layout_of(model: nn.Module) -> Layout:
    containers = planned_containers(model)
    if containers:
        return containers[0][1].route.layout
    return adapter_of(model).layout(model)


def _attentions_of_plan(plan: Plan, layout: Layout) -> int:
    """One a producer, and one of a consumer of maps whose class rows are its own."""
    here = [plan.at(encoder) for encoder in range(len(layout.stages))]
    return sum(at.reuse is None or at.own_class for at in here)


def _matchings_of_plan(plan: Plan, layout: Layout) -> int | None:
    """One a merge; of shared rows as many as it takes to halve the tokens down to them."""
    rounds = len(plan.merges)
    for rows in plan.rows:
        here = plan.at(rows.encoder)
        if not here.shared or here.groups_of is not None:
            continue
        tokens = plan.attending(rows.encoder, layout)
        if not tokens:
            return None  # the image's size says
        while tokens > here.shared:
            tokens -= min(tokens - here.shared, most_pairs(tokens, layout.protected))
            rounds += 1
    return rounds


class _Attentions(TorchFunctionMode):
    """Counts softmaxed maps, but while something is `inside` what is not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0
        self.inside = 0

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if not self.inside and function in (
            F.scaled_dot_product_attention, F.softmax, torch.softmax, torch.Tensor.softmax
        ):  # fmt: skip
            self.found += 1
        return function(*args, **(kwargs or {}))


def _attentions_outside(variant: Variant) -> int:
    """Softmaxes of stems and heads, such as an attention pool, found by running the model."""
    counter = _Attentions()
    model = variant.model

    def enter(module: nn.Module, inputs: Any) -> None:
        counter.inside += 1

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        counter.inside -= 1

    names = [name for name, _ in planned_containers(model)]
    names = names or list(adapter_of(model).containers(model))
    # some models call their encoders one by one
    containers = [model.get_submodule(name) for name in names]
    encoders = [module for of in containers for module in (of, *of.children())]
    hooks = [module.register_forward_pre_hook(enter) for module in encoders]
    hooks += [module.register_forward_hook(leave) for module in encoders]
    try:
        with torch.no_grad(), counter:
            model(variant.example(1))
    finally:
        for hook in hooks:
            hook.remove()
    return counter.found


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
