"""Running a model so that losses see more than its logits.

Letters in tensor names: B images, N tokens, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trex.models.adapter import Adapter
from trex.models.lvvit import TokenOutputs
from trex.models.lvvit.tokens import TokenBox
from trex.plan import ReusedTensor, ReusePlan
from trex.reuse import reuse_of

ResultT = TypeVar("ResultT")


class Outputs(NamedTuple):
    """What losses compare."""

    logits_BC: Tensor
    #: behind the last encoder, before the final norm; the family's own shape
    stream: Tensor
    #: behind the encoders asked for
    encoders: dict[int, Tensor]
    #: LV-ViT's classifiers of the image and of every patch, where asked for
    tokens: TokenOutputs | None


def training_mode(model: nn.Module) -> nn.Module:
    """`model.train()`, but batch norms keep their statistics: the fit was made for these."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


class Observed(nn.Module):
    """A model, original or variant, whose forward puts out `Outputs`.

    It takes the adapter's steps, one encoder after another, and keeps what is asked for: there
    are no hooks, and `torch.nn.parallel` sees one forward.

    Args:
        model: shared, not copied.
        adapter: of its family.
        encoders: whose outputs are wanted.
        dense: whether the patches' logits are (LV-ViT only).
        checkpointing: recompute encoders in the backward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: Adapter,
        *,
        encoders: frozenset[int] = frozenset(),
        dense: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self._adapter = adapter
        self._wanted = encoders
        self._dense = dense
        self._checkpointing = checkpointing
        self._plan = (reuse_of(model) or (ReusePlan.parse(""), {}))[0]

    def forward(self, images: Tensor) -> Outputs:
        """From images (B, channels, height, width)."""
        adapter, index = self._adapter, 0
        stream = adapter.stem(self.model, images)
        kept: dict[tuple[int, ReusedTensor], Tensor] = {}
        seen: dict[int, Tensor] = {}
        for name in adapter.containers(self.model):
            for block in cast(nn.Sequential, self.model.get_submodule(name)):
                reuse = self._plan.reuse_of(index)
                if reuse is not None:
                    reused = kept[reuse.source, reuse.tensor]
                    stream = self._run(block, stream, reused)
                else:
                    tensors = frozenset(r.tensor for r in self._plan if r.source == index)
                    stream, offered = self._run(self._produce, block, stream, tensors)
                    kept |= {(index, tensor): value for tensor, value in offered.items()}
                if index in self._wanted:
                    seen[index] = stream
                stream = adapter.between(self.model, index, stream)
                index += 1
        logits = adapter.head(self.model, stream)
        return Outputs(logits, stream, seen, self._tokens(stream) if self._dense else None)

    def _produce(
        self, block: nn.Module, stream: Tensor, tensors: frozenset[ReusedTensor]
    ) -> tuple[Tensor, dict[ReusedTensor, Tensor]]:
        adapter = self._adapter
        stream = adapter.before(block, stream)
        output, offered = adapter.attend(block, stream, tensors)
        return adapter.after(block, adapter.merge(block, stream, output)), offered

    def _run(self, function: Callable[..., ResultT], *args: Any) -> ResultT:
        if self._checkpointing and self.training:
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)

    def _tokens(self, stream: Tensor) -> TokenOutputs:
        lvvit = cast(Any, self.model)
        tokens_BND = lvvit.norm(stream)
        return TokenOutputs(
            lvvit.head(tokens_BND[:, 0]), lvvit.aux_head(tokens_BND[:, 1:]), TokenBox(0, 0, 0, 0)
        )
