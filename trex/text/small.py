"""A small BERT trained from nothing on labelled texts."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from trex.reuse.precision import fastest_precision, forward_precision

_WARMUP_SHARE: Final = 0.1
_WEIGHT_DECAY: Final = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallBert:
    """Size and training of a small BERT.

    The defaults learn CoLA in a minute of one core, as measured on a tenth of its training
    sentences; weights drawn wider than BERT's, at other sizes and rates, did not learn at all.
    """

    encoders: int = 4
    dim: int = 64
    heads: int = 2
    #: as many as the longest sentences have, about
    tokens: int = 24
    vocabulary: int = 4000
    epochs: int = 7
    batch_size: int = 32
    lr: float = 6e-4

    def config(self, vocabulary: int, classes: int) -> Any:
        """Of `transformers`, for a vocabulary of this size."""
        import transformers

        return transformers.BertConfig(
            vocab_size=vocabulary,
            hidden_size=self.dim,
            num_hidden_layers=self.encoders,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.dim,
            max_position_embeddings=self.tokens,
            type_vocab_size=1,
            num_labels=classes,
        )


def train_classifier(
    size: SmallBert, vocabulary: int, inputs: Tensor, labels: Tensor, seed: int
) -> nn.Module:
    """A `BertForSequenceClassification`; the global random state stays.

    Classes of unequal size are weighed by the root of how rare they are.

    Args:
        size: of the model, and its training.
        vocabulary: words of the tokeniser.
        inputs: texts (n, 2, tokens).
        labels: classes (n,).
        seed: of the first weights, the order and the dropout.
    """
    import transformers

    counts = torch.bincount(labels).float()
    weights = (counts.max() / counts).sqrt()
    lengths = inputs[:, 1].sum(-1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = size.config(vocabulary, len(counts))
        model: nn.Module = transformers.BertForSequenceClassification(config)
        steps = size.epochs * -(-len(labels) // size.batch_size)
        optimizer, schedule = _optimizer(model, size.lr, steps)
        model.train()
        for _ in tqdm(range(size.epochs), desc="classifier", file=sys.stderr, disable=None):
            # texts of about one length in a batch: little padding
            order = torch.argsort(lengths + 2 * torch.rand(len(labels)))
            parts = torch.split(order, size.batch_size)
            for number in torch.randperm(len(parts)).tolist():
                rows = parts[number]
                ids, mask = _trimmed(inputs[rows]).unbind(1)
                # half precision is exact enough here
                with forward_precision(fastest_precision()):
                    logits = model(input_ids=ids, attention_mask=mask).logits
                loss = F.cross_entropy(logits.float(), labels[rows], weights)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
    model.eval()
    return model


def _trimmed(inputs: Tensor) -> Tensor:
    """Without the columns that are padding in every text."""
    return inputs[..., : int(inputs[:, 1].sum(-1).max())]


def _optimizer(model: nn.Module, lr: float, steps: int) -> tuple[Any, Any]:
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=_WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps, pct_start=_WARMUP_SHARE
    )
    return optimizer, schedule
