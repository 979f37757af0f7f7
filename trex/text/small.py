"""A small BERT trained from nothing: on sentences alone, then on labelled ones.

The first training needs no labels: it tells sentences from damaged ones, with words moved, left
out, put in, or bent (the real/fake task of Warstadt, Singh and Bowman, arXiv 1805.12471). For as
little text and time as this is meant for, that teaches more of what makes a sentence acceptable
than filling in masked words does.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from trex.text.tokenizer import encode

_WARMUP_SHARE: Final = 0.1
_WEIGHT_DECAY: Final = 0.01
#: while labels are learned, again and again
_DROPOUT: Final = 0.1
_ENDINGS: Final = ("s", "ed", "ing", "ly")


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallBert:
    """Size and training of a small BERT; the defaults are those that measured best."""

    encoders: int = 6
    dim: int = 96
    heads: int = 3
    #: as many as the longest sentences have, about
    tokens: int = 24
    vocabulary: int = 4000
    pretraining_steps: int = 600
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
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )


def damage(words: Sequence[str], chance: random.Random, lexicon: Sequence[str]) -> list[str]:
    """A sentence's words with one thing wrong; a different sentence, though perhaps a good one."""
    made = list(words)
    ways: list[Callable[[], None]] = [
        lambda: made.insert(chance.randrange(len(made)), made.pop(chance.randrange(len(made)))),
        lambda: made.insert(chance.randrange(len(made)), chance.choice(lexicon)),
        lambda: made.__setitem__(chance.randrange(len(made)), chance.choice(lexicon)),
        lambda: made.insert(chance.randrange(len(made)), chance.choice(made)),
        lambda: _bend(made, chance),
    ]
    if len(made) > 2:
        ways.append(lambda: made.__delitem__(chance.randrange(len(made))))
    for _ in range(20):
        chance.choice(ways)()
        if made != list(words):
            break
    return made


def _bend(words: list[str], chance: random.Random) -> None:
    """Take an ending off a word, or put one on."""
    at = chance.randrange(len(words))
    word = words[at]
    for ending in _ENDINGS:
        if len(word) > len(ending) + 2 and word.endswith(ending):
            words[at] = word[: -len(ending)]
            return
    words[at] = word + chance.choice(_ENDINGS)


def pretrain(
    size: SmallBert, tokenizer: Any, sentences: Sequence[str], seed: int
) -> tuple[nn.Module, float]:
    """A `BertForSequenceClassification` that tells damaged sentences (0) from others (1).

    Also its last loss, in nats; chance is 0.69. The global random state stays.
    """
    import transformers

    chance = random.Random(seed)
    lexicon = [word for sentence in sentences for word in _words(sentence)]
    # sentences of about one length in a batch: little padding
    ordered = sorted(sentences, key=lambda text: (len(_words(text)), chance.random()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # without dropout: hardly a sentence is seen twice
        config = size.config(tokenizer.get_vocab_size(), dropout=0.0)
        model: nn.Module = transformers.BertForSequenceClassification(config)
        optimizer, schedule = _optimizer(model, size.pretraining_lr, size.pretraining_steps)
        model.train()
        mean = 0.0
        bar = tqdm(range(size.pretraining_steps), "pretraining", file=sys.stderr, disable=None)
        for step in bar:
            start = chance.randrange(max(1, len(ordered) - size.batch_size))
            chosen = ordered[start : start + size.batch_size]
            whole = [chance.random() < 0.5 for _ in chosen]
            shown = [
                text if good else _joined(damage(_words(text), chance, lexicon), text)
                for text, good in zip(chosen, whole, strict=True)
            ]
            ids, mask = _trimmed(encode(tokenizer, shown, size.tokens)).unbind(1)
            with _half_precision():
                logits = model(input_ids=ids, attention_mask=mask).logits
            loss = F.cross_entropy(logits.float(), torch.tensor(whole).long())
            _step(loss, model, optimizer, schedule)
            mean += (loss.item() - mean) / min(step + 1, 100)
    model.eval()
    return model, mean


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


def _words(sentence: str) -> list[str]:
    return sentence.rstrip(".!?").split()


def _joined(words: Sequence[str], original: str) -> str:
    text = " ".join(words)
    return text + original[len(original.rstrip(".!?")) :]


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
