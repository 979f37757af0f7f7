"""A small BERT from nothing, the sentences it reads first, and what it is measured by."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from sklearn.metrics import matthews_corrcoef
from tiny_texts import SENTENCES

from trex.models.bert import from_transformers
from trex.text.metrics import matthews
from trex.text.prose import documentation_sentences, sentences_of
from trex.text.small import SmallBert, damage, pretrain, train_classifier
from trex.text.tokenizer import build_tokenizer, encode

pytest.importorskip("transformers", reason="the extra `text` is not installed")

SIZE = SmallBert(
    encoders=2, dim=32, heads=2, tokens=12, vocabulary=200, pretraining_steps=12, epochs=25,
    batch_size=16, lr=3e-3, pretraining_lr=1e-3,
)  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_matthews_is_scikit_learns(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(50, generator=generator) < 0.7).long()
    guesses = torch.where(torch.rand(50, generator=generator) < 0.3, 1 - labels, labels)
    assert matthews(guesses, labels) == pytest.approx(matthews_corrcoef(labels, guesses))
    assert matthews(labels, labels) == pytest.approx(1)
    assert matthews(1 - labels, labels) == pytest.approx(-1)
    assert matthews(torch.ones(50), labels) == 0


def test_damage_moves_and_draws_words_and_leaves_the_rest() -> None:
    ids = torch.arange(5, 125).reshape(6, 20).repeat(50, 1)
    words = torch.ones_like(ids, dtype=torch.bool)
    words[:, 0] = words[:, -3:] = False
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = damage(ids, words)
    changed = made != ids
    assert not changed[~words].any()
    assert 0.4 < changed.any(1).double().mean() < 0.6  # half of the sentences
    # two places for each swap of 0.08 of the words, one for each of the 0.08 drawn
    assert 0.15 < changed[changed.any(1)].double().mean() < 0.25
    assert set(made.unique().tolist()) <= set(ids.unique().tolist())
    moved = (made[:, :-1] == ids[:, 1:]) & (made[:, 1:] == ids[:, :-1])
    assert moved.any()


def test_plain_sentences_are_told_from_code() -> None:
    text = """Return the sum of two numbers. See `sum` for more.
        This one goes over
        two lines, doesn't it? Too short.

        >>> call(this)

        Nor does NumPy count. Nothing ends here
    """
    assert list(sentences_of(text)) == [
        "Return the sum of two numbers.",
        "This one goes over two lines, doesn't it?",
    ]


def test_the_documentation_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "documented"
    package.mkdir()
    (package / "__init__.py").write_text('"""This is said only once."""\n')
    (package / "part.py").write_text(
        'class A:\n    """This is said only once. This stands in a class."""\n'
    )
    (package / "broken.py").write_text("def (")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert documentation_sentences(["documented", "not_installed_at_all"]) == [
        "This is said only once.",
        "This stands in a class.",
    ]


def test_training_learns_and_is_repeatable() -> None:
    """Good and bad sentences of a small grammar are told apart, twice by the same weights."""
    tokenizer = build_tokenizer(SENTENCES, SIZE.vocabulary)
    good = SENTENCES[::2]
    state = torch.get_rng_state()
    pretrained, losses = pretrain(SIZE, tokenizer, good, seed=1)
    again, _ = pretrain(SIZE, tokenizer, good, seed=1)
    for one, other in zip(pretrained.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert losses.keys() == {"words", "sentences"}
    inputs = encode(tokenizer, SENTENCES, SIZE.tokens)
    labels = torch.tensor([1, 0]).repeat(len(good))
    learned = torch.arange(len(labels)) % 6 < 4
    network = train_classifier(SIZE, pretrained, inputs[learned], labels[learned], seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        guesses = from_transformers(network, tokens=12)(inputs[~learned]).argmax(1)
    assert matthews(guesses, labels[~learned]) > 0.8
