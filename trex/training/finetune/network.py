"""Running a model so that losses see more than its logits.

Letters in tensor names: B images, N tokens, D width, C classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trex.models.adapter import Adapter
from trex.models.lvvit import TokenOutputs
from trex.models.lvvit.tokens import TokenBox
from trex.reuse.apply import route_of
from trex.reuse.route import Passed, State, Step, run_model


class Outputs(NamedTuple):
    """What losses compare; states are without what later encoders reuse."""

    logits_BC: Tensor
    #: what the head reads, before the final norm: the family's own shape, merged tokens copied
    #: back to their places where it reads all of them
    stream: Tensor
    #: behind the last encoder: its tokens, and how many of the original's each stands for
    state: State
    #: behind the encoders asked for
    encoders: dict[int, State]
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

    The executor runs it and shows what is asked for: there are no hooks, and
    `torch.nn.parallel` sees one forward.

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
        self._route = route_of(model, adapter)

    def forward(self, images: Tensor) -> Outputs:
        """From images (B, channels, height, width)."""
        seen: dict[int, State] = {}

        def see(step: Step, passed: Passed) -> None:
            if step.index in self._wanted:
                seen[step.index] = passed.left._replace(kept={})

        state, logits = run_model(
            self.model, self._adapter, self._route, images, run=self._run, see=see
        )
        stream = self._route.leave(state)
        tokens = self._tokens(stream) if self._dense else None
        return Outputs(logits, stream, state._replace(kept={}), seen, tokens)

    def _run(self, function: Any, *args: Any) -> Passed:
        if self._checkpointing and self.training:
            return cast(Passed, checkpoint(function, *args, use_reentrant=False))
        return cast(Passed, function(*args))

    def _tokens(self, stream: Tensor) -> TokenOutputs:
        image, patches = self._adapter.token_outputs(self.model, stream)
        return TokenOutputs(image, patches, TokenBox(0, 0, 0, 0))
