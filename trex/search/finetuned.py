"""The last rungs: the best candidates trained for a short while, by successive halving.

Every rung trains fewer candidates, each on more images, with the loop of `trex.training.finetune`.
A rung begins anew from what was fitted (or refined), with a learning rate that falls to its end:
so what it finds depends on no earlier rung, and any machine can do it. Training is on the images
that were fitted on, measuring on those that candidates are compared on.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from trex.search.context import SearchContext
from trex.search.refined import fitted_variant, refined_variant
from trex.search.rungs import measure_rung, measured_selection
from trex.store.ranking import finetuned_rung
from trex.store.record import Measured, Record
from trex.training.finetune.loop import Trainer
from trex.training.finetune.order import Order
from trex.training.finetune.processes import Processes
from trex.training.finetune.recipe import Recipe, Schedule, Selection, TeacherUse
from trex.training.finetune.task import Task, as_teacher
from trex.training.finetune.teacher import LiveTeacher
from trex.training.finetune.views import ViewSource, augmentation


@dataclass(frozen=True, kw_only=True)
class FinetuneRung:
    """One rung of short trainings.

    Attributes:
        context: of the search.
        number: of the rung, from 1.
    """

    context: SearchContext
    number: int

    @property
    def name(self) -> str:
        """In records."""
        return finetuned_rung(self.number)

    @property
    def last(self) -> bool:
        """Whether the winner comes from here."""
        return self.number == len(self.context.problem.settings.finetuning.images)

    @cached_property
    def order(self) -> Order:
        """What is trained on; images of the rung at most, in epochs of equal length."""
        settings = self.context.problem.settings
        wanted, most = settings.finetuning.images[self.number - 1], len(self.context.parts.fit)
        epochs = -(-wanted // most)
        recipe = self._recipe(epochs)
        return Order.of_recipe(recipe, wanted // epochs, settings.seed, world=1)

    def images(self, record: Record) -> int:
        """That a record's candidate is trained on, each view counted; none without reuse."""
        return self.order.steps * self.order.batch_size if record.plan else 0

    def measure(self, records: Sequence[Record]) -> None:
        """Train recorded candidates, measure and record them."""
        measure_rung(
            self.context,
            records,
            rung=self.name,
            part=self.context.problem.settings.finetuning.parts[self.number - 1],
            images=self.images,
            measure=self._measure,
        )

    def variant(self, record: Record) -> nn.Module:
        """A record's candidate with its trained weights; trained again where they are not here."""
        state = self.context.run.usable_parameters(self._weights(record))
        if state is None:
            return self._train(record)
        variant = fitted_variant(self.context, record)
        variant.load_state_dict(state)
        return variant

    def clear(self, records: Sequence[Record]) -> None:
        """Give the disk space back that the rung's trained weights took."""
        for record in records:
            self.context.run.remove_parameters(self._weights(record))

    def _measure(self, record: Record) -> Measured:
        variant = self._train(record)
        measured = measured_selection(self.context, variant)
        if self.last:
            self.context.run.write_parameters(self._weights(record), variant.state_dict())
        shutil.rmtree(self._folder(record), ignore_errors=True)
        epochs = self.order.epochs if record.plan else 0
        return measured.model_copy(update={"start": _start(record), "epochs": epochs})

    def _train(self, record: Record) -> nn.Module:
        context = self.context
        problem, order = context.problem, self.order
        recipe = self._recipe(order.epochs)
        loaded, seed = problem.loaded, problem.settings.seed
        start = refined_variant if _start(record) == "refined" else fitted_variant
        variant = start(context, record)
        if not record.plan:  # the original has lost nothing to win back
            return variant
        teacher = None
        if recipe.losses.distils:
            teacher = LiveTeacher(as_teacher(loaded, variant, recipe))
        folder = self._folder(record)
        folder.mkdir(parents=True, exist_ok=True)
        task = Task(
            variant=variant,
            adapter=loaded.adapter,
            recipe=recipe,
            source=ViewSource(
                images=context.parts.fit.subset(order.n_images, seed),
                augment=augmentation(problem.data_config, recipe.augment),
                seed=seed,
            ),
            order=order,
            teacher=teacher,
            held_out=None,
            fitted_on_held_out=False,
            folder=folder,
            processes=Processes(rank=0, world=1, device=torch.device("cpu")),
            curve=context.alone,
        )
        Trainer(task).run()
        return variant

    def _recipe(self, epochs: int) -> Recipe:
        """The recipe for so many epochs.

        Its last weights are kept, so that no image decides which: those that candidates are
        compared on must not, and a part of so few others says little.
        """
        recipe = Recipe.model_validate(self.context.problem.settings.finetuning.recipe)
        schedule = recipe.schedule
        warmup = schedule.warmup_epochs * epochs / recipe.epochs
        return recipe.model_copy(
            update={
                "epochs": epochs,
                "schedule": Schedule(warmup_epochs=warmup, final_share=schedule.final_share),
                "selection": Selection(),
                "teacher": TeacherUse(mode="live"),
            }
        )

    def _folder(self, record: Record) -> Path:
        return self.context.run.trainings / f"{record.key}-{self.number}"

    def _weights(self, record: Record) -> str:
        return f"{record.key}.{self.name}"


def finetune_rungs(context: SearchContext) -> list[FinetuneRung]:
    """The rungs of a search, in order."""
    images = context.problem.settings.finetuning.images
    return [FinetuneRung(context=context, number=number) for number in range(1, len(images) + 1)]


def _start(record: Record) -> str:
    """What training begins with."""
    return "refined" if "refined" in record.later else "fitted"
