"""A text classifier whose encoders pass one tensor on, made of `transformers`' own modules.

TReX's commands pass a model one tensor, and encoders pass one stream to each other. A text also
has a mask, the same for the whole model. So inputs carry it beside the token numbers, and in a
stream the padding's hidden states are zero, which a token's never all are. No module of
`transformers` is copied: each is called as it is.

Letters: B texts, N tokens, D width.
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from trex.errors import ModelError

#: `transformers`' model types whose layers have the same children; a model's base has this name
FAMILIES: Final = ("bert", "roberta", "electra")


def most_tokens(config: Any) -> int:
    """The longest text that a configuration of `transformers` has positions for."""
    # RoBERTa numbers positions from behind the padding's number on
    spent = config.pad_token_id + 1 if config.model_type == "roberta" else 0
    return int(config.max_position_embeddings - spent)


def pack_inputs(ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Token numbers and mask (1 token, 0 padding) as the classifier's input, (B, 2, N)."""
    return torch.stack((ids_BN, mask_BN.to(ids_BN.dtype)), dim=-2)


def masked(hidden_BND: Tensor, mask_BN: Tensor) -> Tensor:
    """Hidden states as a stream: zero where the mask is false."""
    return hidden_BND.masked_fill(~mask_BN.unsqueeze(-1), 0.0)


def mask_of(stream_BND: Tensor) -> Tensor:
    """Where a stream has tokens, (B, N)."""
    return (stream_BND != 0).any(dim=-1)


def keys_of(mask_BN: Tensor) -> Tensor:
    """Which keys every query may attend to, (B, 1, 1, N)."""
    return mask_BN[:, None, None, :]


class EncoderBlock(nn.Module):
    """One of `transformers`' layers, from stream to stream."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, stream: Tensor) -> Tensor:
        """(B, N, D) to the same."""
        mask = mask_of(stream)
        return masked(self.layer(stream, keys_of(mask)), mask)


class TextClassifier(nn.Module):
    """A sequence classifier of `transformers` on one tensor; it takes the modules over.

    Attributes:
        config: of `transformers`.
        tokens: how many tokens its texts have: what is priced, and what texts are cut or padded
            to.
        tokenizer: the folder, file or hub name its tokenizer comes from; "" where unknown.

    Args:
        network: for instance a `BertForSequenceClassification`.
        tokens: at most the positions it has learned.
        tokenizer: see above.

    Raises:
        ModelError: the network is of another family, or has not so many positions.
    """

    #: the classifier reads the first token, as in a ViT with a class token
    global_pool: Final = "token"
    num_prefix_tokens: Final = 1

    def __init__(self, network: nn.Module, tokens: int, tokenizer: str = "") -> None:
        super().__init__()
        config: Any = getattr(network, "config", None)
        family = getattr(config, "model_type", "")
        # not a subclass, nor a tagger with the same children: their forward may be another
        expected = f"{family.capitalize()}ForSequenceClassification"
        theirs = type(network).__module__.startswith("transformers.")
        if family not in FAMILIES or type(network).__name__ != expected or not theirs:
            raise ModelError(
                f"{type(network).__name__} is not a text classifier that TReX understands",
                hint=f"give a sequence classifier of {', '.join(FAMILIES)}",
            )
        base: Any = getattr(network, family)
        if config.is_decoder or getattr(config, "add_cross_attention", False):
            raise ModelError("decoders cannot reuse attention", hint="give an encoder")
        if not 2 <= tokens <= most_tokens(config):
            raise ModelError(
                f"{tokens} tokens are not possible",
                hint=f"give --tokens from 2 to {most_tokens(config)}",
            )
        # the mask of the blocks is one of truth values, which only this implementation reads so
        config._attn_implementation = "sdpa"
        self.config = config
        self.tokens = tokens
        self.tokenizer = tokenizer
        self.num_classes: int = config.num_labels
        self.embeddings = base.embeddings
        self.embeddings_project = getattr(base, "embeddings_project", nn.Identity())
        self.encoders = nn.Sequential(*map(EncoderBlock, base.encoder.layer))
        self.pooler = getattr(base, "pooler", None) or nn.Identity()
        self.dropout = getattr(network, "dropout", None) or nn.Identity()
        self.classifier = cast(nn.Module, network.classifier)

    def stem(self, inputs: Tensor) -> Tensor:
        """From inputs (B, 2, N) of `pack_inputs` to the first stream, (B, N, D).

        Raises:
            ModelError: they are not of this form, or longer than the model has positions.
        """
        most = most_tokens(self.config)
        if inputs.ndim != 3 or inputs.shape[-2] != 2 or inputs.shape[-1] > most:
            raise ModelError(
                f"a text model's inputs are (texts, 2, at most {most} tokens), "
                f"not {tuple(inputs.shape)}",
                hint="make them of token numbers and a mask with trex.models.bert.pack_inputs",
            )
        ids, mask = inputs.long().unbind(dim=-2)
        return masked(self.embeddings_project(self.embeddings(input_ids=ids)), mask > 0)

    def head(self, stream: Tensor) -> Tensor:
        """From the last stream to logits (B, classes)."""
        return cast(Tensor, self.classifier(self.dropout(self.pooler(stream))))

    def forward(self, inputs: Tensor) -> Tensor:
        """From inputs (B, 2, N) of `pack_inputs` to logits (B, classes)."""
        return self.head(self.encoders(self.stem(inputs)))


def from_transformers(
    network: nn.Module, *, tokens: int = 128, tokenizer: str = ""
) -> TextClassifier:
    """A model of `transformers` as TReX's commands and `apply_reuse` take it.

    Raises:
        ModelError: it is of another family, or has not so many positions.
    """
    return TextClassifier(network, tokens, tokenizer).train(network.training)


def config_values(model: TextClassifier) -> dict[str, Any]:
    """The model's configuration as plain values, enough for `transformers` to build it."""
    values: dict[str, Any] = model.config.to_diff_dict()
    for name in ("_name_or_path", "architectures", "dtype", "transformers_version"):
        values.pop(name, None)
    return {**values, "model_type": model.config.model_type}


def published_name(name: str) -> str:
    """A parameter's name in `transformers`' files as `TextClassifier` has it."""
    for base in FAMILIES:
        name = name.removeprefix(f"{base}.")
    if name.startswith("encoder.layer."):
        number, _, rest = name.removeprefix("encoder.layer.").partition(".")
        name = f"encoders.{number}.layer.{rest}"
    # files of before 2020 name a norm's parameters as its paper does
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
    return name.replace("LayerNorm.beta", "LayerNorm.bias")


def checkpoint_filter_fn(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Files of `transformers` as this model has them; heads of pretraining are left out."""
    unused = ("cls.", "lm_head.", "discriminator_predictions.", "generator_")
    renamed = {published_name(n): v for n, v in state.items() if not n.startswith(unused)}
    wanted = model.state_dict().keys()
    # buffers that older versions stored, and poolers that the classifier does not read
    optional = ("embeddings.position_ids", "embeddings.token_type_ids", "pooler.")
    return {
        name: value
        for name, value in renamed.items()
        if name in wanted or not name.startswith(optional)
    }
