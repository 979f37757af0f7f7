"""Watches a forward pass and writes down what each operator does, and in which module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry

from trex.architecture import Operation
from trex.models.trace.call import (
    Call,
    Provenance,
    named_arguments,
    operator_name,
    storage_key,
    tensors_in,
)
from trex.models.trace.operators import FREE, SHAPE_ONLY
from trex.models.trace.rules import MATMUL, SCORES, is_understood, operations_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """An operation and the path of the module it belongs to."""

    module: str
    operation: Operation


@dataclass(frozen=True, kw_only=True, slots=True)
class Unknown:
    """One run of an operator no rule knows; `macs` where PyTorch's own flop counter knows it."""

    operator: str
    module: str
    values: int
    macs: int | None


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, records every operator whose result depends on `image`.

    Runs in inference mode, in which PyTorch hands over operators as the model wrote them
    (`linear`, fused attention), not the kernels one device would choose.
    """

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.records: list[Record] = []
        self.unknown: list[Unknown] = []
        self._provenance = Provenance(image)
        self._modules = [""]
        self._model = model
        self._owners = {
            storage_key(parameter): name.rpartition(".")[0]
            for name, parameter in model.named_parameters()
        }

    @property
    def module(self) -> str:
        """The path of the module that runs now."""
        return self._modules[-1]

    @contextmanager
    def following_modules(self) -> Iterator[None]:
        """Keep `module` up to date, through hooks that are gone at the end."""

        def enter(path: str) -> Any:
            return lambda *_: self._modules.append(path)

        def leave(*_: object) -> None:
            self._modules.pop()

        handles = []
        for path, module in self._model.named_modules():
            handles.append(module.register_forward_pre_hook(enter(path)))
            handles.append(module.register_forward_hook(leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not any(map(self._provenance.varies, tensors_in((args, kwargs)))):
            return func(*args, **kwargs)
        args, kwargs = tree_map(_without_data, (args, kwargs))
        operator = operator_name(func)
        if operator in SHAPE_ONLY or func.namespace == "prim":
            return func(*args, **kwargs)
        if operator not in FREE and not is_understood(operator):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        arguments = named_arguments(func, args, kwargs)
        call = Call(
            operator=operator, arguments=arguments, result=result, provenance=self._provenance
        )
        for tensor in tensors_in(result):
            self._provenance.mark_varying(tensor)
        if operator in FREE:
            self._carry(call, call.tensors)
        elif is_understood(operator):
            self._record(call)
        else:
            self._report(call, func, args, kwargs)
        return result

    def _record(self, call: Call) -> None:
        operations = operations_of(call)
        module = self._owner(call) if operations[0].kind == "static_matmul" else self.module
        for operation in operations:
            self.records.append(Record(module=module, operation=operation))
            if operation.name == MATMUL:
                self._provenance.mark_product(call.output, len(self.records) - 1)
        if [operation.kind for operation in operations] == ["softmax"]:
            self._after_softmax(call)
        elif all(o.kind == "elementwise" and not o.in_features for o in operations):
            values = call.output.numel()
            self._carry(call, (t for t in call.tensors if t.numel() == values))

    def _after_softmax(self, call: Call) -> None:
        """What went into a softmax were attention scores; what came out weighs the values."""
        for source in call.tensors:
            for index in self._provenance.products(source):
                record = self.records[index]
                scores = replace(record.operation, name=SCORES, part=SCORES)
                self.records[index] = replace(record, operation=scores)
        self._provenance.mark_probabilities(call.output)

    def _carry(self, call: Call, sources: Iterable[Tensor]) -> None:
        targets = list(tensors_in(call.result))
        for source in sources:
            for target in targets:
                self._provenance.carry(source, target)

    def _owner(self, call: Call) -> str:
        """The module below this one whose weight the call uses (`F.linear(x, self.q.weight)`)."""
        below = f"{self.module}." if self.module else ""
        for tensor in call.tensors:
            owner = self._owners.get(storage_key(tensor))
            if owner is not None and owner.startswith(below):
                return owner
        return self.module

    def _report(
        self,
        call: Call,
        func: torch._ops.OpOverload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        formula = flop_registry.get(func.overloadpacket)
        macs = formula(*args, **kwargs, out_val=call.result) // 2 if formula else None
        values = sum(tensor.numel() for tensor in tensors_in(call.result))
        self.unknown.append(
            Unknown(operator=call.operator, module=self.module, values=values, macs=macs)
        )


def _without_data(value: object) -> object:
    """Constants that a model keeps or makes with values, beside an image that has none."""
    if isinstance(value, Tensor) and not value.is_meta:
        return value.to("meta")
    return value
