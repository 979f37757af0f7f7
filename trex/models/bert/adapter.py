"""Reuse on text encoders: post-norm layers of `transformers`, with a mask of the padding.

Letters: B texts, N tokens, D width, H heads. A stream is (B, N, D), zero where there is padding,
see `trex.models.bert.model`.

A layer normalises behind its residuals. So `merge` ends with the residual, and the norm behind it
belongs to `after`: then a consumer's projection is linear in what `merge` puts out, as closed-form
fitting needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trex.architecture import Architecture, Encoder, Operation, vit_encoder
from trex.errors import ModelError
from trex.models.adapter import (
    Adapter,
    AttentionRows,
    Consumer,
    ConsumerForm,
    Linear,
    Tokens,
    Wanted,
    stages_of,
)
from trex.models.attention import join_heads, map_rows
from trex.models.bert.model import EncoderBlock, TextClassifier, keys_of, mask_of, masked
from trex.plan import Layout

#: path in a layer -> child -> the class names understood there, behind the family's own prefix
_CHILDREN: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "": {
        "attention": ("Attention",),
        "intermediate": ("Intermediate",),
        "output": ("Output",),
    },
    "attention": {
        "self": ("SelfAttention", "SdpaSelfAttention"),
        "output": ("SelfOutput",),
    },
    "attention.self": {
        "query": ("Linear",),
        "key": ("Linear",),
        "value": ("Linear",),
        "dropout": ("Dropout",),
    },
    "attention.output": {
        "dense": ("Linear",),
        "LayerNorm": ("LayerNorm",),
        "dropout": ("Dropout",),
    },
    "output": {"dense": ("Linear",), "LayerNorm": ("LayerNorm",), "dropout": ("Dropout",)},
}
_PREFIXES: Final = ("Bert", "Roberta", "Electra")
#: a layer's in order, with what each computes
_LINEARS: Final = (
    Linear("layer.attention.self.query", ("q",)),
    Linear("layer.attention.self.key", ("k",)),
    Linear("layer.attention.self.value", ("v",)),
    Linear("layer.attention.output.dense", ("proj",)),
    Linear("layer.intermediate.dense", ("fc1",)),
    Linear("layer.output.dense", ("fc2",)),
)


class BertConsumer(Consumer):
    """A text encoder that reuses; children keep the names they have in `transformers`."""

    def __init__(self, layer: Any, form: ConsumerForm) -> None:
        super().__init__()
        attention = getattr(layer.attention, "self")  # noqa: B009 (a child's name)
        self.tensor = form.tensor
        self.own_input = form.own_input
        self.own_rows = form.own_rows
        self.num_attention_heads: int = attention.num_attention_heads
        self.scale: float = attention.attention_head_size**-0.5
        if form.tensor == "map":
            self.value = attention.value
        if form.own_rows:
            self.query, self.key = attention.query, attention.key
        self.transform = form.transform
        dense = layer.attention.output.dense
        self.dense = _widened(dense, attention.query.in_features if form.own_input else 0)
        self.dropout = layer.attention.output.dropout
        self.norm = layer.attention.output.LayerNorm
        self.intermediate = layer.intermediate
        self.output = layer.output

    @property
    def projection(self) -> nn.Linear:
        """The attention's output layer."""
        return self.dense

    def before(self, stream: Tensor) -> Tensor:
        """Nothing: the attention branch comes first."""
        return stream

    def features(self, stream: Tensor, reused: Tensor | None, tokens: Tokens) -> Tensor:
        """The transform of the reused output (B, N, D), or of the reused map on the own values.

        With `own_input`, the own hidden states stand behind it: (B, N, 2·D). The map is zero
        where the keys are padding, so the mask has its say.
        """
        assert reused is not None
        if self.tensor == "map":
            if self.own_rows:
                own = self._own_map(stream, tokens.sizes)
                reused = torch.cat((own, reused[:, :, self.own_rows :]), dim=2)
            reused = join_heads(reused @ _heads(self, self.value(stream)))
        features = cast(Tensor, self.transform(reused))
        return torch.cat((features, stream), dim=-1) if self.own_input else features

    def _own_map(self, stream: Tensor, sizes_BN: Tensor | None) -> Tensor:
        """The first rows of its own map, (B, H, rows, N)."""
        known = mask_of(stream).float() if sizes_BN is None else sizes_BN
        query = _heads(self, self.query(stream[:, : self.own_rows])) * self.scale
        scores = query @ _heads(self, self.key(stream)).mT
        return (scores + keys_of(known).log().to(scores.dtype)).softmax(dim=-1)

    def merge(self, stream: Tensor, features: Tensor) -> Tensor:
        """Projection and residual."""
        return masked(stream + self.dropout(self.dense(features)), mask_of(stream))

    def after(self, stream: Tensor) -> Tensor:
        """The norm behind the attention, the MLP, its residual and norm."""
        normed = self.norm(stream)
        return masked(self.output(self.intermediate(normed), normed), mask_of(stream))


class BertAdapter(Adapter):
    """`TextClassifier` on BERT, RoBERTa or ELECTRA."""

    family = "BERT, RoBERTa, ELECTRA (through trex.models.bert.from_transformers)"
    no_products = "an encoder of texts"

    def owns(self, model: nn.Module) -> bool:
        """Exactly TReX's class."""
        return type(model) is TextClassifier

    def check(self, model: nn.Module, name: str) -> None:
        """Every layer must have the children listed above."""
        for index, block in enumerate(cast(Any, model).encoders):
            where = f"{name}.encoders.{index}"
            if type(block) is not EncoderBlock:
                raise ModelError(
                    f"{where} is a {type(block).__name__}, which TReX does not understand",
                    hint="make the model with trex.models.bert.from_transformers",
                )
            for path, understood in _CHILDREN.items():
                part = block.layer.get_submodule(path) if path else block.layer
                _check_children(part, understood, f"{where}.layer.{path}".rstrip("."))

    def containers(self, model: nn.Module) -> Sequence[str]:
        """All encoders are in `encoders`."""
        return ("encoders",)

    def layout(self, model: nn.Module) -> Layout:
        """The first token is what the classifier reads; it is never merged."""
        return Layout(
            stages=stages_of(model, self.containers(model)),
            tokens=cast(TextClassifier, model).tokens,
            protected=1,
            class_tokens=1,
            class_rows=1,
            no_map_rows="a text's words have no fixed places",
        )

    def stem(self, model: nn.Module, images: Tensor) -> Tensor:
        """Embeddings, from inputs (B, 2, N)."""
        return cast(TextClassifier, model).stem(images)

    def head(self, model: nn.Module, stream: Tensor) -> Tensor:
        """Pooler and classifier."""
        return cast(TextClassifier, model).head(stream)

    def attend(
        self,
        block: nn.Module,
        stream: Tensor,
        wanted: frozenset[Wanted],
        *,
        sizes: Tensor | None = None,
        rows: AttentionRows = None,
        tokens: Tokens | None = None,
    ) -> tuple[Tensor, dict[Wanted, Tensor]]:
        """Attention on the layer's own children, fused unless the map itself is reused."""
        attention = _attention(block)
        key, value = (_heads(attention, part(stream)) for part in (attention.key, attention.value))
        groups, own = None, stream
        if isinstance(rows, int):
            own = stream[:, :rows]
        elif rows is not None:
            groups = rows.groups(key.mean(dim=1))
            own = groups.mean(stream)
        query = _heads(attention, attention.query(own))
        dropout = attention.dropout.p if attention.training else 0.0
        scale = attention.attention_head_size**-0.5
        # padding stands for no token: the logarithm of its size masks it
        known = mask_of(stream).float() if sizes is None else sizes
        bias = keys_of(known).log().to(query.dtype)
        kept: dict[Wanted, Tensor] = {}
        if "map" in wanted:
            probabilities = ((query * scale) @ key.mT + bias).softmax(dim=-1)
            kept["map"] = probabilities if groups is None else map_rows(probabilities, groups)
            context = F.dropout(probabilities, dropout) @ value
        else:
            context = F.scaled_dot_product_attention(
                query, key, value, attn_mask=bias, dropout_p=dropout, scale=scale
            )
        output = join_heads(context)
        if "output" in wanted:
            kept["output"] = output if groups is None else groups.copies(output)
        if "keys" in wanted:
            kept["keys"] = key.mean(dim=1)
        if groups is not None:
            kept["groups"] = groups.target
        return output, kept

    def sizes(self, stream: Tensor) -> Tensor:
        """One for words, zero for padding."""
        return mask_of(stream).float()

    def branch(self, block: nn.Module, output: Tensor) -> Tensor:
        """Projection; the norm behind the residual belongs to `after`."""
        parts = cast(Any, block).layer.attention.output
        return cast(Tensor, parts.dropout(parts.dense(output)))

    def join(self, block: nn.Module, stream: Tensor, branch: Tensor) -> Tensor:
        """The residual; padding stays zero."""
        return masked(stream + branch, mask_of(stream))

    def after(self, block: nn.Module, stream: Tensor) -> Tensor:
        """The norm behind the attention, the MLP, its residual and norm."""
        layer = cast(Any, block).layer
        normed = layer.attention.output.LayerNorm(stream)
        return masked(layer.output(layer.intermediate(normed), normed), mask_of(stream))

    def projection(self, block: nn.Module) -> nn.Linear:
        """The attention's output layer."""
        return cast(nn.Linear, cast(Any, block).layer.attention.output.dense)

    def linears(self, block: nn.Module) -> tuple[Linear, ...]:
        """Of a whole layer."""
        return _LINEARS

    def class_tokens(self, model: nn.Module) -> int:
        """The first token is what the classifier reads."""
        return 1

    def make_consumer(self, block: nn.Module, form: ConsumerForm) -> Consumer:
        """There is no scale to fold."""
        return BertConsumer(cast(Any, block).layer, form)

    def token_weights(self, model: nn.Module, stream: Tensor, class_weight: float) -> Tensor:
        """`class_weight` for the first token, one for the others, zero for padding."""
        weights = mask_of(stream).to(stream.dtype)
        weights[:, 0] *= class_weight
        return weights

    def architecture(self, model: nn.Module, name: str) -> Architecture:
        """Every operation at `model.tokens` tokens; looking up embeddings is none."""
        text = cast(Any, model)
        tokens, config = text.tokens, text.config
        dim = config.hidden_size
        width = text.embeddings.word_embeddings.embedding_dim
        stem = [
            _pointwise("embeddings.add", "stem", "add", tokens, width),
            _pointwise("embeddings.LayerNorm", "stem", "layer_norm", tokens, width),
        ]
        if isinstance(text.embeddings_project, nn.Linear):
            stem.append(_linear("embeddings_project", "stem", tokens, width, dim))
        head: list[Operation] = []
        layers = (
            (where, layer)
            for part in ("pooler", "classifier")
            for where, layer in getattr(text, part).named_modules(prefix=part)
            if isinstance(layer, nn.Linear)
        )
        for where, layer in layers:
            if head:
                function = "gelu" if config.model_type == "electra" else "tanh"
                head.append(_pointwise(f"{where}.input", "head", function, 1, dim))
            head.append(_linear(where, "head", 1, layer.in_features, layer.out_features))
        encoders = (_encoder(i, tokens, config) for i in range(len(text.encoders)))
        return Architecture(
            model=name,
            body=(*stem, *encoders, *head),
            layout=self.layout(model),
            uncounted=("looking up the embeddings of tokens and positions",),
        )


def _heads(attention: Any, vectors_BND: Tensor) -> Tensor:
    """(B, N, D) to (B, H, N, E)."""
    batch, tokens, width = vectors_BND.shape
    heads = attention.num_attention_heads
    return vectors_BND.view(batch, tokens, heads, width // heads).transpose(1, 2)


def _attention(block: nn.Module) -> Any:
    return getattr(cast(Any, block).layer.attention, "self")  # noqa: B009 (a child's name)


def _check_children(module: nn.Module, understood: dict[str, tuple[str, ...]], where: str) -> None:
    children = dict(module.named_children())
    for child, part in children.items():
        kind = type(part).__name__
        for prefix in _PREFIXES if type(part).__module__.startswith("transformers.") else ():
            kind = kind.removeprefix(prefix)
        if kind not in understood.get(child, ()):
            raise ModelError(
                f"{where}.{child} is a {type(part).__name__}, which TReX does not understand",
                hint="this model variant cannot reuse attention; choose another of its family",
            )
    if missing := sorted(understood.keys() - children.keys()):
        raise ModelError(f"{where} has no {missing[0]}", hint="is transformers too old or new?")


def _widened(dense: nn.Linear, own_dim: int) -> nn.Linear:
    """A copy of `dense` with zeros for `own_dim` further inputs."""
    like: dict[str, Any] = {"device": dense.weight.device, "dtype": dense.weight.dtype}
    made = nn.Linear(dense.in_features + own_dim, dense.out_features, **like)
    with torch.no_grad():
        made.weight.zero_()
        made.weight[:, : dense.in_features] = dense.weight
        made.bias.copy_(dense.bias)
    return made


def _encoder(index: int, tokens: int, config: Any) -> Encoder:
    """A ViT's encoder with its norms behind the residuals: a consumer needs both."""
    encoder = vit_encoder(
        index,
        tokens=tokens,
        dim=config.hidden_size,
        heads=config.num_attention_heads,
        mlp_hidden=config.intermediate_size,
    )
    first, *others = encoder.operations
    last = replace(first, name=f"blocks.{index}.norm3", part="norm")
    return replace(encoder, operations=(*others, last))


def _linear(name: str, part: str, vectors: int, i: int, o: int) -> Operation:
    return Operation(
        name=name, kind="static_matmul", part=part, vectors=vectors,
        in_features=i, out_features=o, bias=True,
    )  # fmt: skip


def _pointwise(name: str, part: str, function: str, vectors: int, width: int) -> Operation:
    return Operation(
        name=name, kind="elementwise", part=part, vectors=vectors, out_features=width,
        function=function,
    )  # fmt: skip
