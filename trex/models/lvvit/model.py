"""LV-ViT, put together.

Letters in tensor names: B images, H×W patches, N tokens (class token first), D width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import torch
from timm.layers import resample_abs_pos_embed, trunc_normal_
from timm.models import checkpoint_seq
from torch import Tensor, nn

from trex.errors import ModelError, WeightsError
from trex.models._checkpoint import unwrap_checkpoint
from trex.models.lvvit.layers import ConvStem, LVBlock
from trex.models.lvvit.tokens import TokenBox, TokenOutputs, mix_tokens, random_box

#: Weight of the best patch token's logits beside the class token's in evaluation.
AUX_WEIGHT: Final = 0.5


class LVViT(nn.Module):
    """LV-ViT: in evaluation one logits tensor (B, C), in training `TokenOutputs`.

    Args:
        img_size: height and width, or one number for both.
        in_chans: channels of an image.
        num_classes: 0 leaves the classifiers out; the model then returns the class token (B, D).
        embed_dim: width of a token.
        depth: number of encoders.
        num_heads: attention heads of an encoder.
        mlp_ratio: hidden width of an MLP by the token's.
        skip_lam: what residual branches are divided by.
        stem_width: filters of the stem's first three convolutions.
        mix_token: swap a box of patches between images in training (the published recipe does).
            Off by default: a forward must not change its images unasked.
        drop_rate: dropout of the embedded tokens.
        proj_drop_rate: dropout after the attention projection and in the MLP.
        attn_drop_rate: dropout of the attention probabilities.
        drop_path_rate: stochastic depth of the last encoder, rising linearly from 0 at the first
            (published recipes: 0.1, 0.2 and 0.3 for S, M and L).
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 384,
        depth: int = 16,
        num_heads: int = 6,
        mlp_ratio: float = 3.0,
        skip_lam: float = 2.0,
        stem_width: int = 64,
        mix_token: bool = False,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.num_prefix_tokens = 1
        self.grad_checkpointing = False
        self.mix_token = mix_token

        self.patch_embed = ConvStem(img_size, in_chans, embed_dim, stem_width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.patch_embed.num_patches + 1, embed_dim))
        self.pos_drop = nn.Dropout(drop_rate)
        encoder = partial(
            LVBlock, embed_dim, num_heads, mlp_ratio, skip_lam, proj_drop_rate, attn_drop_rate
        )
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.blocks = nn.Sequential(*(encoder(drop_path=rate) for rate in rates))
        self.norm = nn.LayerNorm(embed_dim)
        self.head = self._classifier()
        self.aux_head = self._classifier()

        trunc_normal_(self.cls_token, std=0.02)
        trunc_normal_(self.pos_embed, std=0.02)
        self.apply(_init_linear)

    def _classifier(self) -> nn.Module:
        return nn.Linear(self.embed_dim, self.num_classes) if self.num_classes else nn.Identity()

    def embed_tokens(self, patches_BHWD: Tensor) -> Tensor:
        """The first encoder's input (B, N, D): class token, patches, positions."""
        patches_BND = patches_BHWD.flatten(1, 2)
        class_B1D = self.cls_token.expand(patches_BND.shape[0], -1, -1)
        tokens: Tensor = self.pos_drop(torch.cat((class_B1D, patches_BND), 1) + self.pos_embed)
        return tokens

    def forward_tokens(self, patches_BHWD: Tensor) -> Tensor:
        """From embedded patches to the normalised tokens (B, N, D) behind the last encoder."""
        x = self.embed_tokens(patches_BHWD)
        x = checkpoint_seq(self.blocks, x) if self.grad_checkpointing else self.blocks(x)
        tokens: Tensor = self.norm(x)
        return tokens

    def forward_features(self, images: Tensor) -> Tensor:
        """The tokens (B, N, D) of images (B, channels, height, width)."""
        return self.forward_tokens(self.patch_embed(images))

    def forward_head(self, tokens_BND: Tensor, pre_logits: bool = False) -> Tensor:
        """The logits (B, C) of tokens: the class token's plus half the patches' maxima."""
        class_BD = tokens_BND[:, 0]
        if pre_logits or not self.num_classes:
            return class_BD
        patch_logits_BNC = self.aux_head(tokens_BND[:, 1:])
        logits: Tensor = self.head(class_BD) + AUX_WEIGHT * patch_logits_BNC.amax(dim=1)
        return logits

    def forward(self, images: Tensor) -> Tensor | TokenOutputs:
        """Logits in evaluation, `TokenOutputs` in training."""
        if self.training and self.num_classes:
            return self._forward_training(images)
        return self.forward_head(self.forward_features(images))

    def _forward_training(self, images: Tensor) -> TokenOutputs:
        height, width = self.patch_embed.grid_size
        box = random_box(height, width) if self.mix_token else TokenBox(0, 0, 0, 0)
        tokens_BND = self.forward_tokens(mix_tokens(self.patch_embed(images), box))
        grid_BHWC = self.aux_head(tokens_BND[:, 1:]).unflatten(1, (height, width))
        return TokenOutputs(
            self.head(tokens_BND[:, 0]), mix_tokens(grid_BHWC, box).flatten(1, 2), box
        )

    def get_classifier(self) -> nn.Module:
        """The class token's classifier; `aux_head` is the patches'."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace both classifiers by fresh ones.

        Raises:
            ModelError: `global_pool` asks for something other than the class token.
        """
        if global_pool not in (None, "", "token"):
            raise ModelError(
                f"LV-ViT classifies its class token; it cannot pool by {global_pool!r}",
                hint='leave global_pool out, or give "token"',
            )
        self.num_classes = num_classes
        for name in ("head", "aux_head"):
            classifier = self._classifier().to(self.pos_embed.device, self.pos_embed.dtype)
            _init_linear(classifier)
            setattr(self, name, classifier.train(self.training))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute encoders in the backward pass instead of keeping their activations."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters timm's optimisers leave without weight decay."""
        return {"pos_embed", "cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How timm groups the parameters by depth, for layer-wise learning rates."""
        return {
            "stem": r"^cls_token|pos_embed|patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def checkpoint_filter_fn(checkpoint: Mapping[str, Any], model: LVViT) -> dict[str, Tensor]:
    """Weights for `model` out of a published checkpoint file's contents.

    Position embeddings of another image size are resampled from a square grid to the model's.

    Raises:
        WeightsError: the weights are of another kind of model, or of another width.
    """
    weights = unwrap_checkpoint(checkpoint)
    pos_embed = weights.get("pos_embed")
    if pos_embed is None or "patch_embed.conv1.weight" not in weights:
        raise WeightsError(
            "the checkpoint is not of an LV-ViT: it has no pos_embed or no patch_embed.conv1",
            hint="check the file, or name the model it was saved from",
        )
    if pos_embed.shape[-1] != model.embed_dim:
        raise WeightsError(
            f"the checkpoint is of an LV-ViT {pos_embed.shape[-1]} wide, "
            f"but the model is {model.embed_dim} wide",
            hint="lvvit_t is 240 wide, lvvit_s 384, lvvit_m 512 and lvvit_l 768",
        )
    if pos_embed.shape[1] != model.pos_embed.shape[1]:
        patches = pos_embed.shape[1] - 1
        if round(patches**0.5) ** 2 != patches:
            raise WeightsError(
                f"the checkpoint's {patches} position embeddings are not of a square image",
                hint="give the img_size the checkpoint was trained with",
            )
        weights["pos_embed"] = resample_abs_pos_embed(
            pos_embed, new_size=model.patch_embed.grid_size, num_prefix_tokens=1
        )
    return weights
