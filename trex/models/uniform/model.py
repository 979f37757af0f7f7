"""UniForm, put together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from timm.layers import to_2tuple
from timm.models import checkpoint_seq
from torch import Tensor, nn

from trex.errors import ModelError, WeightsError
from trex.models._checkpoint import unwrap_checkpoint
from trex.models.uniform.attention import SharedMapAttention, WindowAttention
from trex.models.uniform.layers import ConvBN, Ffn, Head, PatchMerging, Residual, Stem, depthwise

#: Rows and columns of a window, where the feature map is not smaller.
WINDOW: Final = 7
#: Sides of the value kernels, head by head.
KERNELS: Final = (1, 3, 5, 7)


class UniFormBlock(nn.Module):
    """An encoder: window attention between two pairs of depth-wise convolution and FFN."""

    def __init__(self, attn: SharedMapAttention) -> None:
        super().__init__()
        self.dw0 = depthwise(attn.dim, bn_weight=0.0)
        self.ffn0 = Residual(Ffn(attn.dim))
        self.mixer = Residual(WindowAttention(attn))
        self.dw1 = depthwise(attn.dim, bn_weight=0.0)
        self.ffn1 = Residual(Ffn(attn.dim))

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (B, C, H, W) in and out."""
        x = self.mixer(self.ffn0(self.dw0(x)))
        x = self.ffn1(self.dw1(x))
        return x


class UniFormStage(nn.Module):
    """Encoders of one width and resolution, behind a downsampling where the width before differs.

    Encoders of a stage can exchange attention; between stages the maps have other sizes.

    Args:
        in_dim: width of the stage before; None for the first stage, which takes the stem's.
        dim: width.
        blocks: the encoders.
    """

    def __init__(self, in_dim: int | None, dim: int, blocks: Sequence[UniFormBlock]) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample: nn.Module = nn.Identity()
        if in_dim is not None:
            self.downsample = nn.Sequential(
                OrderedDict(
                    res1=nn.Sequential(depthwise(in_dim), Residual(Ffn(in_dim))),
                    patchmerge=PatchMerging(in_dim, dim),
                    res2=nn.Sequential(depthwise(dim), Residual(Ffn(dim))),
                )
            )
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, `in_dim`, H, W) to (B, `dim`, ⌈H/2⌉, ⌈W/2⌉); the first stage keeps the size."""
        x = self.downsample(x)
        x = checkpoint_seq(self.blocks, x) if self.grad_checkpointing else self.blocks(x)
        return x


class UniForm(nn.Module):
    """UniForm: a stem, three stages at strides 16, 32 and 64, and a linear head.

    Args:
        img_size: height and width, or one number for both; multiples of 16. Windows larger than
            a stage's feature map shrink to it.
        in_chans: channels of an image.
        num_classes: 0 leaves the head out; the model then returns pooled features (B, C).
        embed_dim: width of each stage.
        depth: encoders of each stage.
        num_heads: attention heads of each stage.
        drop_rate: dropout before the head's linear layer.

    Raises:
        ModelError: these numbers do not make a model.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: Sequence[int] = (64, 128, 192),
        depth: Sequence[int] = (1, 2, 2),
        num_heads: Sequence[int] = (4, 4, 4),
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.img_size: tuple[int, int] = tuple(to_2tuple(img_size))
        if any(side < 16 or side % 16 for side in self.img_size):
            raise ModelError(
                f"UniForm cannot take images of {self.img_size[0]}×{self.img_size[1]} pixels",
                hint="give an img_size whose sides are multiples of 16",
            )
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        self.num_features = self.head_hidden_size = embed_dim[-1]
        self.patch_embed = Stem(in_chans, embed_dim[0])
        side = min(self.img_size) // 16
        stages: list[UniFormStage] = []
        self.feature_info: list[dict[str, Any]] = []
        in_dim: int | None = None
        for i, (dim, count, heads) in enumerate(zip(embed_dim, depth, num_heads, strict=True)):
            if in_dim is not None:
                side = -(-side // 2)
            window = min(WINDOW, side)
            blocks = [
                UniFormBlock(SharedMapAttention(dim, heads, window, KERNELS)) for _ in range(count)
            ]
            stages.append(UniFormStage(in_dim, dim, blocks))
            self.feature_info.append(
                {"num_chs": dim, "reduction": 16 << i, "module": f"stages.{i}"}
            )
            in_dim = dim
        self.stages = nn.Sequential(*stages)
        self.head = self._classifier()

    def _classifier(self) -> nn.Module:
        if not self.num_classes:
            return nn.Identity()
        return Head(self.num_features, self.num_classes, self.drop_rate)

    def forward_features(self, images: Tensor) -> Tensor:
        """The last stage's feature maps (B, C, H, W) of images (B, channels, height, width).

        Raises:
            ModelError: the images are not of the size the model was built for.
        """
        if tuple(images.shape[-2:]) != self.img_size:
            raise ModelError(
                f"the model takes images of {self.img_size[0]}×{self.img_size[1]} pixels, "
                f"not {images.shape[-2]}×{images.shape[-1]}",
                hint="resize the images, or build the model with another img_size",
            )
        x: Tensor = self.stages(self.patch_embed(images))
        return x

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """The logits (B, classes) of feature maps (B, C, H, W)."""
        pooled = features.mean((2, 3))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, height, width)."""
        return self.forward_head(self.forward_features(images))

    def fuse(self) -> UniForm:
        """Fold every batch normalisation into its neighbour, in place, for deployment.

        Raises:
            ModelError: the model is in training, where normalisations depend on the batch.
        """
        if self.training:
            raise ModelError(
                "batch normalisations cannot be folded in training", hint="call model.eval() first"
            )
        _fuse_children(self)
        return self

    def get_classifier(self) -> nn.Module:
        """The head's linear layer."""
        return self.head.linear if isinstance(self.head, Head) else self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a fresh one.

        Raises:
            ModelError: `global_pool` asks for something other than the mean.
        """
        if global_pool not in (None, "", "avg"):
            raise ModelError(
                f"UniForm pools by the mean, not by {global_pool!r}",
                hint='leave global_pool out, or give "avg"',
            )
        self.num_classes = num_classes
        weight = next(self.parameters())
        self.head = self._classifier().to(weight.device, weight.dtype).train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute encoders in the backward pass instead of keeping their activations."""
        for module in self.modules():
            if isinstance(module, UniFormStage):
                module.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters timm's optimisers leave without weight decay."""
        return {name for name, _ in self.named_parameters() if name.endswith("attention_biases")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How timm groups the parameters by depth, for layer-wise learning rates."""
        fine = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        return {"stem": r"^patch_embed", "blocks": r"^stages\.(\d+)" if coarse else fine}


def _fuse_children(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, (ConvBN, Head)):
            setattr(module, name, child.fuse())
        else:
            _fuse_children(child)


def checkpoint_filter_fn(checkpoint: Mapping[str, Any], model: UniForm) -> dict[str, Tensor]:
    """Weights for `model` out of a checkpoint file's contents, with or without `backbone.`.

    A checkpoint of the backbone alone leaves the model's head as it is. Of attention biases from
    larger windows, the distances that occur in the model's are taken.

    Raises:
        WeightsError: the weights are of another kind of model, or of smaller windows.
    """
    weights = {
        name.removeprefix("backbone."): value
        for name, value in unwrap_checkpoint(checkpoint).items()
    }
    wanted = model.state_dict()
    if not any(name.endswith("mixer.m.attn.attention_biases") for name in weights):
        raise WeightsError(
            "the checkpoint is not of a UniForm: it has no mixer.m.attn.attention_biases",
            hint="check the file, or name the model it was saved from",
        )
    for name in wanted:
        if name in weights and name.endswith("attention_biases"):
            weights[name] = _fit_biases(name, weights[name], wanted[name])
    if not any(name.startswith("head.") for name in weights):
        weights |= {name: value for name, value in wanted.items() if name.startswith("head.")}
    return weights


def _fit_biases(name: str, biases: Tensor, wanted: Tensor) -> Tensor:
    side, wanted_side = (round(of.shape[1] ** 0.5) for of in (biases, wanted))
    if side < wanted_side:
        raise WeightsError(
            f"{name} is of windows of {side}×{side} tokens; the model's are "
            f"{wanted_side}×{wanted_side}",
            hint="build the model with the img_size the checkpoint was trained with",
        )
    table = biases.reshape(-1, side, side)
    return table[:, :wanted_side, :wanted_side].flatten(1)
