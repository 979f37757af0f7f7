"""What TReX needs to know of a model family: one adapter each, and nothing else anywhere.

An adapter never copies a model's forward: it calls the model's own children, step by step, and
refuses a model with a child it does not understand. The steps of a model are

    stem ─> encoder 0 ─> between 0 ─> encoder 1 ─> ... ─> head

and of an encoder

    before ─> attend ─> branch (projection) ─> join (residual) ─> after (MLP, residual)

Neither the token count nor the width need be the same in all encoders: a stream is whatever tensor
the family passes from step to step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from trex.architecture import Architecture
from trex.errors import ModelError, ReuseError
from trex.plan import Layout, ReusedTensor

#: What can be asked of an attention beside its output; `keys` are the means over heads, `groups`
#: the row that every token has where rows are shared.
Wanted = Literal["output", "map", "keys", "groups"]


class Groups(Protocol):
    """Tokens that share rows; shapes are (B, tokens or rows, width)."""

    @property
    def target(self) -> Tensor:
        """(B, N), the row that every token has."""

    def mean(self, rows_BND: Tensor, /) -> Tensor:
        """From tokens to the means of those that share a row."""

    def copies(self, rows_BMD: Tensor, /) -> Tensor:
        """From rows to all tokens that have them."""


class RowSharing(Protocol):
    """How the tokens of an attention come to share rows."""

    def groups(self, keys_BNE: Tensor, /) -> Groups:
        """Who shares a row, by keys."""


#: The rows of an attention: the first so many, shared ones, or None for every token's own.
AttentionRows = int | RowSharing | None


class Products(nn.Module):
    """An attention's own way to multiply; a child called `products`, where it has one.

    Without it the two products are plain ones, fused where nobody needs the map.
    """

    def scores(self, query_BHNE: Tensor, key_BHNE: Tensor) -> Tensor:
        """QKᵀ of queries that are scaled already, (B, H, N, N)."""
        return query_BHNE @ key_BHNE.transpose(-2, -1)

    def context(self, map_BHNN: Tensor, value_BHNE: Tensor) -> Tensor:
        """The attention probabilities' mean of the values, (B, H, N, E)."""
        return map_BHNN @ value_BHNE


class Linear(NamedTuple):
    """A linear layer of an encoder, or a convolution.

    Attributes:
        path: of the module in the encoder.
        parts: by `Operation.part`, whose outputs lie side by side in its own: Q, K and V, or one.
    """

    path: str
    parts: tuple[str, ...]


class ProductsAt(NamedTuple):
    """Where an encoder multiplies matrices that are both computed.

    Attributes:
        path: of the attention; the adapter's `attend` asks its child `products` if there is one.
        heads: how many products it computes side by side.
        parts: by `Operation.part`: `scores` and `context`; of consumers of maps the latter only.
        stepwise: the attention such that the encoder's own forward asks that child too: itself,
            or a stand-in that shares its other children.
    """

    path: str
    heads: int
    parts: frozenset[str]
    stepwise: nn.Module


#: What to do where an encoder of a variant was called alone.
ALONE: Final = (
    "forward_intermediates, attention masks and timm's own checkpointing call encoders one by "
    "one, which cannot work here: call the whole model, checkpoint with "
    "trex.reuse.set_grad_checkpointing, or undo the plan with trex.remove_plan"
)


class Adapter(ABC):
    """The contract of a model family. Adapters are stateless.

    Shapes are the family's own; for ViTs a stream is (B, N, D): images, tokens, width.
    """

    #: the family's name in messages and records
    family: str
    #: what encoders are whose products cannot be replaced: "a convolution"; empty where they can
    no_products: str = ""
    #: under which name the model hands its encoders `places`, where it calls them one by one
    place_argument: str = ""
    #: whether the model calls its encoders one by one although a `Sequential` holds them
    one_by_one: bool = False
    #: whether it has a classifier of patches beside the image's: `token_outputs`
    classifies_patches: bool = False

    @abstractmethod
    def owns(self, model: nn.Module) -> bool:
        """Whether `model` is of this family; says nothing about whether it can reuse."""

    @abstractmethod
    def check(self, model: nn.Module, name: str) -> None:
        """Look at every part of `model`.

        Raises:
            ModelError: some part is not understood; the message names it.
        """

    @abstractmethod
    def containers(self, model: nn.Module) -> Sequence[str]:
        """Dotted names of the `Sequential`s or `ModuleList`s that hold the encoders, in order.

        Encoders of one container can exchange attention; across containers they cannot.
        """

    @abstractmethod
    def layout(self, model: nn.Module) -> Layout:
        """Which plans the model can run."""

    @abstractmethod
    def stem(self, model: nn.Module, images: Tensor) -> Tensor:
        """From images (B, C, H, W) to the stream that enters encoder 0."""

    def places(self, model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """What the model hands its encoders beside the stream: where its first tokens are.

        The same for all images: one tensor for all encoders, or one each; none in families whose
        tokens know their places themselves.
        """
        return ()

    def between(self, model: nn.Module, encoder: int, stream: Tensor) -> Tensor:
        """From encoder `encoder`'s output to the next one's input; isotropic models: nothing."""
        return stream

    @abstractmethod
    def head(self, model: nn.Module, stream: Tensor) -> Tensor:
        """From the last encoder's output to logits (B, classes)."""

    def before(self, block: nn.Module, stream: Tensor) -> Tensor:
        """What an encoder does before its attention branch; ViTs: nothing."""
        return stream

    @abstractmethod
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
        """A producer's attention: its output, and what else is wanted of it.

        The output is the projection's input, (B, N, D) for ViTs; a map is (B, heads, N, N); keys
        are (B, N, width of a head). Where rows are shared the output is that of the rows, for
        `spread` to copy behind the projection; what else is wanted is every token's.

        Args:
            block: the encoder.
            stream: what enters its attention.
            wanted: what else.
            sizes: (B, N), how many tokens each stands for: attention is proportional to them.
                None for one each, and always where the layout refuses merging.
            rows: which queries; a number only where the layout allows class rows.
            tokens: those of the stream, where the family's model hands its encoders places.
        """

    @abstractmethod
    def branch(self, block: nn.Module, output: Tensor) -> Tensor:
        """The attention branch behind its products: projection of `output`, scaling."""

    def spread(self, block: nn.Module, branch: Tensor, groups: Groups) -> Tensor:
        """A branch of shared rows as one of all tokens."""
        return groups.copies(branch)

    def residual(self, block: nn.Module, stream: Tensor) -> Tensor:
        """What is added to the attention branch: the stream, which some families scale.

        Args:
            block: an encoder or a consumer.
            stream: what enters its attention.
        """
        return stream

    def join(self, block: nn.Module, stream: Tensor, branch: Tensor) -> Tensor:
        """The stream after the attention branch."""
        return self.residual(block, stream) + branch

    @abstractmethod
    def after(self, block: nn.Module, stream: Tensor) -> Tensor:
        """The rest of the encoder: MLP and its residual."""

    @abstractmethod
    def projection(self, block: nn.Module) -> nn.Linear:
        """A producer's projection; a copy where a convolution has to be made linear."""

    @abstractmethod
    def linears(self, block: nn.Module) -> tuple[Linear, ...]:
        """All layers of an original encoder that multiply by weights.

        Those of one part are in the order of the encoder's operations. Of consumers too, where
        products can be replaced.
        """

    def products(self, block: nn.Module) -> ProductsAt | None:
        """Where an encoder's products can be replaced.

        None for consumers that have none, and in families where `no_products` says that they
        cannot.
        """
        return None

    @abstractmethod
    def make_consumer(self, block: nn.Module, form: ConsumerForm) -> Consumer:
        """A consumer from a producer's own children; what it does not use is left behind.

        The producer keeps its modules (they are shared, nothing is copied) but `proj`, which the
        consumer owns: the branch's scale is folded into it.

        Args:
            block: an encoder `check` has accepted.
            form: what it becomes; average maps and own rows only where the layout allows them.
        """

    def sizes(self, stream: Tensor) -> Tensor | None:
        """(B, N), how many tokens each vector of the first stream stands for: 0 for padding.

        None, where that is one each.
        """
        return None

    def class_tokens(self, model: nn.Module) -> int:
        """The first so many tokens are class tokens that the head reads, beside patches or not."""
        return 0

    def token_outputs(self, model: nn.Module, stream: Tensor) -> tuple[Tensor, Tensor]:
        """From what the head reads to logits of the image (B, C) and of every patch (B, N, C).

        Raises:
            ModelError: the family has no classifier of patches.
        """
        raise ModelError(
            f"{self.family}: there is no classifier of patches, which token labels need",
            hint="leave losses.dense 0, or fine-tune an LV-ViT",
        )

    def token_weights(self, model: nn.Module, stream: Tensor, class_weight: float) -> Tensor:
        """How much the error of each vector of `stream` counts in a fit; ones by default.

        The shape is that of `vectors(stream)` without the last dimension.
        """
        return torch.ones_like(self.vectors(stream)[..., 0])

    def vectors(self, stream: Tensor) -> Tensor:
        """The stream with its width last, (B, …, D), as linear layers see it."""
        return stream

    @abstractmethod
    def architecture(self, model: nn.Module, name: str) -> Architecture:
        """The operations of `model` on one image; parameters may be on the meta device."""


def stages_of(model: nn.Module, containers: Sequence[str]) -> tuple[int, ...]:
    """For every encoder the number of its container, as `Layout` has it."""
    sizes = [len(list(model.get_submodule(name).children())) for name in containers]
    return tuple(stage for stage, size in enumerate(sizes) for _ in range(size))


class PlannedEncoders(nn.Sequential):
    """A container whose encoders run a plan: what tells a variant from an original."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsumerForm:
    """What a consumer is made of.

    Attributes:
        tensor: what it reuses.
        transform: what stands between the reused tensor and the projection.
        own_input: whether its first norm stays, for a transform that reads its own input.
        average_tokens: of its heads' average maps; 0 where it has none.
        mixes: whether the source's maps are added to these, mixed across heads.
        own_rows: the first so many rows of its map are its own.
    """

    tensor: ReusedTensor
    transform: nn.Module
    own_input: bool = False
    average_tokens: int = 0
    mixes: bool = False
    own_rows: int = 0


class Tokens(Protocol):
    """What an encoder may ask about the tokens of its stream."""

    @property
    def sizes(self) -> Tensor | None:
        """(B, N), how many tokens each stands for; None for one each."""

    @property
    def place(self) -> Tensor | None:
        """What the model hands the encoder of its first tokens' places; see `Adapter.places`."""

    def tokens_of(self, rows_BND: Tensor, /) -> Tensor:
        """Rows of the model's first tokens as these tokens' means, (B or 1, N, D)."""

    def map_of(self, map_HNN: Tensor, /) -> Tensor:
        """A map over the model's first tokens as one over these, (B or 1, H, N, N)."""


class Consumer(nn.Module, ABC):
    """An encoder that reuses an earlier one's attention.

    `features` turns the stream and the reused tensor into the projection's input; `merge` and
    `after` are the adapter's steps on what the consumer kept. `projection` is the linear map a
    closed-form fit solves for: merged = residual of the stream + projection(features).
    """

    tensor: ReusedTensor

    #: of its average maps, tokens; 0 where it has none
    average_tokens: int = 0

    def set_mixing(self, average_HNN: Tensor, mix_HH: Tensor | None) -> None:
        """Give a consumer of mixed or average maps its constants.

        Args:
            average_HNN: what is added to the mixed maps.
            mix_HH: of every own head, the source's heads' weights; None without a source.
        """
        raise NotImplementedError

    def put_out(self, stream_BND: Tensor) -> Tensor:
        """What a head's weight on a token adds to the branch, (B, H, N, D), of mixed maps.

        That is every head's values through its part of the projection.
        """
        raise NotImplementedError

    @property
    @abstractmethod
    def projection(self) -> nn.Linear:
        """The consumer's own projection, branch scale folded in, bias always present."""

    @abstractmethod
    def before(self, stream: Tensor) -> Tensor:
        """What comes before the attention branch."""

    @abstractmethod
    def features(self, stream: Tensor, reused: Tensor | None, tokens: Tokens) -> Tensor:
        """The projection's input, (B, N, D) for ViTs; only an average map reuses nothing."""

    @abstractmethod
    def merge(self, stream: Tensor, features: Tensor) -> Tensor:
        """The stream after the attention branch."""

    @abstractmethod
    def after(self, stream: Tensor) -> Tensor:
        """The rest of the encoder."""

    def forward(self, stream: Tensor, **options: object) -> Tensor:
        """What nobody can do: a consumer runs by its steps, with its source's attention.

        Raises:
            ReuseError: always; some of timm's features call single blocks.
        """
        raise ReuseError(
            "an encoder that reuses attention was called without its source's attention",
            hint=ALONE,
        )


def image_channels(module: nn.Module) -> int:
    """Channels of the images that a model, or its stem, takes: those of its first convolution."""
    return next(m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d))
