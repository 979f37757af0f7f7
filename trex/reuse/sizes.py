"""How many parameters plans leave, counted on the consumers themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from trex.hardware import Form
from trex.models.registry import adapter_of
from trex.reuse.transforms import OWN_INPUT, make_transform


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterTable:
    """Parameters of a model's parts; a plan's are their sum.

    Attributes:
        fixed: all outside the encoders.
        by_form: (encoders, 1 + forms): each encoder as a producer, then as a consumer of a form.
    """

    fixed: int
    by_form: NDArray[np.int64]


def parameter_table(model: nn.Module, forms: Sequence[Form]) -> ParameterTable:
    """Count the parameters of an original's encoders in every form.

    Args:
        model: the original, which stays as it is; on the meta device too.
        forms: the (tensor, transform) pairs consumers may take.

    Raises:
        ModelError: some part of the model is not understood.
    """
    adapter = adapter_of(model)
    blocks = [
        block
        for name in adapter.containers(model)
        for block in cast(nn.Sequential, model.get_submodule(name))
    ]
    rows = []
    for block in blocks:
        row = [_count(block)]
        for tensor, transform in forms:
            fresh = make_transform(transform, adapter.projection(block))
            own_input = transform in OWN_INPUT
            row.append(_count(adapter.make_consumer(block, tensor, fresh, own_input=own_input)))
        rows.append(row)
    by_form = np.array(rows, dtype=np.int64)
    return ParameterTable(fixed=_count(model) - int(by_form[:, 0].sum()), by_form=by_form)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
