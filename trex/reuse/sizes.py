"""How many parameters plans leave, counted on the consumers themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from trex.models.registry import adapter_of
from trex.plan import EncoderPlan, Form, Reuse
from trex.reuse.route import encoders_of
from trex.reuse.transforms import consumer_of


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
    layout, rows = adapter.layout(model), []
    for _, block in encoders_of(model, adapter):
        row = [_count(block)]
        for form in forms:
            here = EncoderPlan(Reuse(1, 1 if form[1] == "average" else 0, *form))
            row.append(_count(consumer_of(block, here, layout, adapter)))
        rows.append(row)
    by_form = np.array(rows, dtype=np.int64)
    return ParameterTable(fixed=_count(model) - int(by_form[:, 0].sum()), by_form=by_form)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
