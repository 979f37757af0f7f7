from __future__ import annotations

import itertools

import pytest
from tiny_models import KINDS

from trex.hardware import load_chip
from trex.models.registry import adapter_of, create
from trex.plan import REUSED_TENSORS, TRANSFORMS, Plan
from trex.reuse import apply_plan, apply_reuse
from trex.reuse.sizes import parameter_table
from trex.search.costs import PlanPricer

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


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_priced_parameters_are_those_of_the_variant(kind) -> None:
    """Of every kind of rows and maps; average maps are constants, not parameters."""
    model = kind.build()
    layout = adapter_of(model).layout(model)
    forms = [("output", "linear"), ("map", "linear")]
    plans = [f"2<-1:map 3={layout.protected + 1} 4=@3"]
    if not layout.no_map_rows:
        forms += [("map", "mixed"), ("map", "average")]
        plans += ["2<-1:map/mixed 3:map/average 5<-4"]
    if not layout.no_map_rows and layout.class_tokens:
        plans += ["1<-0:map 2<-0:map/mixed 3:map/average 1=class 2=class 3=class"]
    if not layout.no_merging:
        plans += [f"{plan} 0~1" for plan in plans]
    priced = PlanPricer(
        adapter_of(model).architecture(model, "tiny"), load_chip("trex_fefet_32nm"), "full",
        forms, parameter_table(model, forms),
    ).price_plans([Plan.parse(plan) for plan in plans])  # fmt: skip
    for plan, parameters in zip(plans, priced.parameters, strict=True):
        assert parameters == count(apply_plan(kind.build(), plan, keep_originals=False)), plan


def test_no_memory_is_needed_to_count() -> None:
    table = parameter_table(create("deit_tiny_patch16_224", device="meta"), FORMS[:1])
    assert table.fixed + table.by_form[:, 0].sum() == 5_717_416
    # queries, keys and values with their biases and the first norm go
    assert (table.by_form[:, 0] - table.by_form[:, 1] == 3 * (192 * 192 + 192) + 2 * 192).all()
