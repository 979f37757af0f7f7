"""How a text model wants its texts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from trex.errors import DataError
from trex.text.tokenizer import encode, load_tokenizer, padding_of


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    """What image models have a resolution and a normalisation for.

    Attributes:
        tokens: every text is cut, or padded, to so many.
        tokenizer: a file, a folder of `transformers`, or a hub's model.
        tokenizer_sha256: 16 digits of its contents: other numbers would be other words.
    """

    tokens: int
    tokenizer: str
    tokenizer_sha256: str

    @classmethod
    def of_model(cls, model: nn.Module, tokenizer: str | None = None) -> TextConfig:
        """What a `TextClassifier` was made with, or another tokeniser of the user's.

        Raises:
            DataError: the tokeniser is not there, or is of another model: it has more words, or
                another number for the padding.
        """
        text: Any = model
        source = tokenizer or text.tokenizer
        found = load_tokenizer(source)
        known = text.config.vocab_size
        if found.get_vocab_size() > known:
            raise DataError(
                f"the tokeniser of {source} has {found.get_vocab_size()} words, the model {known}",
                hint="give the tokeniser that the model was trained with, with --tokenizer",
            )
        padding, expected = padding_of(found), text.config.pad_token_id
        if expected is not None and padding != expected:
            raise DataError(
                f"the tokeniser of {source} pads with token {padding}, the model with {expected}",
                hint="give the tokeniser that the model was trained with, with --tokenizer",
            )
        return cls(tokens=text.tokens, tokenizer=source, tokenizer_sha256=_hash(found))

    def load(self) -> Any:
        """The tokeniser, of the `tokenizers` library.

        Raises:
            DataError: it is gone, or another one than before.
        """
        found = load_tokenizer(self.tokenizer)
        if _hash(found) != self.tokenizer_sha256:
            raise DataError(
                f"the tokeniser of {self.tokenizer} is another one than before",
                hint=f"restore the one of hash {self.tokenizer_sha256}",
            )
        return found

    def transform(self) -> TextTransform:
        """From a text to the model's input."""
        return TextTransform(self.load(), self.tokens)


class TextTransform:
    """From a text to a classifier's input, (2, tokens)."""

    def __init__(self, tokenizer: Any, tokens: int) -> None:
        self._tokenizer = tokenizer
        self._tokens = tokens

    def __call__(self, text: str) -> Tensor:
        """Token numbers and mask."""
        return encode(self._tokenizer, [text], self._tokens)[0]


def _hash(tokenizer: Any) -> str:
    # cutting and padding are set anew for every model
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()[:16]
