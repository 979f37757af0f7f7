"""Views and orders are functions of their seeds, and of nothing else."""

import random
import shutil
from pathlib import Path

import finetune_cases as cases
import numpy as np
import pytest
import torch

from trex.errors import DataError
from trex.models.registry import LoadedModel
from trex.training.data import ImageSet
from trex.training.finetune.order import Order, load_steps
from trex.training.finetune.processes import Processes
from trex.training.finetune.recipe import Augment, RecipeError
from trex.training.finetune.views import Key, Pool, ViewSource, augmentation, drawn_from
from trex.training.transforms import DataConfig

STRONG = Augment(auto_augment="rand-m9-mstd0.5-inc1", erasing=0.5, color_jitter=0.3)
CPU = torch.device("cpu")


def source_of(images: ImageSet, loaded: LoadedModel, seed: int = 0) -> ViewSource:
    augment = augmentation(DataConfig.of_model(loaded.model), STRONG)
    return ViewSource(images=images, augment=augment, seed=seed)


def test_a_view_depends_on_seed_image_and_number_alone(
    images: ImageSet, loaded: LoadedModel
) -> None:
    source = source_of(images, loaded)
    first = source[Key(3, 1)][0]
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    assert torch.equal(source[Key(3, 1)][0], first)
    assert not torch.equal(source[Key(3, 2)][0], first)
    assert not torch.equal(source_of(images, loaded, seed=1)[Key(3, 1)][0], first)


def test_views_leave_the_global_generators_alone() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(1).item()

    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    expected = draw()
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    with drawn_from("any"):
        inside = draw()
    assert draw() == expected
    with drawn_from("any"):
        assert draw() == inside


def test_the_next_image_stands_in_for_an_unreadable_one(
    image_folder: Path, loaded: LoadedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(image_folder, folder)
    (folder / "0" / "0.png").write_bytes(b"no picture")
    source = source_of(cases.open_images(folder, loaded), loaded)
    assert torch.equal(source[Key(0, 0)][0], source[Key(1, 0)][0])
    assert "0/0.png cannot be read" in caplog.text
    strict = source_of(cases.open_images(folder, loaded, strict=True), loaded)
    with pytest.raises(DataError, match=r"0/0\.png cannot be read"):
        strict[Key(0, 0)]


ORDER = Order(n_images=10, batch_size=3, epochs=4, seed=0, views=2)


def test_every_image_at_most_once_an_epoch() -> None:
    assert (ORDER.steps_per_epoch, ORDER.steps) == (3, 12)
    steps = list(ORDER.steps_from(0))
    assert len(steps) == 12
    for epoch in range(4):
        keys = [key for step in steps[3 * epoch : 3 * epoch + 3] for key in step]
        assert len({key.image for key in keys}) == 9
        assert {key.view for key in keys} == {epoch % 2}
    assert steps[0] != steps[3]


MIXED = Order(n_images=6, n_extra=5, extra_share=0.4, batch_size=2, epochs=8, seed=0, views=None)


@pytest.mark.parametrize("order", [ORDER, MIXED])
@pytest.mark.parametrize("first", [0, 1, 3, 5, 11, 12])
def test_going_on_is_the_rest(first: int, order: Order) -> None:
    assert list(order.steps_from(first)) == list(order.steps_from(0))[first:]


def test_extra_images_go_round_at_their_own_pace() -> None:
    assert (MIXED.extra_per_epoch, MIXED.steps_per_epoch, MIXED.total_images) == (4, 5, 11)
    epochs = [MIXED.epoch(number) for number in range(8)]
    for number, keys in enumerate(epochs):
        assert sorted(key for key in keys if key.image < 6) == [(i, number) for i in range(6)]
    # in groups as the epochs show them, 32 of them: six laps of five and two more
    extra = [sorted(key for key in keys if key.image >= 6) for keys in epochs]
    laps = [sorted(key.image for keys in extra for key in keys if key.view == n) for n in range(7)]
    assert laps[:6] == [[6, 7, 8, 9, 10]] * 6
    assert len(laps[6]) == 2
    assert {key.image for key in extra[0]} != {key.image for key in extra[1]}
    assert epochs[0] != sorted(epochs[0])


def test_without_a_share_every_extra_image_is_shown_once() -> None:
    order = Order(n_images=3, n_extra=4, batch_size=2, epochs=2, seed=0, views=None)
    assert sorted(order.epoch(1)) == [(image, 1) for image in range(7)]


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_share_a_step_in_parts(
    images: ImageSet, loaded: LoadedModel, workers: int
) -> None:
    source = source_of(images, loaded)
    order = Order(n_images=len(images), batch_size=10, epochs=1, seed=0, views=None)

    def steps(world: int, rank: int) -> list[list[tuple[Key, ...]]]:
        loaded_steps = load_steps(
            source, order, first=1, micro_batch=2, workers=workers,
            processes=Processes(rank=rank, world=world, device=CPU),
        )  # fmt: skip
        return [[part.keys for part in parts] for parts in loaded_steps]

    alone, both = steps(1, 0), [steps(2, 0), steps(2, 1)]
    assert [len(parts) for parts in alone] == [5, 5, 5]
    assert [[len(part) for part in parts] for parts in both[0]] == [[2, 2, 1]] * 3
    for step, parts in enumerate(alone):
        keys = [key for part in parts for key in part]
        assert keys == [key for process in both for part in process[step] for key in part]


def test_a_batch_nobody_can_share() -> None:
    with pytest.raises(RecipeError, match="a batch of 8 images cannot be shared by 3"):
        Order.of_recipe(cases.recipe(), 100, 0, 3)
    assert Order.of_recipe(cases.recipe(), 5, 0, 2).batch_size == 4


def test_a_pool_is_its_sets_one_after_another(images: ImageSet) -> None:
    first, second = images.split((0.25, 0.75), seed=0)
    pool = Pool(first, second)
    assert len(pool) == 40
    expected = [s.name(i) for s in (first, second) for i in range(len(s))]
    assert [pool.name(i) for i in range(40)] == expected
    assert [pool.label(i) for i in (9, 10)] == [first.label(9), second.label(0)]
    assert pool.picture(10).tobytes() == second.picture(0).tobytes()
