"""Turning a model and a plan into a running variant, and back.

The encoders' `nn.Sequential` is replaced by `ReuseSequential`, which hands the producers' tensors
from block to block through its own forward: no hooks and nothing kept between calls, so deep
copies, compilation, autocast and exports see an ordinary module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trex.architecture import Transform
from trex.errors import PlanError, ReuseError
from trex.models.adapter import Adapter, Consumer
from trex.models.registry import adapter_of
from trex.plan import ReusedTensor, ReusePlan
from trex.reuse.transforms import OWN_INPUT, make_transform, transforms_of


class _Originals:
    """The encoders that consumers replaced, hidden from `state_dict` and parameters."""

    def __init__(self, blocks: dict[int, nn.Module]) -> None:
        self.blocks = blocks


class ReuseSequential(nn.Sequential):
    """A container of encoders, some of which reuse the attention of earlier ones.

    Attributes:
        plan: the whole model's plan.
        first: the index of the container's first encoder in the model.
    """

    def __init__(
        self,
        blocks: list[nn.Module],
        *,
        first: int,
        plan: ReusePlan,
        transforms: dict[int, Transform],
        adapter: Adapter,
        originals: dict[int, nn.Module] | None,
    ) -> None:
        super().__init__(*blocks)
        self.first = first
        self.plan = plan
        self.transforms = transforms
        self.adapter = adapter
        self.checkpointing = False
        self._originals = None if originals is None else _Originals(originals)
        indices = range(first, first + len(blocks))
        #: per block: its source, counted in this container, or None
        self._sources = [r.source - first if (r := plan.reuse_of(i)) else None for i in indices]
        #: per block: the tensors that later blocks reuse of it
        self._offers: list[frozenset[ReusedTensor]] = [
            frozenset(r.tensor for r in plan if r.source == i) for i in indices
        ]

    def forward(self, stream: Tensor) -> Tensor:
        """From the first encoder's input to the last one's output."""
        kept: list[dict[ReusedTensor, Tensor]] = []
        for position, block in enumerate(self):
            source = self._sources[position]
            offered: dict[ReusedTensor, Tensor] = {}
            if source is not None:
                consumer = cast(Consumer, block)
                stream = self._run(consumer, stream, kept[source][consumer.tensor])
            elif self._offers[position]:
                stream, offered = self._run(self._offer, block, stream, self._offers[position])
            else:
                stream = self._run(block, stream)
            kept.append(offered)
        return stream

    def _offer(
        self, block: nn.Module, stream: Tensor, tensors: frozenset[ReusedTensor]
    ) -> tuple[Tensor, dict[ReusedTensor, Tensor]]:
        stream = self.adapter.before(block, stream)
        output, kept = self.adapter.attend(block, stream, tensors)
        return self.adapter.after(block, self.adapter.merge(block, stream, output)), kept

    def _run(self, function: Any, *args: Any) -> Any:
        if self.checkpointing and self.training:
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            raise ReuseError(
                "a part of a reusing model's encoders cannot run alone",
                hint="call the whole model, or undo the reuse with trex.reuse.remove_reuse",
            )
        return super().__getitem__(index)


def apply_reuse(
    model: nn.Module,
    plan: ReusePlan | str,
    transforms: str | Mapping[int, str] = "linear",
    *,
    keep_originals: bool = True,
) -> nn.Module:
    """Make `model` run `plan`, in place, and return it.

    Consumers lose the parameters they no longer use. Applying the plan a model already runs does
    nothing. Until it is fitted or trained, a `linear` transform is the identity.

    Args:
        model: a classification model of a family TReX knows.
        plan: who reuses whom.
        transforms: one name for all consumers, or one for each.
        keep_originals: hold on to the replaced encoders so that `remove_reuse` can restore them;
            they are in no `state_dict` and no parameter list, but take memory.

    Raises:
        ModelError: some part of the model is not understood.
        PlanError: the plan or the transforms do not fit the model.
        ReuseError: the model already runs another plan.
    """
    plan = ReusePlan.parse(plan) if isinstance(plan, str) else plan
    chosen = transforms_of(plan, transforms)
    if (current := reuse_of(model)) is not None:
        if current == (plan, chosen):
            return model
        raise ReuseError(
            f"the model already reuses attention ({current[0]})",
            hint="call trex.reuse.remove_reuse first",
        )
    adapter = adapter_of(model)
    check_plan(plan, model, adapter)
    if not plan.reuses:
        return model
    replaced = [
        (name, _reusing(model.get_submodule(name), first, plan, chosen, adapter, keep_originals))
        for name, first in _containers(model, adapter)
    ]
    checkpointing = any(switch.grad_checkpointing for switch in _checkpoint_switches(model))
    for name, blocks in replaced:
        blocks.train(model.training)
        _set_submodule(model, name, blocks)
    if checkpointing:
        set_grad_checkpointing(model, True)
    return model


def remove_reuse(model: nn.Module) -> nn.Module:
    """Restore the original encoders, in place, and return the model.

    Consumers get back the queries, keys, values and projection they had when the plan was applied;
    everything else, their MLPs too, keeps the weights it has now. A model without reuse is left as
    it is.

    Raises:
        ReuseError: the originals were not kept.
    """
    containers = reusing_containers(model)
    if any(blocks._originals is None for _, blocks in containers):
        raise ReuseError(
            "the original encoders were not kept",
            hint="apply reuse with keep_originals=True, or load the original model anew",
        )
    for name, blocks in containers:
        originals = cast(_Originals, blocks._originals).blocks
        like = next(model.parameters())
        restored = [
            originals[i].to(device=like.device, dtype=like.dtype) if i in originals else block
            for i, block in enumerate(blocks)
        ]
        plain = nn.Sequential(*restored)
        plain.train(model.training)
        _set_submodule(model, name, plain)
        if blocks.checkpointing:
            for switch in _checkpoint_switches(model):
                switch.grad_checkpointing = True
    return model


def reuse_of(model: nn.Module) -> tuple[ReusePlan, dict[int, Transform]] | None:
    """The plan and transforms a model runs, or None for an original."""
    containers = reusing_containers(model)
    return (containers[0][1].plan, containers[0][1].transforms) if containers else None


def reusing_containers(model: nn.Module) -> list[tuple[str, ReuseSequential]]:
    """The model's reusing containers with their names."""
    return [(n, m) for n, m in model.named_modules() if isinstance(m, ReuseSequential)]


def consumers_of(model: nn.Module) -> dict[int, Consumer]:
    """The model's consumers by encoder index."""
    return {
        blocks.first + position: block
        for _, blocks in reusing_containers(model)
        for position, block in enumerate(blocks)
        if isinstance(block, Consumer)
    }


def set_grad_checkpointing(model: nn.Module, enable: bool = True) -> None:
    """Gradient checkpointing for a reusing model: encoder by encoder, reused tensors passed on.

    timm's own switch is turned off: it calls encoders one by one, which consumers refuse.
    """
    for _, blocks in reusing_containers(model):
        blocks.checkpointing = enable
    for switch in _checkpoint_switches(model):
        switch.grad_checkpointing = False


def check_plan(plan: ReusePlan, model: nn.Module, adapter: Adapter) -> None:
    """Check that `plan` fits the model: encoders exist and no reuse crosses a container.

    Raises:
        PlanError: it does not.
    """
    sizes = [len(cast(Any, model.get_submodule(n))) for n in adapter.containers(model)]
    plan.validate(sum(sizes))
    stages = [stage for stage, size in enumerate(sizes) for _ in range(size)]
    for reuse in plan:
        if stages[reuse.consumer] != stages[reuse.source]:
            raise PlanError(
                f"encoder {reuse.consumer} (stage {stages[reuse.consumer]}) cannot reuse encoder "
                f"{reuse.source} (stage {stages[reuse.source]}): their shapes differ",
                hint="choose a source of the same stage",
            )


def _checkpoint_switches(model: nn.Module) -> list[Any]:
    """What carries timm's switch: the model, or each of its stages."""
    return [module for module in model.modules() if hasattr(module, "grad_checkpointing")]


def _containers(model: nn.Module, adapter: Adapter) -> list[tuple[str, int]]:
    named, first = [], 0
    for name in adapter.containers(model):
        named.append((name, first))
        first += len(cast(Any, model.get_submodule(name)))
    return named


def _reusing(
    blocks: nn.Module,
    first: int,
    plan: ReusePlan,
    transforms: dict[int, Transform],
    adapter: Adapter,
    keep_originals: bool,
) -> ReuseSequential:
    made: list[nn.Module] = []
    originals: dict[int, nn.Module] = {}
    for position, block in enumerate(cast(nn.Sequential, blocks)):
        reuse = plan.reuse_of(first + position)
        if reuse is None:
            made.append(block)
            continue
        transform = transforms[reuse.consumer]
        made.append(
            adapter.make_consumer(
                block,
                reuse.tensor,
                make_transform(transform, adapter.projection(block)),
                own_input=transform in OWN_INPUT,
            )
        )
        originals[position] = block
    return ReuseSequential(
        made,
        first=first,
        plan=plan,
        transforms=transforms,
        adapter=adapter,
        originals=originals if keep_originals else None,
    )


def _set_submodule(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
