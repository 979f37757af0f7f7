"""One model with several plans: switched in no time, one a thread where that is wanted.

Every plan is a module of its own whose parameters are the base's, but for those that its fit
changed. So a switch moves nothing, a call may name its plan, and nothing is shared between calls.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import torch
from torch import Tensor, nn

from trex.errors import BudgetError, InfeasibleError, PlanError, UnitError
from trex.models.registry import adapter_of
from trex.plan import Plan
from trex.reuse.apply import apply_plan
from trex.units import format_quantity, parse_quantity

_logger = logging.getLogger(__name__)

Quantity = Literal["latency", "energy"]

#: quantity -> its dimension, its field in an estimate, its unit
_QUANTITIES: Final[dict[Quantity, tuple[str, str, str]]] = {
    "latency": ("time", "latency_s", "s"),
    "energy": ("energy", "energy_j", "J"),
}
_ACTIVE: Final = "active"
#: what names tensors in a state dict: `base.NAME`, `plan.POINT.NAME`
BASE: Final = "base."
PLAN: Final = "plan."


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One of the plans.

    Attributes:
        name: what `set_plan` is given.
        plan: in text.
        estimate: what it costs on the device: `latency_s`, `energy_j`, `area_m2`, ...
        parts: latency and energy by part, as `trex.runtime.costs.parts_of` has them.
        measured: on the images that candidates were compared on; None where nobody did.
    """

    name: str
    plan: str
    estimate: Mapping[str, Any]
    parts: Mapping[str, Any]
    measured: Mapping[str, Any] | None = None

    def cost(self, quantity: Quantity) -> float:
        """In SI units, one image; NaN where the device does not price it."""
        return float(self.estimate[_QUANTITIES[quantity][1]])


class DynamicModel(nn.Module):
    """A model that runs one of several plans.

    Parameters and buffers are the active plan's. Moving and casting (`.to()`, `.half()`) takes all
    plans along; `state_dict` holds the base once and what every plan has beside it.

    Args:
        base: the original; its parameters are shared, not copied.
        points: one at least, in any order.
        extras: of every point's variant, the tensors that are not the base's, by name.
        baseline: what the original costs.

    Attributes:
        points: by latency, the cheapest first.
        baseline: what the original costs.

    Raises:
        PlanError: two points share a name, or the model cannot run a plan.
    """

    def __init__(
        self,
        base: nn.Module,
        points: Sequence[Point],
        extras: Mapping[str, Mapping[str, Tensor]],
        baseline: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.points = tuple(sorted(points, key=lambda point: point.cost("latency")))
        if len({point.name for point in points}) < len(points):
            raise PlanError("two plans share a name", hint="give every plan a name of its own")
        self.baseline = dict(baseline)
        self.adapter = adapter_of(base)
        self._unlisted = {"base": base}
        self._variants = {
            point.name: with_tensors(variant_of(base, point.plan), extras.get(point.name, {}))
            for point in self.points
        }
        self._name = self.points[-1].name
        self._modules[_ACTIVE] = self._variants[self._name]
        self.training = base.training

    @property
    def base(self) -> nn.Module:
        """The model without a plan, whose parameters the plans share."""
        return self._unlisted["base"]

    @property
    def plans(self) -> list[str]:
        """The plans' names, by latency, the cheapest first."""
        return [point.name for point in self.points]

    @property
    def plan(self) -> str:
        """The active plan's name."""
        return self._name

    def point(self, name: str) -> Point:
        """A plan by its name.

        Raises:
            PlanError: there is no such plan.
        """
        for point in self.points:
            if point.name == name:
                return point
        raise self._unknown(name)

    def variant(self, name: str) -> nn.Module:
        """The module that runs a plan; its parameters are the model's own, not copies.

        Raises:
            PlanError: there is no such plan.
        """
        try:
            return self._variants[name]
        except (KeyError, TypeError):
            raise self._unknown(name) from None

    def set_plan(self, name: str) -> None:
        """Make a plan the active one: what calls that name no plan run.

        Raises:
            PlanError: there is no such plan; the active one stays.
        """
        self._modules[_ACTIVE] = self.variant(name)
        self._name = name

    def set_budget(
        self, budget: str, *, quantity: Quantity | None = None, strict: bool = False
    ) -> str:
        """Make the best plan within a budget the active one, and return its name.

        Args:
            budget: `5ms`, `3mJ`, or a share of the original's cost, `0.5x`.
            quantity: what a share is of; latency unless told.
            strict: a budget below the cheapest plan raises; else the cheapest plan is taken, with
                a warning.

        Raises:
            BudgetError: the budget is malformed, or the device does not price the quantity.
            InfeasibleError: under `strict`, no plan fits.
        """
        name = self.within(budget, quantity=quantity, strict=strict)
        self.set_plan(name)
        return name

    def within(
        self, budget: str, *, quantity: Quantity | None = None, strict: bool = False
    ) -> str:
        """The name of the best plan within a budget; as `set_budget`, and nothing is switched."""
        quantity, limit = self.limit(budget, quantity)
        costs = [(point.cost(quantity), point.name) for point in self.points]
        if any(cost != cost for cost, _ in costs):
            raise BudgetError(
                f"the device does not price {quantity}", hint="give a limit on latency"
            )
        fitting = [name for cost, name in costs if cost <= limit * (1 + 1e-9)]
        if fitting:
            return fitting[-1]
        cost, cheapest = min(costs)
        unit = _QUANTITIES[quantity][2]
        message = (
            f"no plan fits {quantity} <= {budget}; the cheapest, {cheapest}, takes "
            f"{format_quantity(cost, unit)}"
        )
        if strict:
            raise InfeasibleError(message, hint="raise the limit to that")
        _logger.warning("%s: it is taken", message)
        return cheapest

    def limit(self, budget: str, quantity: Quantity | None) -> tuple[Quantity, float]:
        """A budget in SI units, and what it limits.

        Raises:
            BudgetError: it is malformed.
        """
        text = budget.strip()
        if text.endswith("x"):
            chosen: Quantity = quantity or "latency"
            try:
                limit = float(text[:-1]) * float(self.baseline[_QUANTITIES[chosen][1]])
            except ValueError:
                limit = float("nan")
            if limit > 0:
                return chosen, limit
        else:
            for known in (quantity,) if quantity else tuple(_QUANTITIES):
                try:
                    limit = parse_quantity(text, _QUANTITIES[known][0])
                except UnitError:
                    continue
                if limit > 0:
                    return known, limit
        raise BudgetError(
            f"{budget!r} is not a budget", hint="give 5ms, 3mJ, or a share of the original: 0.5x"
        )

    def _unknown(self, name: object) -> PlanError:
        return PlanError(f"the model has no plan {name!r}", hint=f"one of {', '.join(self.plans)}")

    def forward(self, images: Tensor, *, plan: str | None = None) -> Tensor:
        """Logits of the active plan, or of the one that is named, which does not become active."""
        variant = self._modules[_ACTIVE] if plan is None else self.variant(plan)
        return cast(Tensor, cast(nn.Module, variant)(images))

    def train(self, mode: bool = True) -> DynamicModel:
        """The mode of all plans."""
        self.training = mode
        for module in self._all():
            module.train(mode)
        return self

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """The base's tensors once, then those that every plan has for itself.

        Args:
            args: none.
            options: `prefix` and `keep_vars`, as torch has them.
        """
        if args or options.keys() - {"prefix", "keep_vars"}:
            raise TypeError("state_dict takes prefix and keep_vars")
        prefix, keep = options.get("prefix", ""), options.get("keep_vars", False)
        return {
            prefix + name: tensor if keep else tensor.detach() for name, tensor in self._tensors()
        }

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> Any:
        """Copy values into all plans; names and shapes must be this model's.

        Raises:
            RuntimeError: they are not (or `strict=False`, or `assign`, which are not offered).
        """
        own = dict(self._tensors())
        if not strict or assign:
            raise RuntimeError("a dynamic model loads all of its tensors, by copying")
        wrong = [
            name
            for name in own.keys() | state_dict.keys()
            if name not in own
            or name not in state_dict
            or own[name].shape != state_dict[name].shape
        ]
        if wrong:
            raise RuntimeError(f"the state is of another dynamic model: {sorted(wrong)[0]}")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state_dict[name])
        return torch.nn.modules.module._IncompatibleKeys([], [])

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        shared = {id(tensor) for _, tensor in _named(self.base)}
        for name, tensor in _named(self.base):
            yield BASE + name, tensor
        for point in self.plans:
            for name, tensor in _named(self._variants[point]):
                if id(tensor) not in shared:
                    yield f"{PLAN}{point}.{name}", tensor

    def _all(self) -> Iterator[nn.Module]:
        yield self.base
        yield from self._variants.values()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DynamicModel:
        """Move or cast every plan; what they share stays shared."""
        done: dict[int, tuple[Tensor, Tensor]] = {}

        def once(tensor: Tensor) -> Tensor:
            if id(tensor) not in done:
                done[id(tensor)] = tensor, fn(tensor)
            return done[id(tensor)][1]

        for module in self._all():
            module._apply(once)  # type: ignore[no-untyped-call]
        return self


def variant_of(base: nn.Module, plan: Plan | str) -> nn.Module:
    """A module that runs a plan on an original's own parameters; the original stays as it is.

    Raises:
        PlanError: the model cannot run it.
    """
    memo = {id(tensor): tensor for _, tensor in _named(base)}
    return apply_plan(deepcopy(base, memo), plan, keep_originals=False)


def with_tensors(variant: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Give a variant tensors of its own in the place of those it shares, and return it.

    They take the type of what they replace.

    Raises:
        PlanError: it has no tensor of a name, or of another shape; it is then as it was.
    """
    own = dict(_named(variant))
    for name, value in tensors.items():
        if name not in own or own[name].shape != value.shape:
            raise PlanError(
                f"the plan has no tensor {name} of shape {tuple(value.shape)}",
                hint="its tensors are of another plan or model",
            )
    for name, value in tensors.items():
        path, _, leaf = name.rpartition(".")
        module, old = variant.get_submodule(path), own[name]
        value = value.to(device=old.device, dtype=old.dtype, copy=True)
        if leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(value, requires_grad=old.requires_grad)
        else:
            module._buffers[leaf] = value
    return variant


def own_tensors(base: nn.Module, plan: Plan | str, variant: nn.Module) -> dict[str, Tensor]:
    """What a variant has that applying its plan to the base does not give, by name.

    Raises:
        PlanError: the variant does not run this plan of this base.
    """
    made, own = dict(_named(variant_of(base, plan))), dict(_named(variant))
    if {n: t.shape for n, t in made.items()} != {n: t.shape for n, t in own.items()}:
        raise PlanError(
            f'the variant of "{plan}" is of another model', hint="give variants of one original"
        )
    return {
        name: tensor.detach()
        for name, tensor in own.items()
        if not torch.equal(tensor.detach().cpu(), made[name].detach().cpu())
    }


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a state dict holds, as the model's own objects."""
    yield from model.state_dict(keep_vars=True).items()
