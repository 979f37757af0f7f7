from __future__ import annotations

import itertools

import pytest
from tiny_models import KINDS

from trex.models.registry import create
from trex.plan import REUSED_TENSORS, TRANSFORMS, Plan
from trex.reuse import apply_reuse
from trex.reuse.sizes import parameter_table

FORMS = list(itertools.product(REUSED_TENSORS, TRANSFORMS))


def count(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_plans_parameters_add_up_to_the_variants(kind) -> None:
    table = parameter_table(kind.build(), FORMS)
    assert table.fixed + table.by_form[:, 0].sum() == count(kind.build())
    # every form once, some side by side
    for first, second in zip(FORMS, [*FORMS[3:], *FORMS[:3]], strict=True):
        forms = {1: first, 4: second}
        plan = Plan.parse(" ".join(f"{i}<-{i - 1}:{form[0]}" for i, form in forms.items()))
        variant = apply_reuse(
            kind.build(), plan, {i: form[1] for i, form in forms.items()}, keep_originals=False
        )
        rows = [FORMS.index(forms[i]) + 1 if i in forms else 0 for i in range(len(table.by_form))]
        expected = sum(table.by_form[i, number] for i, number in enumerate(rows))
        assert table.fixed + expected == count(variant), forms


def test_no_memory_is_needed_to_count() -> None:
    table = parameter_table(create("deit_tiny_patch16_224", device="meta"), FORMS[:1])
    assert table.fixed + table.by_form[:, 0].sum() == 5_717_416
    # queries, keys and values with their biases and the first norm go
    assert (table.by_form[:, 0] - table.by_form[:, 1] == 3 * (192 * 192 + 192) + 2 * 192).all()
