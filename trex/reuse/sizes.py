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
        own_class: what consumers have beside that for class rows of their own; None where none
            can have them.
    """

    fixed: int
    by_form: NDArray[np.int64]
    own_class: NDArray[np.int64] | None = None


def parameter_table(model: nn.Module, forms: Sequence[Form]) -> ParameterTable:
    """Count the parameters of an original's encoders in every form.

    Args:
        model: the original, which stays as it is; on the meta device too.
        forms: the (tensor, transform) pairs consumers may take.

    Raises:
        ModelError: some part of the model is not understood.
    """
    adapter = adapter_of(model)
    layout = adapter.layout(model)
    kinds = [None, *(Reuse(1, 1 if form[1] == "average" else 0, *form) for form in forms)]

    def counted(block: nn.Module, reuse: Reuse | None, class_rows: bool) -> int:
        here = EncoderPlan(reuse, class_rows=class_rows)
        made = block if reuse is None else consumer_of(block, here, layout, adapter)
        return sum(parameter.numel() for parameter in made.parameters())

    def table(class_rows: bool) -> NDArray[np.int64]:
        rows = [
            [counted(block, kind, class_rows) for kind in kinds]
            for _, block in encoders_of(model, adapter)
        ]
        return np.array(rows, dtype=np.int64)

    by_form = table(False)
    whole = sum(parameter.numel() for parameter in model.parameters())
    return ParameterTable(
        fixed=whole - int(by_form[:, 0].sum()),
        by_form=by_form,
        own_class=table(True) - by_form if layout.class_tokens else None,
    )
