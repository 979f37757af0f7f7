"""Which of the weights seen on the way are kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trex.store.schemas import HeldOutLoss
from trex.training.data import Batch
from trex.training.finetune.recipe import Selection

State = dict[str, Tensor]


def between(start: State, end: State, share: float) -> State:
    """Weights that lie a share of the way from `start` to `end`; integers are those of `end`."""
    return {
        name: start[name].lerp(value, share) if value.is_floating_point() else value
        for name, value in end.items()
    }


class HeldOut:
    """Images that are not trained on, with the original's answers to them.

    Args:
        original: in evaluation mode.
        batches: the images, the same at every iteration.
        device: where to run.
    """

    def __init__(
        self, original: nn.Module, batches: Iterable[Batch], device: torch.device
    ) -> None:
        self._batches, self._device = batches, device
        self._answers = self._logits(original).log_softmax(-1)

    def compare(self, model: nn.Module) -> Comparison:
        """A variant against the original; every module's mode stays as it was.

        Of several models that are trained together, their mean.
        """
        logits = self._logits(model)
        found = [self._compared(of) for of in (logits if logits.ndim == 3 else logits[None])]
        loss, same = (sum(values) / len(found) for values in zip(*found, strict=True))
        return Comparison(loss, same)

    def _compared(self, logits: Tensor) -> Comparison:
        log_q = logits.log_softmax(-1)
        loss = F.kl_div(log_q, self._answers, reduction="batchmean", log_target=True)
        same = (log_q.argmax(1) == self._answers.argmax(1)).double().mean()
        return Comparison(float(loss), float(same))

    def _logits(self, model: nn.Module) -> Tensor:
        training = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.no_grad():
                parts = [model(batch.images.to(self._device)).double() for batch in self._batches]
        finally:
            for module, was in training:
                module.training = was
        return torch.cat(parts, dim=-2)


class Comparison(NamedTuple):
    """KL divergence from the original, in nats an image, and the share of equal first guesses."""

    loss: float
    agreement: float


class Selector:
    """Keeps the best weights and the last ones.

    Args:
        settings: of the recipe.
    """

    def __init__(self, settings: Selection) -> None:
        self._settings = settings
        self._recent: list[State] = []
        self._best_state: State = {}
        #: name of the kept weights, and what the held-out images said of all of them
        self.best = ""
        self.history: list[HeldOutLoss] = []

    def see(
        self,
        name: str,
        model: nn.Module,
        result: Comparison,
        *,
        average: bool,
        fitted: bool = False,
    ) -> None:
        """Note weights; those with the least loss are kept, of equals the first.

        Weights that were `fitted` on the held-out images look better on them than they are: they
        are noted, and never kept.
        """
        known = [entry.loss for entry in self._eligible]
        state = {k: v.detach().to("cpu", copy=True) for k, v in model.state_dict().items()}
        self.history.append(
            HeldOutLoss(
                weights=name,
                loss=result.loss,
                agreement=result.agreement,
                fitted_on_held_out=fitted,
            )
        )
        if not fitted and (not known or result.loss < min(known)):
            self.best, self._best_state = name, state
        if average and self._settings.average > 1:
            self._recent = [*self._recent, state][-self._settings.average :]

    @property
    def exhausted(self) -> bool:
        """Whether the patience is used up."""
        patience = self._settings.patience
        if patience is None or not self.best:
            return False
        names = [entry.weights for entry in self._eligible]
        return len(names) - 1 - names.index(self.best) >= patience

    @property
    def _eligible(self) -> list[HeldOutLoss]:
        return [entry for entry in self.history if not entry.fitted_on_held_out]

    def averaged(self) -> State | None:
        """The mean of the last weights, where there are several."""
        if len(self._recent) < 2:
            return None
        return {
            name: torch.stack([state[name].double() for state in self._recent]).mean(0).to(v.dtype)
            if v.is_floating_point()
            else v
            for name, v in self._recent[-1].items()
        }

    def load_best(self, model: nn.Module) -> None:
        """Give a model the kept weights."""
        model.load_state_dict(self._best_state)

    def state(self) -> dict[str, object]:
        """Everything, for a checkpoint."""
        return {
            "recent": self._recent,
            "best_state": self._best_state,
            "best": self.best,
            "history": [entry.as_json() for entry in self.history],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """From `state`."""
        self._recent, self._best_state = state["recent"], state["best_state"]
        self.best = state["best"]
        self.history = list(map(HeldOutLoss.model_validate, state["history"]))
