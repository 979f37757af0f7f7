"""One operator as the forward pass ran it, and where its tensors come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


class Provenance:
    """What is known of every tensor's origin, by its storage, so that views share it.

    A tensor `varies` where it depends on the image; all others (weights, and what is computed
    from weights alone) are constants, which a deployed model computes once.
    """

    def __init__(self, image: Tensor) -> None:
        self._alive: list[Tensor] = []
        self._varying: set[int] = set()
        self._probabilities: set[int] = set()
        self._products: dict[int, frozenset[int]] = {}
        self.mark_varying(image)

    def varies(self, value: object) -> bool:
        """Whether `value` is a tensor that depends on the image."""
        return isinstance(value, Tensor) and storage_key(value) in self._varying

    def is_probabilities(self, tensor: Tensor) -> bool:
        """Whether a softmax put these values out, possibly moved or scaled since."""
        return storage_key(tensor) in self._probabilities

    def products(self, tensor: Tensor) -> frozenset[int]:
        """The records of the matrix products these values are sums or multiples of."""
        return self._products.get(storage_key(tensor), frozenset())

    def mark_varying(self, tensor: Tensor) -> None:
        """From now on `tensor` and its views depend on the image.

        The tensor is kept, since a freed storage's key may return for another one.
        """
        self._alive.append(tensor)
        self._varying.add(storage_key(tensor))

    def mark_probabilities(self, tensor: Tensor) -> None:
        """A softmax put `tensor` out."""
        self._probabilities.add(storage_key(tensor))

    def mark_product(self, tensor: Tensor, record: int) -> None:
        """The matrix product of that record put `tensor` out."""
        self._products[storage_key(tensor)] = frozenset({record})

    def carry(self, source: Tensor, target: Tensor) -> None:
        """`target` is `source` moved or changed value by value: it keeps what is known of it."""
        if self.is_probabilities(source):
            self.mark_probabilities(target)
        if products := self.products(source):
            self._products[storage_key(target)] = self.products(target) | products


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """An operator (`convolution`), its arguments by the names of its schema, and its result."""

    operator: str
    arguments: Mapping[str, Any]
    result: Any
    provenance: Provenance

    def varies(self, argument: str) -> bool:
        """Whether that argument is a tensor that depends on the image."""
        return self.provenance.varies(self.arguments.get(argument))

    @property
    def tensors(self) -> Iterator[Tensor]:
        """Every tensor among the arguments, in lists too."""
        return tensors_in(self.arguments)

    @property
    def output(self) -> Tensor:
        """The first tensor of the result."""
        return next(tensors_in(self.result))


def storage_key(tensor: Tensor) -> int:
    """What names a tensor's storage while the tensor lives."""
    return int(tensor.untyped_storage()._cdata)


def tensors_in(value: object) -> Iterator[Tensor]:
    """Every tensor in nested lists, tuples and dictionaries."""
    return (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def operator_name(operator: torch._ops.OpOverload) -> str:
    """`relu` for `aten.relu_.default`; operators of other libraries keep their prefix."""
    namespace, _, name = operator._schema.name.partition("::")
    name = name.removesuffix("_")
    return name if namespace == "aten" else f"{namespace}.{name}"


def named_arguments(
    operator: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments by the names of the operator's schema, left-out ones at their defaults."""
    schema = operator._schema.arguments
    named = {argument.name: argument.default_value for argument in schema}
    named.update(zip(named, args, strict=False))
    named.update(kwargs)
    return named
