"""Showing some of an image's patches: to variant and original the same, class tokens always."""

import logging
from pathlib import Path
from typing import Any, cast

import finetune_cases as cases
import pytest
import torch
from tiny_models import STAGED_KINDS, TEXT_KINDS, VIT_KINDS, Kind
from torch import Tensor

from trex.models.adapter import first_tensor
from trex.models.registry import LoadedModel, adapter_of
from trex.reuse import apply_reuse
from trex.training.data import ImageSet
from trex.training.finetune import Recipe, finetune
from trex.training.finetune.network import Observed
from trex.training.finetune.processes import Processes
from trex.training.finetune.task import settled

CPU = torch.device("cpu")
ALONE = Processes(rank=0, world=1, device=CPU)
HALF = {"share": 0.5}


def drawn(patches: range, images: int, kept: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(images, len(patches), generator=generator).argsort(1)[:, :kept]


@pytest.mark.parametrize("kind", VIT_KINDS.values(), ids=VIT_KINDS)
@pytest.mark.parametrize("plan", ["", "2<-1 4<-3", "2<-1:map 4<-1:map"])
def test_all_patches_in_any_order_are_the_whole_image(kind: Kind, plan: str) -> None:
    model, images = kind.build(), kind.images()
    adapter = adapter_of(model)
    apply_reuse(model, plan)
    patches = adapter.patches(model)
    observed = Observed(model, adapter).eval()
    with torch.no_grad():
        seen = observed(images, drawn(patches, len(images), len(patches)))
        assert torch.allclose(seen.logits_BC, first_tensor(model(images)), atol=1e-4)


@pytest.mark.parametrize("kind", VIT_KINDS.values(), ids=VIT_KINDS)
def test_what_is_not_shown_is_not_there(kind: Kind) -> None:
    model, images = kind.build(), kind.images()
    adapter = adapter_of(model)
    patches = adapter.patches(model)
    shown = drawn(patches, len(images), len(patches) // 2)
    with torch.no_grad():
        seen = Observed(model, adapter).eval()(images, shown)
        tokens = adapter.stem(model, images)
        assert tokens.shape[1] == patches.stop
        for number, places in enumerate(shown.tolist()):
            own = [*range(patches.start), *(patches.start + place for place in places)]
            stream = cast(Any, model).blocks(tokens[number : number + 1, own])
            assert torch.allclose(seen.stream[number], stream[0], atol=1e-4)


def trained(
    folder: Path, images: ImageSet, loaded: LoadedModel, recipe: Recipe, **more: Any
) -> list[list[str]]:
    job = cases.job(folder, images, loaded, recipe=recipe, **more)
    finetune(job, ALONE)
    return [line.split(",") for line in (job.out / "curve.csv").read_text().splitlines()]


def test_variant_and_original_see_the_same_patches(tmp_path, images, loaded) -> None:
    """So a variant without consumers has nothing to lose: its divergence is 0 at every step."""
    recipe = cases.recipe(
        patches=HALF, losses={"kl": 1.0, "tokens": 1.0}, optimizer={"lr": 1e-12, "lr_new": 1e-12}
    )
    header, *rows = trained(tmp_path / "a", images, loaded, recipe, fitted=loaded.model)
    assert all(abs(float(row[header.index("loss")])) < 1e-6 for row in rows)


def test_every_step_shows_others_and_in_the_end_all(tmp_path, images, loaded, monkeypatch) -> None:
    seen: list[Tensor | None] = []
    forward = Observed.forward

    def watched(self: Observed, images: Tensor, shown: Tensor | None = None) -> Any:
        seen.append(shown)
        return forward(self, images, shown)

    monkeypatch.setattr(Observed, "forward", watched)
    recipe = cases.recipe(patches={"share": 0.25, "until": 0.6})
    trained(tmp_path / "a", images, loaded, recipe)
    taught, learnt = seen[0::2], seen[1::2]
    assert len(learnt) == 10
    for step, (theirs, ours) in enumerate(zip(taught, learnt, strict=True)):
        assert (ours is None) == (theirs is None) == (step >= 6)
        if ours is not None:
            assert torch.equal(ours, theirs)
            assert ours.shape == (8, 9)
            assert all(len(set(places)) == 9 for places in ours.tolist())
            assert step == 0 or not torch.equal(ours, learnt[step - 1])


@pytest.mark.parametrize("kind", {**STAGED_KINDS, **TEXT_KINDS}.values(), ids=str)
def test_families_that_cannot_say_so(kind: Kind, loaded: LoadedModel, caplog) -> None:
    model = kind.build()
    other = LoadedModel(
        name=kind.name, arguments={}, model=model, adapter=adapter_of(model),
        weights_source="random", weights_sha256="", report=None,
    )  # fmt: skip
    recipe = cases.recipe(patches=HALF)
    with caplog.at_level(logging.WARNING):
        assert settled(recipe, CPU, loaded).patches.share == 0.5
        assert not caplog.messages
        assert settled(recipe, CPU, other).patches.share == 1.0
    assert kind.name in caplog.text
    assert "all patches are shown" in caplog.text
