"""How many of the bits that a model feeds to a chip's arrays are ones, measured on images.

Values become integers as in `trex.noise`: one step for a whole tensor, such that its
greatest magnitude on these images is the greatest integer; tensors that are never negative
(softmax) use all codes. Negative integers are fed in two's complement. That is how NeuroSim's
traces feed them, from whose figures the component chips are made, and it fits the arrays that are
priced: one column a slice of a weight, so no pair of columns to subtract, and a pass for every
input bit, the sign's too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trex.architecture import Architecture
from trex.errors import DataError
from trex.models.adapter import Adapter, Products
from trex.noise.calibrate import Extremes, signed_scale
from trex.noise.coding import InputCode
from trex.noise.physics import Encoding
from trex.plan import Plan
from trex.reuse.route import Route, encoders_of, run_model

#: Two's complement, in the words of `trex.noise`.
PRICED_ENCODING: Final[Encoding] = "offset"


def measure_densities(
    model: nn.Module,
    adapter: Adapter,
    batches: Iterable[Tensor],
    *,
    input_bits: int,
    dynamic_input_bits: int | None = None,
    encoding: Encoding = PRICED_ENCODING,
) -> dict[str, NDArray[np.float64]]:
    """Share of ones in each bit-plane, least significant first, by `Operation.name`.

    Q, K, V, the projection, the MLP's layers, stem and head by what enters their modules; scores
    by the queries, which stream through Kᵀ; context by the attention probabilities, which stream
    through V. An operation whose input cannot be seen is left out: the two products of a family
    whose attention has no way to replace them. A convolution's pixels count
    once each: in how many windows they lie, and the padding's zeros, are not weighed.

    Two passes over the images, first for the steps, then for the bits; memory does not grow with
    their number. Model and images stay as they are.

    Args:
        model: the original, without reuse.
        adapter: of its family.
        batches: images (B, C, H, W); a list, or whatever can be gone through twice.
        input_bits: of the array that holds weights.
        dynamic_input_bits: of the array that holds Kᵀ and V; the same by default.
        encoding: `differential` counts the bits of magnitudes instead, the sign's as zeros.

    Raises:
        DataError: there is no image, or an activation is not finite.
    """
    if iter(batches) is batches:
        raise ValueError("batches must be iterable twice: a list, not a generator")
    architecture = adapter.architecture(model, type(model).__name__)
    watched = {
        op.name: _Inputs(
            (dynamic_input_bits or input_bits) if op.kind == "dynamic_matmul" else input_bits,
            encoding,
        )
        for op in architecture.operations
        if op.macs
    }
    with torch.no_grad(), _evaluating(model), _watching(model, adapter, architecture, watched):
        if not _run(model, adapter, batches):
            raise DataError("there is no image to measure on", hint="give more images")
        for inputs in watched.values():
            inputs.settle()
        _run(model, adapter, batches)
    return {name: inputs.densities() for name, inputs in watched.items() if inputs.n_values}


class _Inputs:
    """What enters one operation: in the first pass its extremes, then how often each code."""

    def __init__(self, bits: int, encoding: Encoding) -> None:
        self._bits, self._encoding = bits, encoding
        self._extremes = Extremes()
        self._code: InputCode | None = None
        self._counts = torch.zeros(1 << bits, dtype=torch.int64)

    @property
    def n_values(self) -> int:
        """How many values were counted."""
        return int(self._counts.sum())

    def see(self, values: Tensor) -> None:
        """One batch's values, of any shape."""
        if self._code is None:
            self._extremes.see(values)
            return
        step = self._step.to(values.device)
        integers = (values.float() / step).round_().clamp_(*self._code.limits)
        index = self._code.table_index(integers).flatten()
        self._counts += torch.bincount(index, minlength=len(self._counts)).cpu()

    def settle(self) -> None:
        """End the first pass."""
        signed = bool(self._extremes.least < 0)
        self._code = InputCode(self._bits, signed, self._encoding)
        self._step = signed_scale(self._extremes.magnitude, self._code.limits[1])

    def densities(self) -> NDArray[np.float64]:
        """The share of ones in each plane, (bits,)."""
        codes = np.arange(1 << self._bits)
        ones = (codes >> np.arange(self._bits)[:, None]) & 1
        shares: NDArray[np.float64] = ones @ self._counts.numpy() / self.n_values
        return shares


class _WatchedProducts(Products):
    """An attention's products, the streaming operand of each shown to who watches."""

    def __init__(self, inner: Products, queries: _Inputs, maps: _Inputs) -> None:
        super().__init__()
        self._inner, self._queries, self._maps = inner, queries, maps

    def scores(self, query_BHNE: Tensor, key_BHNE: Tensor) -> Tensor:
        """QKᵀ of queries that are scaled already, (B, H, N, N)."""
        self._queries.see(query_BHNE)
        return self._inner.scores(query_BHNE, key_BHNE)

    def context(self, map_BHNN: Tensor, value_BHNE: Tensor) -> Tensor:
        """The attention probabilities' mean of the values, (B, H, N, E)."""
        self._maps.see(map_BHNN)
        return self._inner.context(map_BHNN, value_BHNE)


def _run(model: nn.Module, adapter: Adapter, batches: Iterable[Tensor]) -> int:
    """The executor's steps, which ask an attention for its `products`; the number of images."""
    route = Route.of(Plan(), adapter.layout(model))
    n_images = 0
    for images in batches:
        run_model(model, adapter, route, images)
        n_images += len(images)
    return n_images


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The whole model in evaluation mode, every part as it was at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _watching(
    model: nn.Module, adapter: Adapter, architecture: Architecture, watched: dict[str, _Inputs]
) -> Iterator[None]:
    """Show inputs to `watched` through hooks and stand-ins, all gone at the end."""
    with ExitStack() as cleanup:
        for name, module in _modules(model, adapter, architecture):
            hook = module.register_forward_pre_hook(_showing(watched[name]))
            cleanup.callback(hook.remove)
        for encoder, (_, block) in zip(
            architecture.encoders, encoders_of(model, adapter), strict=True
        ):
            at = adapter.products(block)
            if at is not None:
                by_part = {op.part: watched[op.name] for op in encoder.operations if op.macs}
                attention = block.get_submodule(at.path)
                watch = _watched_products(attention, by_part["scores"], by_part["context"])
                cleanup.enter_context(watch)
        yield


def _modules(
    model: nn.Module, adapter: Adapter, architecture: Architecture
) -> Iterator[tuple[str, nn.Module]]:
    """What multiplies by weights: an operation's name, and the module that computes it."""
    named = dict(model.named_modules())
    encoders = {op.name for encoder in architecture.encoders for op in encoder.operations}
    for op in architecture.operations:
        if op.kind == "static_matmul" and op.name not in encoders and op.name in named:
            yield op.name, named[op.name]
    for encoder, (_, block) in zip(
        architecture.encoders, encoders_of(model, adapter), strict=True
    ):
        paths: dict[str, list[str]] = {}
        for linear in adapter.linears(block):
            for part in linear.parts:
                paths.setdefault(part, []).append(linear.path)
        for op in encoder.operations:
            if op.kind == "static_matmul":
                yield op.name, block.get_submodule(paths[op.part].pop(0))


@contextmanager
def _watched_products(attention: nn.Module, queries: _Inputs, maps: _Inputs) -> Iterator[None]:
    own: Products | None = getattr(attention, "products", None)
    attention.products = _WatchedProducts(own or Products(), queries, maps)
    try:
        yield
    finally:
        if own is None:
            del attention.products
        else:
            attention.products = own


def _showing(inputs: _Inputs) -> Any:
    def show(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs.see(arguments[0])

    return show
