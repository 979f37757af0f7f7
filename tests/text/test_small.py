"""A small BERT from nothing, and what it is measured by."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import matthews_corrcoef
from tiny_texts import SENTENCES

from trex.models.bert import from_transformers
from trex.text.metrics import matthews
from trex.text.small import SmallBert, train_classifier
from trex.text.tokenizer import build_tokenizer, encode

pytest.importorskip("transformers", reason="the extra `text` is not installed")

SIZE = SmallBert(encoders=2, dim=32, heads=2, tokens=12, vocabulary=200, epochs=20, lr=3e-3)


@pytest.mark.parametrize("seed", range(5))
def test_matthews_is_scikit_learns(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(50, generator=generator) < 0.7).long()
    guesses = torch.where(torch.rand(50, generator=generator) < 0.3, 1 - labels, labels)
    assert matthews(guesses, labels) == pytest.approx(matthews_corrcoef(labels, guesses))
    assert matthews(labels, labels) == pytest.approx(1)
    assert matthews(1 - labels, labels) == pytest.approx(-1)
    assert matthews(torch.ones(50), labels) == 0


def test_training_learns_and_is_repeatable() -> None:
    """Good and bad sentences of a small grammar are told apart, twice by the same weights."""
    tokenizer = build_tokenizer(SENTENCES, SIZE.vocabulary)
    vocabulary = tokenizer.get_vocab_size()
    inputs = encode(tokenizer, SENTENCES, SIZE.tokens)
    labels = torch.tensor([1, 0]).repeat(len(SENTENCES) // 2)
    learned = torch.arange(len(labels)) % 6 < 4
    state = torch.get_rng_state()
    one, other = (
        train_classifier(SIZE, vocabulary, inputs[learned], labels[learned], seed=1)
        for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    for first, second in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(first, second)
    with torch.no_grad():
        guesses = from_transformers(one, tokens=12)(inputs[~learned]).argmax(1)
    assert matthews(guesses, labels[~learned]) > 0.8
