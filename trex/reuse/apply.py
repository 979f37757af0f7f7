"""Turning a model and a plan into a running variant, and back.

The encoders' `nn.Sequential` is replaced by `PlanSequential`, which hands a state from block to
block through its own forward: no hooks and nothing kept between calls, so deep copies,
compilation, autocast and exports see an ordinary module. Where the model's own forward calls its
encoders one by one, as those of a `nn.ModuleList`, `PlanList` is put: the state goes through that
loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trex.errors import ReuseError
from trex.models.adapter import ALONE, Adapter, Consumer, PlannedEncoders
from trex.models.registry import adapter_of
from trex.plan import Plan
from trex.reuse.route import Passed, Route, State, encode
from trex.reuse.transforms import consumer_of


class _Originals:
    """The encoders that consumers replaced, hidden from `state_dict` and parameters."""

    def __init__(self, blocks: dict[int, nn.Module]) -> None:
        self.blocks = blocks


class PlanSequential(PlannedEncoders):
    """A container of encoders that run a plan.

    Attributes:
        route: the whole model's.
        first: the index of the container's first encoder in the model.
        adapter: of the model's family.
        checkpointing: whether encoders are computed again in the backward pass.
    """

    def __init__(
        self,
        blocks: list[nn.Module],
        *,
        first: int,
        route: Route,
        adapter: Adapter,
        originals: dict[int, nn.Module] | None,
    ) -> None:
        super().__init__(*blocks)
        self.first = first
        self.route = route
        self.adapter = adapter
        self.checkpointing = False
        self._originals = None if originals is None else _Originals(originals)

    def forward(self, stream: Tensor) -> Tensor:
        """From the first encoder's input to the last one's output."""
        steps = self.route.steps[self.first : self.first + len(self)]
        state = self.route.enter(self.adapter, stream)
        state = encode(self.adapter, list(self.children()), steps, state, run=self._run)
        return self.route.leave(state)

    def _run(self, function: Any, *args: Any) -> Passed:
        if self.checkpointing and self.training:
            return cast(Passed, checkpoint(function, *args, use_reentrant=False))
        return cast(Passed, function(*args))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            raise ReuseError(
                "a part of a variant's encoders cannot run alone",
                hint="call the whole model, or undo the plan with trex.remove_plan",
            )
        return super().__getitem__(index)


class PlanList(PlanSequential):
    """Encoders that a model calls one by one, which hand a state on."""

    def __iter__(self) -> Iterator[Any]:
        """What a model's loop calls: every encoder in its turn."""
        return iter([_Turn(self, position) for position in range(len(self))])

    def forward(
        self,
        stream: Tensor | _OnTheWay,
        position: int | None = None,
        place: Tensor | None = None,
    ) -> Any:
        """One encoder in its turn, told where the tokens are; without a position all of them."""
        if position is None:
            return super().forward(cast(Tensor, stream))
        if isinstance(stream, _OnTheWay):
            state = stream.state
        elif position == 0:
            state = self.route.enter(self.adapter, stream)
        else:
            raise ReuseError("an encoder was called without the one before it", hint=ALONE)
        step = self.route.steps[self.first + position]
        block = list(self.children())[position]
        state = state._replace(places=() if place is None else (place,))
        state = encode(self.adapter, [block], [step], state, run=self._run)
        return _OnTheWay(state) if position + 1 < len(self) else self.route.leave(state)


class _Turn:
    """One encoder of a `PlanList`: from what came of the one before to what goes to the next."""

    def __init__(self, encoders: PlanList, position: int) -> None:
        self._encoders, self._position = encoders, position

    def __call__(self, stream: Tensor | _OnTheWay, **beside: Any) -> Tensor | _OnTheWay:
        place = beside.pop(self._encoders.adapter.place_argument, None)
        if any(value is not None and value is not False for value in beside.values()):
            raise ReuseError(f"a variant's encoders take no {' and no '.join(beside)}", hint=ALONE)
        return cast("Tensor | _OnTheWay", self._encoders(stream, self._position, place))


class _OnTheWay:
    """A state between encoders, which nothing but the next one can use."""

    def __init__(self, state: State) -> None:
        self.state = state

    @classmethod
    def __torch_function__(cls, *args: Any, **kwargs: Any) -> Any:
        raise ReuseError("what is between a variant's encoders is no tensor", hint=ALONE)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ReuseError("what is between a variant's encoders is no tensor", hint=ALONE)

    def __getitem__(self, index: Any) -> Any:
        raise ReuseError("what is between a variant's encoders is no tensor", hint=ALONE)


def apply_plan(model: nn.Module, plan: Plan | str, *, keep_originals: bool = True) -> nn.Module:
    """Make `model` run `plan`, in place, and return it.

    Consumers lose the parameters they no longer use. Applying the plan a model already runs does
    nothing. Until it is fitted or trained, a `linear` transform is the identity.

    Args:
        model: a classification model of a family TReX knows.
        plan: what is done to it, for example `"5<-4 3~40 11=class"`.
        keep_originals: hold on to the replaced encoders so that `remove_plan` can restore them;
            they are in no `state_dict` and no parameter list, but take memory.

    Raises:
        ModelError: some part of the model is not understood.
        PlanError: the plan does not fit the model; it is then as it was.
        ReuseError: the model already runs another plan.
    """
    plan = Plan.parse(plan) if isinstance(plan, str) else plan
    if (current := plan_of(model)) is not None:
        if current == plan:
            return model
        raise ReuseError(
            f"the model already runs a plan ({current})", hint="call trex.remove_plan first"
        )
    adapter = adapter_of(model)
    route = Route.of(plan, adapter.layout(model))
    if plan == Plan():
        return model
    replaced = [
        (name, _planned(model.get_submodule(name), first, route, adapter, keep_originals))
        for name, first in _containers(model, adapter)
    ]
    checkpointing = any(switch.grad_checkpointing for switch in _checkpoint_switches(model))
    for name, blocks in replaced:
        blocks.train(model.training)
        _set_submodule(model, name, blocks)
    if checkpointing:
        set_grad_checkpointing(model, True)
    return model


def apply_reuse(
    model: nn.Module,
    plan: Plan | str,
    transforms: str | Mapping[int, str] = "linear",
    *,
    keep_originals: bool = True,
) -> nn.Module:
    """The short way for reuse: `apply_plan`, with transforms given beside the plan.

    Args:
        model: as in `apply_plan`.
        plan: who reuses whom; transforms it names are replaced.
        transforms: one name for all consumers, or one for each.
        keep_originals: as in `apply_plan`.

    Raises:
        ModelError: as `apply_plan`.
        PlanError: as `apply_plan`; or the transforms do not fit the plan.
        ReuseError: as `apply_plan`.
    """
    plan = Plan.parse(plan) if isinstance(plan, str) else plan
    return apply_plan(model, plan.with_transforms(transforms), keep_originals=keep_originals)


def remove_plan(model: nn.Module) -> nn.Module:
    """Restore the original encoders, in place, and return the model.

    Consumers get back the queries, keys, values and projection they had when the plan was applied;
    everything else, their MLPs too, keeps the weights it has now. A model without a plan is left
    as it is.

    Raises:
        ReuseError: the originals were not kept.
    """
    containers = planned_containers(model)
    if any(blocks._originals is None for _, blocks in containers):
        raise ReuseError(
            "the original encoders were not kept",
            hint="apply the plan with keep_originals=True, or load the original model anew",
        )
    for name, blocks in containers:
        originals = cast(_Originals, blocks._originals).blocks
        like = next(model.parameters())
        restored = [
            originals[i].to(device=like.device, dtype=like.dtype) if i in originals else block
            for i, block in enumerate(blocks.children())
        ]
        for block in restored:
            _let_run_alone(block)
        listed = isinstance(blocks, PlanList) and not blocks.adapter.one_by_one
        plain = nn.ModuleList(restored) if listed else nn.Sequential(*restored)
        plain.train(model.training)
        _set_submodule(model, name, plain)
        if blocks.checkpointing:
            for switch in _checkpoint_switches(model):
                switch.grad_checkpointing = True
    return model


#: The name beside `apply_reuse`.
remove_reuse = remove_plan


def plan_of(model: nn.Module) -> Plan | None:
    """The plan a model runs, or None for an original."""
    containers = planned_containers(model)
    return containers[0][1].route.plan if containers else None


def route_of(model: nn.Module, adapter: Adapter) -> Route:
    """The route of the plan a model runs; an original's does nothing."""
    containers = planned_containers(model)
    return containers[0][1].route if containers else Route.of(Plan(), adapter.layout(model))


def planned_containers(model: nn.Module) -> list[tuple[str, PlanSequential]]:
    """The containers that run a plan, with their names."""
    return [(n, m) for n, m in model.named_modules() if isinstance(m, PlanSequential)]


def consumers_of(model: nn.Module) -> dict[int, Consumer]:
    """The model's consumers by encoder index."""
    return {
        blocks.first + position: block
        for _, blocks in planned_containers(model)
        for position, block in enumerate(blocks.children())
        if isinstance(block, Consumer)
    }


def set_grad_checkpointing(model: nn.Module, enable: bool = True) -> None:
    """Gradient checkpointing for a variant: encoder by encoder, the state passed on.

    timm's own switch is turned off: it calls encoders one by one, which consumers refuse.
    """
    for _, blocks in planned_containers(model):
        blocks.checkpointing = enable
    for switch in _checkpoint_switches(model):
        switch.grad_checkpointing = False


def _checkpoint_switches(model: nn.Module) -> list[Any]:
    """What carries timm's switch: the model, or each of its stages."""
    return [module for module in model.modules() if hasattr(module, "grad_checkpointing")]


def _containers(model: nn.Module, adapter: Adapter) -> list[tuple[str, int]]:
    named, first = [], 0
    for name in adapter.containers(model):
        named.append((name, first))
        first += len(cast(Any, model.get_submodule(name)))
    return named


def _planned(
    blocks: nn.Module, first: int, route: Route, adapter: Adapter, keep_originals: bool
) -> PlanSequential:
    """The container that runs its part of a plan."""
    made: list[nn.Module] = []
    originals: dict[int, nn.Module] = {}
    for position, block in enumerate(cast(nn.Sequential, blocks)):
        here = route.plan.at(first + position)
        if here.reuse is None:
            made.append(block)
            if route.plan.merges or route.plan.rows:
                # A consumer refuses to run alone; an encoder that merges would forget to.
                block.register_forward_pre_hook(_refuse_alone)
        else:
            made.append(consumer_of(block, here, route.layout, adapter))
            originals[position] = block
    listed = isinstance(blocks, nn.ModuleList)
    kind = PlanList if listed or adapter.one_by_one else PlanSequential
    return kind(
        made,
        first=first,
        route=route,
        adapter=adapter,
        originals=originals if keep_originals else None,
    )


def _refuse_alone(block: nn.Module, inputs: Any) -> None:
    """A hook on encoders that only the executor may run, which never calls them whole."""
    raise ReuseError(
        "an encoder of a plan that merges tokens or leaves rows out was called alone", hint=ALONE
    )


def _let_run_alone(block: nn.Module) -> None:
    for number, hook in list(block._forward_pre_hooks.items()):
        if hook is _refuse_alone:
            del block._forward_pre_hooks[number]


def _set_submodule(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
