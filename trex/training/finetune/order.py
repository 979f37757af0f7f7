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

    Extra images are numbered behind the others. Either each of them is shown once an epoch too, or
    so many that they are a given share of it: then one epoch goes on where the last one stopped.

    Attributes:
        n_images: of the training images.
        n_extra: of the extra ones.
        extra_share: of an epoch's images; None shows every extra image once an epoch.
        batch_size: images of a step, over all processes.
        epochs: all of them.
        seed: of the shuffles.
        views: how many there are of an image; None never shows one twice.
    """

    n_images: int
    n_extra: int = 0
    extra_share: float | None = None
    batch_size: int
    epochs: int
    seed: int
    views: int | None

    @classmethod
    def of_recipe(
        cls, recipe: Recipe, n_images: int, seed: int, world: int, n_extra: int = 0
    ) -> Order:
        """A recipe's order; a batch is at most all images of an epoch.

        Raises:
            RecipeError: the batch cannot be shared equally by the processes.
        """
        shown = n_images + extra_an_epoch(n_images, n_extra, recipe.extra_share)
        batch = min(recipe.batch_size, shown - shown % world)
        if batch % world or not batch:
            raise RecipeError(
                f"a batch of {batch} images cannot be shared by {world} processes",
                hint="choose a batch_size that the number of processes divides",
            )
        return cls(
            n_images=n_images,
            n_extra=n_extra,
            extra_share=recipe.extra_share,
            batch_size=batch,
            epochs=recipe.epochs,
            seed=seed,
            views=recipe.teacher.views if recipe.teacher.mode == "cached" else None,
        )

    @property
    def total_images(self) -> int:
        """With the extra ones."""
        return self.n_images + self.n_extra

    @property
    def extra_per_epoch(self) -> int:
        """Extra images that an epoch shows."""
        return extra_an_epoch(self.n_images, self.n_extra, self.extra_share)

    @property
    def steps_per_epoch(self) -> int:
        """At least one."""
        return (self.n_images + self.extra_per_epoch) // self.batch_size

    @property
    def steps(self) -> int:
        """Of all epochs."""
        return self.steps_per_epoch * self.epochs

    def epoch(self, number: int) -> list[Key]:
        """An epoch's views in order."""
        keys = [Key(image, self._view(number)) for image in range(self.n_images)]
        first = number * self.extra_per_epoch
        last = first + self.extra_per_epoch
        if first < last:
            for lap in range(first // self.n_extra, (last - 1) // self.n_extra + 1):
                start = lap * self.n_extra
                shuffled = np.random.default_rng((self.seed, lap, 1)).permutation(self.n_extra)
                shown = shuffled[max(first - start, 0) : last - start].tolist()
                keys += [Key(self.n_images + image, self._view(lap)) for image in shown]
        order = np.random.default_rng((self.seed, number)).permutation(len(keys))
        return [keys[place] for place in order.tolist()]

    def _view(self, number: int) -> int:
        return number if self.views is None else number % self.views

    def steps_from(self, first: int) -> Iterator[list[Key]]:
        """The views of each step, from `first` to the last."""
        for epoch in range(first // self.steps_per_epoch, self.epochs):
            keys = self.epoch(epoch)
            start = (
                first - epoch * self.steps_per_epoch if epoch * self.steps_per_epoch < first else 0
            )
            for step in range(start, self.steps_per_epoch):
                yield keys[step * self.batch_size : (step + 1) * self.batch_size]


def extra_an_epoch(n_images: int, n_extra: int, share: float | None) -> int:
    """Extra images beside every `n_images` others: all `n_extra`, or the share's number."""
    if share is None or not n_extra:
        return n_extra
    return max(1, round(n_images * share / (1 - share)))


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
