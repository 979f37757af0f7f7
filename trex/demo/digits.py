"""Handwritten digits as a folder of images, and a vision transformer trained on them.

The digits are scikit-learn's: 1,797 real scans of 8x8 pixels (Alpaydin and Kaynak, "Optical
Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from trex.errors import DataError
from trex.models.digits import DIGITS_MODEL, IMAGE_SIZE
from trex.training.data import batches, open_dataset
from trex.training.transforms import DataConfig, eval_transform

#: Folder -> number of images; the test images take no part in training or searching.
SPLITS: Final = {"train": 1000, "calib": 400, "test": 397}

# Found by measuring: over 93 % of the test digits right after half a minute on one core.
EPOCHS: Final = 20
_BATCH_SIZE: Final = 50
_PEAK_LR: Final = 1e-3
_WARMUP_SHARE: Final = 0.2
_WEIGHT_DECAY: Final = 0.05
_LABEL_SMOOTHING: Final = 0.1
#: Pixels that augmentation moves an image by, at most.
_SHIFT: Final = 1


def write_digits(folder: Path) -> None:
    """Write the digits as PNG files, `folder/{train,calib,test}/{0..9}/NNNN.png`.

    A folder that is there already is complete, since it appears at once, and stays.

    Raises:
        DataError: scikit-learn is not installed.
    """
    if folder.is_dir():
        return
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(
            "the demo's images come with scikit-learn, which is not installed",
            hint='pip install "trex-vit[demo]"',
        ) from None
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    # Neighbours in the data set are one person's writing: shuffled, every split has all writers.
    order = np.random.default_rng(0).permutation(len(images))
    bounds = np.cumsum(list(SPLITS.values()))[:-1]

    unfinished = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        for split, indices in zip(SPLITS, np.split(order, bounds), strict=True):
            for index in indices:
                path = unfinished / split / str(labels[index]) / f"{index:04}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = Image.fromarray(images[index])
                image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC).save(path)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def train_digits_model(folder: Path, seed: int = 0, epochs: int = EPOCHS) -> nn.Module:
    """A `vit_digits_patch4_24` trained on the digits of `folder/train`, in evaluation mode.

    The same seed gives the same weights on the same machine; the global random state stays.

    Raises:
        DataError: the images are missing or unreadable.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = cast(nn.Module, timm.create_model(DIGITS_MODEL))
        _initialise(model)
        _train(model, *_read(model, folder / "train"), epochs)
    return model.eval()


def _read(model: nn.Module, folder: Path) -> tuple[Tensor, Tensor]:
    images = open_dataset(str(folder), transform=eval_transform(DataConfig.of_model(model)))
    (everything,) = batches(images, batch_size=len(images))
    return everything.images, everything.labels


def _initialise(model: nn.Module) -> None:
    """Weights that let a model 48 wide learn at once.

    timm's standard deviation of 0.02 is meant for models 192 wide and more. Here the encoders
    would add next to nothing at first: 41 % right after 30 epochs, in place of 97 %.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    nn.init.zeros_(model.get_parameter("head.weight"))
    nn.init.normal_(model.get_parameter("pos_embed"), std=0.2)


def _train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=_PEAK_LR, weight_decay=_WEIGHT_DECAY)
    steps = epochs * -(-len(images) // _BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _PEAK_LR, total_steps=steps, pct_start=_WARMUP_SHARE
    )
    model.train()
    for _ in tqdm(range(epochs), desc="training", unit="epoch", disable=None, leave=False):
        for chosen in torch.split(torch.randperm(len(images)), _BATCH_SIZE):
            logits = model(_shifted(images[chosen]))
            loss = F.cross_entropy(logits, labels[chosen], label_smoothing=_LABEL_SMOOTHING)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()


def _shifted(images_BCHW: Tensor) -> Tensor:
    """The batch moved by a random number of pixels; what leaves one side enters at the other."""
    rows, columns = torch.randint(-_SHIFT, _SHIFT + 1, (2,)).tolist()
    return images_BCHW.roll((rows, columns), dims=(2, 3))
