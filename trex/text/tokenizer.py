"""Tokenisers of the `tokenizers` library: building one, reading one, texts to a model's input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from trex.errors import DataError
from trex.models.bert.model import pack_inputs
from trex.models.bert.names import HUB

#: in BERT's order; the padding's number is 0
SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FILE: Final = "tokenizer.json"
_INSTALL: Final = 'pip install "trex-vit[text]"'


def build_tokenizer(sentences: Iterable[str], vocabulary: int) -> Any:
    """A lower-case WordPiece tokeniser of the `tokenizers` library, as BERT's, from sentences.

    Raises:
        DataError: the library is not installed.
    """
    try:
        import tokenizers
    except ImportError:
        raise DataError("texts need tokenizers, which is not installed", hint=_INSTALL) from None
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False
    )
    made.train_from_iterator(sentences, trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return made


def load_tokenizer(source: str) -> Any:
    """The tokeniser of a file, of a folder of `transformers`, or of a hub's model.

    Raises:
        DataError: it is not there, cannot be read, or the libraries are not installed.
    """
    try:
        import tokenizers
        import transformers
    except ImportError as error:
        raise DataError(
            f"texts need {error.name}, which is not installed", hint=_INSTALL
        ) from None
    path = Path(source)
    file = path / FILE if path.is_dir() else path
    name = source.removeprefix(HUB)
    looks_like_a_path = (
        name.startswith((".", "/")) or name.count("/") > 1 or name.endswith(".json")
    )
    if not path.exists() and looks_like_a_path:
        raise DataError(
            f"the tokeniser of {source} cannot be had: no such file or folder",
            hint=f"give a {FILE}, or a folder that holds one, with --tokenizer",
        )
    try:
        if file.is_file():
            return tokenizers.Tokenizer.from_file(str(file))
        # older folders hold a vocabulary alone
        found = transformers.AutoTokenizer.from_pretrained(source if path.exists() else name)
    except Exception as error:  # files and hubs raise errors of many libraries
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"the tokeniser of {source} cannot be had: {reason}",
            hint=f"give a {FILE}, or a folder that holds one, with --tokenizer",
        ) from error
    # transformers makes one of special tokens alone where there is no vocabulary
    if len(found) <= len(found.all_special_tokens):
        raise DataError(
            f"{source} has no tokeniser: every word would be unknown",
            hint=f"give a {FILE}, or a folder that holds one, with --tokenizer",
        )
    return found.backend_tokenizer


def encode(tokenizer: Any, texts: Sequence[str], tokens: int) -> Tensor:
    """Texts as a classifier's input, (texts, 2, tokens): cut, or padded, to so many tokens."""
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding(length=tokens, pad_id=padding_of(tokenizer))
    found = tokenizer.encode_batch(list(texts))
    return pack_inputs(
        torch.tensor([one.ids for one in found]),
        torch.tensor([one.attention_mask for one in found]),
    )


def padding_of(tokenizer: Any) -> int:
    """The padding's number.

    Raises:
        DataError: there is none.
    """
    for name in ("[PAD]", "<pad>"):
        if (number := tokenizer.token_to_id(name)) is not None:
            return int(number)
    raise DataError("the tokeniser has no padding", hint="give a tokeniser of a BERT or RoBERTa")
