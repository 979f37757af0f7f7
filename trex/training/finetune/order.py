"""What every step trains on: a function of the seed and the step's number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch.utils.data import DataLoader

from trex.training.finetune.processes import Processes
from trex.training.finetune.recipe import Recipe, RecipeError
from trex.training.finetune.views import Key, Views, ViewSource, collate


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """Every image once an epoch, shuffled; the last incomplete batch is left out.

    Attributes:
        n_images: of the training images.
        batch_size: images of a step, over all processes.
        epochs: all of them.
        seed: of the shuffles.
        views: how many there are of an image; None shows a new one in every epoch.
    """

    n_images: int
    batch_size: int
    epochs: int
    seed: int
    views: int | None

    @classmethod
    def of_recipe(cls, recipe: Recipe, n_images: int, seed: int, world: int) -> Order:
        """A recipe's order; a batch is at most all images.

        Raises:
            RecipeError: the batch cannot be shared equally by the processes.
        """
        batch = min(recipe.batch_size, n_images - n_images % world)
        if batch % world or not batch:
            raise RecipeError(
                f"a batch of {batch} images cannot be shared by {world} processes",
                hint="choose a batch_size that the number of processes divides",
            )
        return cls(
            n_images=n_images,
            batch_size=batch,
            epochs=recipe.epochs,
            seed=seed,
            views=recipe.teacher.views if recipe.teacher.mode == "cached" else None,
        )

    @property
    def steps_per_epoch(self) -> int:
        """At least one."""
        return self.n_images // self.batch_size

    @property
    def steps(self) -> int:
        """Of all epochs."""
        return self.steps_per_epoch * self.epochs

    def epoch(self, number: int) -> list[Key]:
        """An epoch's views in order."""
        images = np.random.default_rng((self.seed, number)).permutation(self.n_images)
        view = number if self.views is None else number % self.views
        return [Key(image, view) for image in images.tolist()]

    def steps_from(self, first: int) -> Iterator[list[Key]]:
        """The views of each step, from `first` to the last."""
        for epoch in range(first // self.steps_per_epoch, self.epochs):
            keys = self.epoch(epoch)
            start = (
                first - epoch * self.steps_per_epoch if epoch * self.steps_per_epoch < first else 0
            )
            for step in range(start, self.steps_per_epoch):
                yield keys[step * self.batch_size : (step + 1) * self.batch_size]


class _Chunks:
    """A process's share of every step, in parts small enough for one forward."""

    def __init__(self, order: Order, first: int, micro: int, processes: Processes) -> None:
        self._order, self._first, self._micro = order, first, micro
        self._processes = processes

    def __iter__(self) -> Iterator[Sequence[Key]]:
        share = self._order.batch_size // self._processes.world
        for keys in self._order.steps_from(self._first):
            own = keys[self._processes.rank * share : (self._processes.rank + 1) * share]
            for start in range(0, share, self._micro):
                yield own[start : start + self._micro]


def load_steps(
    source: ViewSource,
    order: Order,
    *,
    first: int,
    micro_batch: int,
    workers: int,
    processes: Processes,
) -> Iterator[list[Views]]:
    """The parts of each step of this process, from step `first` on."""
    loader = DataLoader(
        source,
        batch_sampler=_Chunks(order, first, micro_batch, processes),  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate,
        pin_memory=processes.device.type == "cuda",
        # a loader draws from its generator: the global one belongs to training
        generator=torch.Generator(),
    )
    parts = -(-(order.batch_size // processes.world) // micro_batch)
    batches = cast(Iterator[Views], iter(loader))
    for _ in range(first, order.steps):
        yield [next(batches) for _ in range(parts)]
