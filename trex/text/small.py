"""A small BERT trained from nothing: on sentences alone, then on labelled ones.

The first training needs no labels: it finds words that do not belong where they stand, because
they were drawn at random or changed places with their neighbour, and tells damaged sentences from
whole ones. Every word is a lesson then (Clark et al., ELECTRA, arXiv 2003.10555), which counts
where there is little text and time; filling in masked words, and telling damaged sentences alone,
taught next to nothing in as many steps.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from trex.text.tokenizer import SPECIAL, encode

_WARMUP_SHARE: Final = 0.1
_WEIGHT_DECAY: Final = 0.01
#: while labels are learned, again and again
_DROPOUT: Final = 0.1
#: shares of the words of a damaged sentence
_SWAPPED: Final = 0.08
_DRAWN: Final = 0.08


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallBert:
    """Size and training of a small BERT; the defaults are those that measured best."""

    encoders: int = 4
    dim: int = 128
    heads: int = 4
    #: as many as the longest sentences have, about
    tokens: int = 24
    vocabulary: int = 4000
    pretraining_steps: int = 500
    epochs: int = 4
    batch_size: int = 64
    pretraining_lr: float = 1e-3
    lr: float = 2e-4

    def config(self, vocabulary: int, dropout: float) -> Any:
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
            # BERT's 0.02 is meant for wide models: here, encoders would add next to nothing
            initializer_range=self.dim**-0.5,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )


def damage(ids_BN: Tensor, words_BN: Tensor) -> Tensor:
    """Half of the sentences, with some words swapped with the next or drawn from the batch.

    Draws from the global generator of torch.

    Args:
        ids_BN: token numbers.
        words_BN: where they are words, not marks or padding.
    """
    rows = torch.rand(len(ids_BN), 1) < 0.5
    pairs = words_BN[:, :-1] & words_BN[:, 1:] & (torch.rand(ids_BN[:, 1:].shape) < _SWAPPED)
    pairs[:, 1:] &= ~pairs[:, :-1]
    places = torch.arange(ids_BN.shape[1]).repeat(len(ids_BN), 1)
    places[:, :-1] += pairs.long()
    places[:, 1:] -= pairs.long()
    made = ids_BN.gather(1, places)
    lexicon = ids_BN[words_BN]
    drawn = lexicon[torch.randint(len(lexicon), ids_BN.shape)]
    made = torch.where(words_BN & (torch.rand(ids_BN.shape) < _DRAWN), drawn, made)
    return torch.where(rows, made, ids_BN)


def pretrain(
    size: SmallBert, tokenizer: Any, sentences: Sequence[str], seed: int
) -> tuple[nn.Module, dict[str, float]]:
    """A `BertForSequenceClassification` that tells damaged sentences (0) from whole ones (1).

    Also its last losses, of words and of sentences, in nats. The global random state stays.
    """
    import transformers

    ordered = sorted(sentences, key=lambda text: len(text.split()))
    special = torch.tensor([tokenizer.token_to_id(name) for name in SPECIAL])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # without dropout: hardly a sentence is seen twice
        config = size.config(tokenizer.get_vocab_size(), dropout=0.0)
        model: Any = transformers.BertForSequenceClassification(config)
        of_words = nn.Linear(size.dim, 2)
        both = nn.ModuleList((model, of_words)).train()
        optimizer, schedule = _optimizer(both, size.pretraining_lr, size.pretraining_steps)
        means = {"words": 0.0, "sentences": 0.0}
        steps = range(size.pretraining_steps)
        for step in tqdm(steps, "pretraining", file=sys.stderr, disable=None):
            # sentences of one length: little padding
            start = int(torch.randint(max(1, len(ordered) - size.batch_size), ()))
            shown = ordered[start : start + size.batch_size]
            ids, mask = _trimmed(encode(tokenizer, shown, size.tokens)).unbind(1)
            words = ~torch.isin(ids, special)
            made = damage(ids, words)
            right = made == ids
            with _half_precision():
                states = model.bert(input_ids=made, attention_mask=mask)
                verdicts = of_words(states.last_hidden_state[words]).float()
                whole = model.classifier(states.pooler_output).float()
            losses = {
                "words": F.cross_entropy(verdicts, right[words].long()),
                "sentences": F.cross_entropy(whole, right.all(1).long()),
            }
            _step(losses["words"] + losses["sentences"], both, optimizer, schedule)
            for name, loss in losses.items():
                means[name] += (loss.item() - means[name]) / min(step + 1, 100)
    trained: nn.Module = model
    trained.eval()
    return trained, means


def train_classifier(
    size: SmallBert,
    pretrained: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    seed: int,
) -> nn.Module:
    """A copy of a pretrained BERT, trained on labelled texts.

    Args:
        size: of the model, and the epochs.
        pretrained: of `pretrain`; stays as it is.
        inputs: texts (n, 2, tokens).
        labels: classes (n,); every class counts the same, however many texts it has.
        seed: of the order and the dropout.
    """
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        known: Any = pretrained.config
        config = size.config(known.vocab_size, dropout=_DROPOUT)
        model: nn.Module = transformers.BertForSequenceClassification(config)
        model.load_state_dict(pretrained.state_dict())
        counts = torch.bincount(labels).float()
        weights = counts.sum() / (len(counts) * counts)
        steps = size.epochs * -(-len(labels) // size.batch_size)
        optimizer, schedule = _optimizer(model, size.lr, steps)
        model.train()
        for _ in tqdm(range(size.epochs), desc="classifier", file=sys.stderr, disable=None):
            for rows in torch.split(torch.randperm(len(labels)), size.batch_size):
                ids, mask = _trimmed(inputs[rows]).unbind(1)
                with _half_precision():
                    logits = model(input_ids=ids, attention_mask=mask).logits
                loss = F.cross_entropy(logits.float(), labels[rows], weights)
                _step(loss, model, optimizer, schedule)
    model.eval()
    return model


def _half_precision() -> torch.autocast:
    """bf16 is exact enough here, and three times as fast on processors that have it."""
    return torch.autocast("cpu", torch.bfloat16)


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


def _step(loss: Tensor, model: nn.Module, optimizer: Any, schedule: Any) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
