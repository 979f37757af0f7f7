"""A small BERT trained from nothing: on sentences alone, then on labelled ones.

The first training has two aims, as BERT's own has: filling in words that are masked, and telling
whether something about the whole is wrong. In place of BERT's pairs of sentences, which need
running text, one of two sentences was damaged: words moved, left out, put in, or bent. Both need
no labels.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from trex.text.tokenizer import SPECIAL, encode

_WARMUP_SHARE: Final = 0.1
_WEIGHT_DECAY: Final = 0.01
#: while labels are learned, again and again
_DROPOUT: Final = 0.1
#: as BERT's: the share of words to fill in
_MASKED: Final = 0.15
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
    pretraining_steps: int = 700
    epochs: int = 5
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
) -> tuple[nn.Module, dict[str, float]]:
    """A `BertForPreTraining`, and its last losses; the global random state stays."""
    import transformers

    chance = random.Random(seed)
    lexicon = [word for sentence in sentences for word in sentence.rstrip(".!?").split()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # hardly a sentence is seen twice
        config = size.config(tokenizer.get_vocab_size(), dropout=0.0)
        model = cast(Any, transformers.BertForPreTraining(config))
        optimizer, schedule = _optimizer(model, size.pretraining_lr, size.pretraining_steps)
        model.train()
        means = {"filled in": 0.0, "damage": 0.0}
        # sentences of about one length in a batch: little padding
        ordered = sorted(sentences, key=lambda text: (len(_words(text)), chance.random()))
        bar = tqdm(range(size.pretraining_steps), "pretraining", file=sys.stderr, disable=None)
        for step in bar:
            start = chance.randrange(max(1, len(ordered) - size.batch_size))
            chosen = ordered[start : start + size.batch_size]
            wrong = [chance.random() < 0.5 for _ in chosen]
            shown = [
                _joined(damage(_words(text), chance, lexicon), text) if bad else text
                for text, bad in zip(chosen, wrong, strict=True)
            ]
            ids, mask = _trimmed(encode(tokenizer, shown, size.tokens)).unbind(1)
            damaged = torch.tensor(wrong)
            hidden, asked = _masked_words(ids, mask, damaged, tokenizer)
            with _half_precision():
                states = model.bert(input_ids=hidden, attention_mask=mask)
                answers = model.cls.predictions(states.last_hidden_state[asked]).float()
                verdicts = model.cls.seq_relationship(states.pooler_output).float()
            filled = F.cross_entropy(answers, ids[asked]) if len(answers) else answers.sum()
            told = F.cross_entropy(verdicts, damaged.long())
            _step(filled + told, model, optimizer, schedule)
            share = 1.0 / min(step + 1, 100)
            for name, loss in (("filled in", filled), ("damage", told)):
                means[name] += share * (loss.item() - means[name])
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
    """A `BertForSequenceClassification` from a pretrained BERT, trained on labelled texts.

    Args:
        size: of the model, and the epochs.
        pretrained: of `pretrain`; stays as it is.
        inputs: texts (n, 2, tokens).
        labels: classes (n,); every class counts the same, however many texts it has.
        seed: of the head, the order and the dropout.
    """
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        known: Any = pretrained.config
        config = size.config(known.vocab_size, dropout=_DROPOUT)
        model: nn.Module = transformers.BertForSequenceClassification(config)
        model.get_submodule("bert").load_state_dict(pretrained.get_submodule("bert").state_dict())
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


def _masked_words(
    ids: Tensor, mask: Tensor, damaged: Tensor, tokenizer: Any
) -> tuple[Tensor, Tensor]:
    """BERT's masking, and where it asks; damaged sentences have nothing to fill in."""
    special = torch.tensor([tokenizer.token_to_id(name) for name in SPECIAL])
    words = (mask > 0) & ~torch.isin(ids, special) & ~damaged[:, None]
    chosen = words & (torch.rand(ids.shape) < _MASKED)
    fate = torch.rand(ids.shape)
    shown = ids.masked_fill(chosen & (fate < 0.8), tokenizer.token_to_id("[MASK]"))
    drawn = torch.randint(len(SPECIAL), tokenizer.get_vocab_size(), ids.shape)
    shown = torch.where(chosen & (fate > 0.9), drawn, shown)
    return shown, chosen


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
