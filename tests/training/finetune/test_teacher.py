"""A cached teacher says what a live one says, and survives being interrupted."""

from pathlib import Path

import pytest
import torch

from trex.models.registry import LoadedModel
from trex.training.data import ImageSet
from trex.training.finetune.network import Observed
from trex.training.finetune.recipe import Augment
from trex.training.finetune.teacher import CachedTeacher, LiveTeacher
from trex.training.finetune.views import Key, ViewSource, augmentation, collate
from trex.training.transforms import DataConfig

CPU = torch.device("cpu")


@pytest.fixture
def source(images: ImageSet, loaded: LoadedModel) -> ViewSource:
    few = images.subset(8, seed=0)
    augment = augmentation(DataConfig.of_model(loaded.model), Augment())
    return ViewSource(images=few, augment=augment, seed=0)


def cache(folder: Path, *, with_tokens: bool = True, settings: str = "a") -> CachedTeacher:
    return CachedTeacher(folder, {"of": settings}, n_images=8, views=2, with_tokens=with_tokens)


@pytest.mark.parametrize("with_tokens", [True, False])
def test_cached_is_live_in_half_precision(
    source: ViewSource, loaded: LoadedModel, tmp_path: Path, with_tokens: bool
) -> None:
    observed = Observed(loaded.model, loaded.adapter).eval()
    cached, seen = cache(tmp_path, with_tokens=with_tokens), []
    cached.fill(observed, source, CPU, seen.append)
    assert sum(seen) == 16
    cached.open()
    batch = collate([source[key] for key in (Key(5, 1), Key(0, 0), Key(5, 0))])
    live, stored = (teacher(batch, batch.images) for teacher in (LiveTeacher(observed), cached))
    assert torch.allclose(live.logits_BC, stored.logits_BC, rtol=1e-2, atol=1e-2)
    if with_tokens:
        assert torch.allclose(live.stream, stored.stream, rtol=1e-2, atol=1e-2)
    row = 10 + (37 * 48 if with_tokens else 0)
    assert cached.stored_bytes == 16 * 2 * row
    cached.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_torn_cache_is_filled_up_and_another_replaced(
    source: ViewSource, loaded: LoadedModel, tmp_path: Path
) -> None:
    observed = Observed(loaded.model, loaded.adapter).eval()
    cache(tmp_path).fill(observed, source, CPU, lambda n: None)
    file = tmp_path / "teacher.f16"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2 + 5])
    seen: list[int] = []
    cache(tmp_path).fill(observed, source, CPU, seen.append)
    assert sum(seen) == 8
    assert torch.allclose(
        torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.float16).float(),
        torch.frombuffer(bytearray(whole), dtype=torch.float16).float(),
        atol=1e-2,
    )
    cache(tmp_path, settings="b").fill(observed, source, CPU, seen.append)
    assert sum(seen) == 24
