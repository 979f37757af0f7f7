"""Models of every way to attend and to merge, as `torch.compile` and `torch.export` see them.

Tracing takes seconds, so each kind is traced with the plan that asks most of it, ViTs with all.
"""

from __future__ import annotations

import pytest
import torch
from tiny_models import KINDS, logits_of

from trex.reuse import apply_plan, apply_reuse

REUSE = "2<-1 3<-1:map 5<-4:map"
#: a producer and two consumers merge; what is kept of encoder 1 passes through two merges
JOINT = "2<-1 3<-1:map 5<-1 0~1 2~1"


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("vit", REUSE),
        ("vit", JOINT),
        ("vit", KINDS["vit"].mixed),
        ("distilled", KINDS["distilled"].mixed),
        ("layer scale", JOINT),
        ("attention pool", KINDS["attention pool"].mixed),
        ("lvvit", JOINT),
        ("lvvit", KINDS["lvvit"].mixed),
        ("rotary by head", KINDS["rotary by head"].mixed),
        ("beit", KINDS["beit"].mixed),
    ],
)
def test_compiles_as_one_graph(name: str, plan: str) -> None:
    kind = KINDS[name]
    model, images = apply_reuse(kind.build(), plan, "linear_own"), kind.images()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(logits_of(compiled, images), logits_of(model, images))


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("lvvit", JOINT),
        ("vit", KINDS["vit"].mixed),
        ("lvvit", "1=9 2=@1 3<-1:map/mixed 3=class"),
        ("gated mlp", f"{JOINT} 5=class"),
        ("eva02", KINDS["eva02"].mixed),
        ("rotary by head", f"{JOINT} 5=class"),
        ("beit", KINDS["beit"].mixed),
        ("relative positions", KINDS["relative positions"].mixed),
        pytest.param("uniform", REUSE, marks=pytest.mark.slow),
    ],
)
def test_exports_for_any_number_of_images(name: str, plan: str) -> None:
    kind = KINDS[name]
    model = apply_plan(kind.build(), plan)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    exported = torch.export.export(model, (kind.images(2),), dynamic_shapes=(batch,)).module()
    for number in (1, 5):
        images = kind.images(number)
        torch.testing.assert_close(exported(images), logits_of(model, images))
