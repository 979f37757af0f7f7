"""Small plain vision transformers trained by other recipes than DeiT's, to test TReX on.

    python benchmarks/train_small_vit.py --recipe class --train TAR --test TAR --out DIR

DeiT hardly needs the attention of any one encoder, which flatters whatever replaces it. These
models learn labels alone, without a teacher, from small images, under stronger weight decay and
with Muon: `class` reads a class token, `average` averages its patches, is deeper and has registers
and LayerScale. Their patches show 4x4 pixels of a 32x32 image, so that what is in it is only seen
by attention. Prints what leaving out each encoder's attention costs.

The folder's `weights.safetensors`, written after every epoch, loads by the model's name, printed
at the start, with `--weights`, `--num-classes 10` and `--img-size`. An interrupted training goes
on where its last epoch ended, with the same result; another `--epochs` only moves where the rate
begins to fall. `train.log` keeps what was printed.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import timm.data
import timm.optim
import torch
from safetensors.torch import save_file
from timm.layers import build_sincos2d_pos_embed
from timm.loss import SoftTargetCrossEntropy
from timm.models.vision_transformer import LayerScale
from torch import Tensor, nn
from torch.nn import functional as F

from trex.compare.stepped import SkippedAttention
from trex.models.registry import adapter_of, create
from trex.training.data import Example, ImageSet, open_dataset
from trex.training.transforms import DataConfig, eval_transform

CLASSES: Final = 10
#: a side of the images as they are stored
STORED: Final = 32
BATCH: Final = 64
#: steps in which the rate rises, and the part of all steps, the last, in which it falls
WARM_UP, COOL_DOWN = 150, 0.4
#: what LayerScale starts with; timm's 1e-5 is for deep models that train for long
LAYER_SCALE: Final = 1.0
#: test images after every epoch, and for what attention is worth
WATCHED, LEFT_OUT = 1000, 500

_log = logging.getLogger("train_small_vit")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What is trained and how.

    Attributes:
        model: a name that TReX knows.
        img_size: at which its patches show 4x4 stored pixels.
        optimizer: timm's name.
        rate: the highest.
        weight_decay: of matrices.
        rand_augment: timm's description.
        least_share: of a picture's area that a crop shows.
        erased: share of pictures of which a part is erased.
        mixup: Mixup's alpha.
        attentive: whether attention starts as `attentive_start` has it.
        epochs: where the command line says nothing.
    """

    model: str
    img_size: int
    optimizer: str
    rate: float
    weight_decay: float
    rand_augment: str
    least_share: float
    erased: float
    mixup: float
    attentive: bool
    epochs: int


RECIPES: Final = {
    "class": Recipe(
        model="test_vit",
        img_size=128,
        optimizer="muon",
        rate=3e-3,
        weight_decay=0.2,
        rand_augment="rand-m5-n1-mstd0.5-inc1",
        least_share=0.5,
        erased=0.1,
        mixup=0.0,
        attentive=False,
        epochs=20,
    ),
    "average": Recipe(
        model="test_vit2",
        img_size=128,
        optimizer="muon",
        rate=3e-3,
        weight_decay=0.1,
        rand_augment="rand-m4-n2-mstd0.5-inc1",
        least_share=0.6,
        erased=0.0,
        mixup=0.1,
        attentive=True,
        epochs=20,
    ),
}


def main(arguments: list[str] | None = None) -> None:
    """Train, measure, print."""
    args = parser().parse_args(arguments)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    log_to(args.out / "train.log")
    recipe = RECIPES[args.recipe]
    torch.manual_seed(args.seed)
    model = create(recipe.model, num_classes=CLASSES, img_size=recipe.img_size)
    if recipe.attentive:
        attentive_start(model)
    _log.info("%s, %d pixels, seed %d", recipe.model, recipe.img_size, args.seed)
    test = Pictures(args.test, model, args.seed)
    train(model, recipe, args, test)
    report(model, recipe, test, args.tested)


def train(model: nn.Module, recipe: Recipe, args: argparse.Namespace, test: Pictures) -> None:
    """All epochs that are not done yet."""
    examples = read(args.train)[: args.images]
    optimizer = timm.optim.create_optimizer_v2(
        model, opt=recipe.optimizer, lr=recipe.rate, weight_decay=recipe.weight_decay
    )
    epochs = args.epochs or recipe.epochs
    kept = args.out / "state.pt"
    begun = 0
    if kept.exists():
        state: dict[str, Any] = torch.load(kept, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        begun = state["epoch"]
    for epoch in range(begun, epochs):
        start, cpu = time.perf_counter(), time.process_time()
        seed_everything(args.seed * 10_000 + epoch)
        loss = train_epoch(model, recipe, optimizer, examples, epoch, epochs)
        images, labels = test.first(WATCHED)
        top1 = (logits_of(model, images).argmax(1) == labels).float().mean().item()
        state = {
            "epoch": epoch + 1,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        replace_file(kept, lambda path, state=state: torch.save(state, path))
        save_weights(model, args.out)
        _log.info(
            "epoch %d of %d: loss %.3f, top-1 of %d test images %.1f %%, %.0f s (CPU %.0f s)",
            *(epoch + 1, epochs, loss, len(labels), 100 * top1),
            *(time.perf_counter() - start, time.process_time() - cpu),
        )


def train_epoch(
    model: nn.Module,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    examples: list[tuple[Any, int]],
    epoch: int,
    epochs: int,
) -> float:
    """Every picture once, in random order; the mean loss."""
    model.train()
    augment, mix = augmentation(recipe), mixing(recipe)
    criterion = SoftTargetCrossEntropy()
    order = torch.randperm(len(examples)).tolist()
    steps = len(order) // BATCH
    total = 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(epoch * steps + step, epochs * steps, recipe.rate)
        chosen = [examples[i] for i in order[step * BATCH : (step + 1) * BATCH]]
        images = torch.stack([augment(picture) for picture, _ in chosen])
        labels = torch.tensor([label for _, label in chosen])
        images, targets = mix(enlarged(images, recipe.img_size), labels)
        loss = criterion(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.item()
    model.eval()
    return total / steps


def rate_at(step: int, steps: int, peak: float) -> float:
    """The learning rate: it rises, stays and falls, so that more epochs can be added before."""
    return peak * min(1.0, (step + 1) / WARM_UP, (steps - step) / (COOL_DOWN * steps))


def augmentation(recipe: Recipe) -> Any:
    """From a picture to what a training step sees, in the stored size: cheaper there."""
    return timm.data.create_transform(
        input_size=(3, STORED, STORED),
        is_training=True,
        scale=(recipe.least_share, 1.0),
        auto_augment=recipe.rand_augment,
        interpolation="bicubic",
        re_prob=recipe.erased,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )


def mixing(recipe: Recipe) -> timm.data.Mixup:
    """From images and labels to mixed images and the targets of all classes."""
    return timm.data.Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=0.0,
        prob=0.5 if recipe.mixup else 0.0,
        label_smoothing=0.0,
        num_classes=CLASSES,
    )


def enlarged(images: Tensor, side: int) -> Tensor:
    """Images in the model's size."""
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, size=side, mode="bicubic", antialias=True)


@torch.no_grad()
def attentive_start(model: nn.Module) -> None:
    """Encoders that attend to near patches from the start (mimetic, arXiv 2305.09828).

    Without it, a model that averages patches learns to name what single patches show and hardly
    uses its attention. A head's Q'K is near the identity, V's product with the projection near
    its negative, and positions are sines; LayerScale lets branches count at once.
    """
    rows, columns = model.patch_embed.grid_size
    sines = build_sincos2d_pos_embed([rows, columns], model.embed_dim, interleave_sin_cos=True)
    model.pos_embed.copy_(F.pad(sines, (0, 0, model.pos_embed.shape[1] - len(sines), 0)))
    for module in model.modules():
        if isinstance(module, LayerScale):
            nn.init.constant_(module.gamma, LAYER_SCALE)
    for block in model.blocks:
        queries, keys, values = block.attn.qkv.weight.chunk(3)
        heads = block.attn.num_heads
        for query, key in zip(queries.chunk(heads), keys.chunk(heads), strict=True):
            left, right = halves(model.embed_dim, 0.7, 0.7)
            query.copy_(left.T[: len(query)])
            key.copy_(right[: len(key)])
        left, right = halves(model.embed_dim, 0.4, -0.4)
        values.copy_(right)
        block.attn.proj.weight.copy_(left)


def halves(width: int, noise: float, identity: float) -> tuple[Tensor, Tensor]:
    """Two matrices whose product is noise and the identity, both weighted; largest part first."""
    product = noise * torch.randn(width, width) / width**0.5 + identity * torch.eye(width)
    left, sizes, right = torch.linalg.svd(product)
    return left * sizes.sqrt(), sizes.sqrt()[:, None] * right


def seed_everything(seed: int) -> None:
    """Augmentations draw from three generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def read(source: str) -> list[tuple[Any, int]]:
    """All pictures and labels, in random order."""
    pictures = open_dataset(source, transform=lambda picture: picture, num_classes=CLASSES)
    pictures = pictures.shuffled(0)
    return [(pictures.picture(i), pictures.label(i)) for i in range(len(pictures))]


class Pictures:
    """Test images as TReX gives them to the model, in random order."""

    def __init__(self, source: str, model: nn.Module, seed: int) -> None:
        transform = eval_transform(DataConfig.of_model(model))
        images = open_dataset(source, transform=transform, num_classes=CLASSES, strict=True)
        self.images: ImageSet = images.shuffled(seed)
        self._watched = self.batch(range(min(WATCHED, len(images))))

    def batch(self, numbers: range) -> tuple[Tensor, Tensor]:
        """Images and labels by number."""
        found = [self.images[i] for i in numbers]
        examples = [each for each in found if isinstance(each, Example)]
        return (
            torch.stack([each.image for each in examples]),
            torch.tensor([each.label for each in examples]),
        )

    def first(self, n: int) -> tuple[Tensor, Tensor]:
        """The first `n`, WATCHED at most."""
        images, labels = self._watched
        return images[:n], labels[:n]


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Of all images, a batch after the other."""
    return torch.cat([model(part) for part in images.split(100)])


def report(model: nn.Module, recipe: Recipe, test: Pictures, tested: int) -> None:
    """Accuracy, and what each encoder's attention is worth."""
    total = min(tested, len(test.images))
    right = 0
    for start in range(0, total, 500):
        images, labels = test.batch(range(start, min(start + 500, total)))
        right += int((logits_of(model, images).argmax(1) == labels).sum())
    _log.info("top-1 of %d test images: %.2f %%", total, 100 * right / total)
    images, labels = test.first(LEFT_OUT)
    original = logits_of(model, images)
    top1 = 100 * (original.argmax(1) == labels).float().mean().item()
    _log.info("without the attention of one encoder, %d images (%.1f %%):", len(labels), top1)
    _log.info("%8s%8s%12s%8s", "encoder", "KL", "agreement", "top-1")
    adapter = adapter_of(model, recipe.model)
    for index in range(len(model.blocks)):
        logits = logits_of(SkippedAttention(model, adapter, frozenset({index})), images)
        first = logits.argmax(1)
        _log.info(
            "%8d%8.3f%12.1f%8.1f",
            *(index, divergence(original, logits)),
            100 * (first == original.argmax(1)).float().mean().item(),
            100 * (first == labels).float().mean().item(),
        )


def divergence(original: Tensor, changed: Tensor) -> float:
    """KL from the original's output, nats an image."""
    logs = changed.log_softmax(1), original.log_softmax(1)
    return F.kl_div(*logs, log_target=True, reduction="batchmean").item()


def save_weights(model: nn.Module, folder: Path) -> None:
    """The file that TReX loads."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    replace_file(folder / "weights.safetensors", lambda path: save_file(tensors, path))


def replace_file(path: Path, write: Any) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    write(part)
    part.replace(path)


def log_to(path: Path) -> None:
    """Everything that is printed goes to a file as well."""
    _log.setLevel(logging.INFO)
    for handler in (logging.StreamHandler(), logging.FileHandler(path)):
        _log.addHandler(handler)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--recipe", choices=RECIPES, required=True)
    made.add_argument("--train", required=True, help="pictures in class folders, or a tar of them")
    made.add_argument("--test", required=True, help="likewise")
    made.add_argument("--out", type=Path, required=True, help="folder of weights, state and log")
    made.add_argument("--epochs", type=int, help="default: the recipe's")
    made.add_argument("--images", type=int, help="of the training set; default: all")
    made.add_argument("--tested", type=int, default=10_000, help="test images at the end")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--threads", type=int, default=1)
    return made


if __name__ == "__main__":
    main()
