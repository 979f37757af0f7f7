"""The loop: step after step, each a function of the state, the recipe and the step's number.

Random numbers are seeded anew for every step, so the state is the weights, the optimiser's and
the average's values and what was selected so far: a resumed training continues bit for bit.
"""

from __future__ import annotations

import contextlib
import math
import time
from copy import deepcopy
from typing import Any, NamedTuple, cast

import timm.data
import timm.utils
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trex.errors import RunError, TrainingError
from trex.noise import is_non_ideal, set_noise
from trex.training.finetune.checkpoint import CheckpointFolder
from trex.training.finetune.curve import Curve
from trex.training.finetune.losses import Loss
from trex.training.finetune.network import Observed, Outputs, training_mode
from trex.training.finetune.order import load_steps
from trex.training.finetune.parameters import make_optimizer, make_scheduler, stage_at, thaw
from trex.training.finetune.paths import Paths
from trex.training.finetune.precision import MixedPrecision
from trex.training.finetune.recipe import Stage
from trex.training.finetune.selection import Comparison, Selector, between
from trex.training.finetune.task import (
    Outcome,
    Task,
    loss_names,
    make_mixup,
    members_of,
    observed_encoders,
    seed_of,
)
from trex.training.finetune.views import Views, drawn_from


class _Spent(NamedTuple):
    """What steps have taken; see `Outcome`."""

    seconds: float = 0.0
    waited_s: float = 0.0
    images: int = 0


class _Student(NamedTuple):
    """A model that learns: as it is observed, as processes share it, and its losses."""

    observed: Observed
    wrapped: nn.Module
    loss: Loss


class Trainer:
    """One fine-tuning in one process.

    Args:
        task: what to do.

    Raises:
        RecipeError: the recipe does not fit the model or the number of processes.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self._recipe = recipe = task.recipe
        self._device = task.processes.device
        self._model = task.variant.to(self._device)
        self._students = [self._student(member) for member in members_of(self._model)]
        self._optimizer = make_optimizer(self._model, task.adapter, recipe)
        self._scheduler = make_scheduler(self._optimizer, recipe, task.order.steps_per_epoch)
        self._average = (
            timm.utils.ModelEmaV3(self._model, decay=recipe.ema_decay, use_warmup=True)
            if recipe.ema_decay
            else None
        )
        self._precision = MixedPrecision(recipe, self._device)
        self._mixup = make_mixup(task)
        self._selector = Selector(recipe.selection)
        self._checkpoints = CheckpointFolder(task.folder / "checkpoints", recipe.checkpoints)
        self._start = (
            {name: value.clone() for name, value in self._model.state_dict().items()}
            if recipe.interpolation < 1
            else None
        )
        self._stage: Stage | None = None
        self._step = 0
        self._curve: Curve | None = None
        self._before = _Spent()

    def _student(self, member: nn.Module) -> _Student:
        recipe, adapter = self._recipe, self.task.adapter
        observed = Observed(
            member,
            adapter,
            encoders=observed_encoders(member, recipe),
            dense=bool(recipe.losses.dense),
            checkpointing=recipe.grad_checkpointing,
        )
        training_mode(observed)
        return _Student(observed, observed, Loss(recipe.losses, member, adapter))

    def run(self) -> Outcome:
        """Train to the end, from the newest checkpoint where there is one.

        Raises:
            TrainingError: the loss is not a number.
            RunError: the state to go on from is of another training.
        """
        task, order = self.task, self.task.order
        self._begin()
        self._first = first = self._step
        columns = ("epoch", "loss", *loss_names(self._recipe), "lr", "grad_norm", "held_out_loss")
        self._curve = curve = Curve(
            task.folder / "curve.csv" if task.curve and task.processes.first else None,
            columns, steps=order.steps, first=first, images=order.batch_size,
        )  # fmt: skip
        steps = load_steps(
            task.source, order, first=first, micro_batch=self._recipe.micro_batch,
            workers=task.workers, processes=task.processes,
        )  # fmt: skip
        try:
            while self._step < order.steps and not self._selector.exhausted:
                epoch, within = divmod(self._step, order.steps_per_epoch)
                if within == 0 or self._step == first:
                    self._enter(epoch)
                started = time.perf_counter()
                parts = next(steps)
                waited_s = time.perf_counter() - started
                figures = {"epoch": epoch, **self._update(parts)}
                self._step += 1
                if self._step % order.steps_per_epoch == 0:
                    figures |= self._compare(f"epoch {epoch + 1}")
                curve.add(figures, waited_s)
                if self._checkpoints.due(self._step):
                    self._save()
        finally:
            curve.close()
        spent = self._spent()
        self._save()
        kept = self._keep()
        return Outcome(
            kept=kept,
            history=self._selector.history,
            steps=self._step,
            **spent._asdict(),
        )

    def _begin(self) -> None:
        state = self._checkpoints.newest()
        if state is None:
            self._compare("start")
            return
        try:
            self._model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._precision.scaler.load_state_dict(state["scaler"])
            if self._average is not None:
                self._average.module.load_state_dict(state["average"])
            self._selector.restore(state["selector"])
            self._step = int(state["step"])
            # a state of version 0.1 does not say: what is counted begins here
            self._before = _Spent(**state.get("spent", {}))
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise RunError(
                f"{self._checkpoints.newest_file} is the state of another training: {reason}",
                hint="remove the checkpoints/ folder to begin again, or choose another --out",
            ) from error

    def _spent(self) -> _Spent:
        """What the steps that count have taken, those of earlier processes included."""
        assert self._curve is not None
        seconds, waited_s = self._curve.spent
        images = (self._step - self._first) * self.task.order.batch_size
        return _Spent(
            self._before.seconds + seconds,
            self._before.waited_s + waited_s,
            self._before.images + images,
        )

    def _save(self) -> None:
        if self.task.processes.first:
            average = self._average.module.state_dict() if self._average is not None else None
            state = {
                "step": self._step,
                "model": self._model.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "scaler": self._precision.scaler.state_dict(),
                "average": average,
                "selector": self._selector.state(),
                "spent": self._spent()._asdict(),
            }
            self._checkpoints.save(self._step, state)

    def _enter(self, epoch: int) -> None:
        """Freeze and thaw; several processes have to agree on what has gradients."""
        stage = stage_at(self._recipe, epoch)
        if stage != self._stage:
            self._stage = stage
            thaw(self._model, stage.train)
            wrap = self.task.processes.wrap
            self._students = [of._replace(wrapped=wrap(of.observed)) for of in self._students]

    def _update(self, parts: list[Views]) -> dict[str, float]:
        """One optimiser step; the figures of it."""
        seed, rank = self.task.order.seed, self.task.processes.rank
        drawn = seed_of(seed, self._step, rank)
        torch.manual_seed(drawn)
        if is_non_ideal(self._model):
            set_noise(self._model, seed=drawn)
        self._scheduler.step_update(self._step)
        images = sum(len(part.images) for part in parts)
        totals: dict[str, Tensor] = {}
        for number, part in enumerate(parts):
            with self._only_last_synchronises(number == len(parts) - 1):
                losses = self._losses(part, number)
                share = len(part.images) / images
                self._precision.backward(torch.stack(list(losses.values())).sum() * share)
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + value.detach() * share
        figures = self._checked(totals, parts)
        clip = self._recipe.optimizer.clip_norm
        scaler = self._precision.scaler
        scaler.unscale_(self._optimizer)
        learning = [p for p in self._model.parameters() if p.grad is not None]
        norm = float(nn.utils.clip_grad_norm_(learning, math.inf if clip is None else clip))
        if not (math.isfinite(norm) or self._precision.may_overflow):
            self._stop("its gradient", norm, parts)
        scaler.step(self._optimizer)
        scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update(self._model, self._step + 1)
        return {**figures, "lr": self._lr(), "grad_norm": norm}

    def _lr(self) -> float:
        group = self._optimizer.param_groups[0]
        return float(group["lr"] / group["lr_scale"])

    def _losses(self, part: Views, number: int) -> dict[str, Tensor]:
        images, targets = part.images.to(self._device), part.labels.to(self._device)
        if self._mixup is not None:
            order, rank = self.task.order, self.task.processes.rank
            with drawn_from(order.seed, "mix", self._step, rank, number):
                images, mixed = self._mixup(images, targets.clamp_min(0))
            targets = mixed if self._recipe.losses.ce else targets
        with self._precision.forward():
            taught = self.task.teacher(part, images) if self.task.teacher else None
            students = self._drawn()
            outputs: list[Outputs] = [student.wrapped(images) for student in students]
        totals: dict[str, Tensor] = {}
        for student, own in zip(students, outputs, strict=True):
            for name, value in student.loss(own, taught, targets).items():
                share = value if len(students) == 1 else value / len(students)
                totals[name] = totals[name] + share if name in totals else share
        return totals

    def _drawn(self) -> list[_Student]:
        """What this step trains: the variant, or some of several paths."""
        if not isinstance(self._model, Paths):
            return self._students
        return [self._students[number] for number in self._model.drawn(self._step)]

    def _checked(self, totals: dict[str, Tensor], parts: list[Views]) -> dict[str, float]:
        """The losses' means over the processes, each a finite number."""
        means = self.task.processes.mean(torch.stack(list(totals.values()))).tolist()
        if not math.isfinite(sum(means)):
            self._stop("its loss", sum(means), parts)
        return {"loss": sum(means), **dict(zip(totals, means, strict=True))}

    def _stop(self, what: str, value: float, parts: list[Views]) -> None:
        images = self.task.source.images
        own = [images.name(key.image) for part in parts for key in part.keys]
        names = self.task.processes.gather(own)
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        if all(bool(value.isfinite().all()) for value in self._model.parameters()):
            self._save()
        saved = self._checkpoints.newest_file
        raise TrainingError(
            f"step {self._step + 1}: {what} is {value}; its images are {shown}",
            hint="lower the learning rates in another --out folder"
            + (f"; the last good state is {saved}" if saved else ""),
        )

    def _compare(self, name: str, kept: nn.Module | None = None) -> dict[str, float]:
        """Compare weights, those that would be kept now, with the original on held-out images."""
        if self.task.held_out is None:
            return {}
        kept = self._kept_model() if kept is None else kept
        if is_non_ideal(kept):
            set_noise(kept, seed=self.task.order.seed)
        result = self.task.held_out.compare(kept)
        agreed = self.task.processes.mean(torch.tensor(result, device=self._device))
        loss, agreement = agreed.tolist()
        start = name == "start"
        self._selector.see(
            name,
            kept,
            Comparison(loss, agreement),
            average=not start,
            fitted=start and self.task.fitted_on_held_out,
        )
        return {"held_out_loss": loss}

    def _kept_model(self) -> nn.Module:
        """What would be kept if the training ended now; not to be changed."""
        trained = self._model if self._average is None else cast(nn.Module, self._average.module)
        if self._start is None:
            return trained
        kept = deepcopy(trained)
        kept.load_state_dict(
            between(self._start, trained.state_dict(), self._recipe.interpolation)
        )
        return kept

    def _keep(self) -> str:
        """Give the variant the weights that are kept; their name."""
        if self.task.held_out is None:
            self._model.load_state_dict(self._kept_model().state_dict())
            self._model.eval()
            return "last"
        averaged = self._selector.averaged()
        names = [entry.weights for entry in self._selector.history]
        if averaged is not None and "average" not in names:
            kept = deepcopy(self._kept_model())
            kept.load_state_dict(averaged)
            self._compare("average", kept)
        self._selector.load_best(self._model)
        self._model.eval()
        return self._selector.best

    def _only_last_synchronises(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        stack = contextlib.ExitStack()
        for student in self._students:
            if not last and isinstance(student.wrapped, DistributedDataParallel):
                stack.enter_context(student.wrapped.no_sync())
        return stack
