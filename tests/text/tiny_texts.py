"""A grammar of a few words, and a BERT of six encoders that reads it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from trex.text.tokenizer import build_tokenizer

_NOUNS, _VERBS = ("cat", "dog", "bird", "child"), ("sees", "hears", "likes")
#: good ones and, words in another order, bad ones
SENTENCES = [
    sentence
    for a, v, b in itertools.product(_NOUNS, _VERBS, _NOUNS)
    for sentence in (f"The {a} {v} the {b}.", f"The {v} {a} the {b}.")
]


def write_cola(file: Path) -> Path:
    """The sentences as CoLA has its own."""
    rows = [
        f"me\t{1 - i % 2}\t{'*' * (i % 2)}\t{sentence}" for i, sentence in enumerate(SENTENCES)
    ]
    file.write_text("\n".join(rows) + "\n")
    return file


def tiny_folder(folder: Path) -> Path:
    """A random BERT with two classes as a folder of `transformers`, its tokeniser included."""
    transformers = pytest.importorskip("transformers", reason="the extra `text` is missing")
    tokenizer = build_tokenizer(SENTENCES, 200)
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=24, num_hidden_layers=6,
        num_attention_heads=2, intermediate_size=48, max_position_embeddings=16, num_labels=2,
        initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
