"""The model card: what a file is, what it loses, whose licence it has, how to run it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Final

import timm
from torch import nn

from trex.exporters.variant import Variant
from trex.models.weights import weights_hash
from trex.versions import VERSION

CARD: Final = "README.md"


def provenance(variant: Variant) -> dict[str, Any]:
    """Where a file comes from, and how to prepare its input, as plain values."""
    return {
        "trex_version": VERSION,
        "model": variant.name,
        "model_args": variant.arguments,
        "plan": str(variant.plan),
        "base_weights_sha256": variant.base_weights_sha256,
        "weights_sha256": weights_hash(variant.model),
        "preprocessing": asdict(variant.data_config),
        "num_classes": getattr(variant.model, "num_classes", None),
        **({"classes": list(variant.classes)} if variant.classes else {}),
        "licence": licence_of(variant),
        **({"estimate": variant.estimate} if variant.estimate else {}),
        **({"measured": variant.measured} if variant.measured else {}),
    }


def licence_of(variant: Variant) -> str:
    """The base model's licence, as timm tells it; empty where nobody does."""
    config: dict[str, Any] = getattr(variant.model, "pretrained_cfg", None) or {}
    return str(config.get("license") or "")


def classes_of(model: nn.Module) -> tuple[str, ...]:
    """Names of the classes of an ImageNet head, where timm knows them; else nothing."""
    subset = timm.data.infer_imagenet_subset(model) if hasattr(model, "num_classes") else None
    if subset is None:
        return ()
    info = timm.data.ImageNetInfo(subset)
    return tuple(info.index_to_description(i) for i in range(info.num_classes()))


def model_card(variant: Variant, *, files: str, loading: str, tags: str = "") -> str:
    """The card as Markdown.

    Args:
        variant: what was exported.
        files: what the folder holds, in a sentence or two.
        loading: Python that runs it.
        tags: lines of the front matter that hubs read.
    """
    licence = licence_of(variant)
    front = [f"license: {licence}"] if licence else []
    lines = ["---", *front, *tags.splitlines(), "---", ""] if front or tags else []
    lines += [
        f"# {variant.name}, attention reused",
        "",
        _what(variant),
        "",
        files,
        "",
        "## What it loses",
        "",
        _loss(variant),
        "",
        "## How to load it",
        "",
        "```python",
        loading,
        "```",
        "",
        "## Input",
        "",
        _input(variant),
        "",
        "## Licence",
        "",
        f"The base model's: {licence}."
        if licence
        else f"That of the base model {variant.name}, which its publisher tells; it is not known "
        "here.",
        "",
        "## Where it comes from",
        "",
        "```json",
        json.dumps({k: v for k, v in provenance(variant).items() if k != "classes"}, indent=2),
        "```",
    ]
    return "\n".join(lines) + "\n"


def prepare_photo(variant: Variant, preprocessing: str) -> str:
    """Python that makes `images` (1, channels, height, width) of a file, for cards.

    Args:
        variant: of images.
        preprocessing: an expression for it.
    """
    grey = asdict(variant.data_config)["input_size"][0] == 1
    mode, values = ("L", "np.asarray(photo)[..., None]") if grey else ("RGB", "np.asarray(photo)")
    return f"""\
given = {preprocessing}
size, edge = given["input_size"][:0:-1], (1 - given["crop_pct"]) / 2
method = Image.Resampling[given["interpolation"].upper()]
photo = ImageOps.fit(Image.open("photo.jpg").convert("{mode}"), size, method, edge)
pixels = ({values} / 255 - given["mean"]) / given["std"]
images = pixels.transpose(2, 0, 1)[None].astype("float32")"""


def _what(variant: Variant) -> str:
    plan = variant.plan
    if not str(plan):
        return f"{variant.name} as it is: nothing is reused, merged or left out."
    return (
        f"{variant.name} under the plan `{plan}`, made by TReX {VERSION}: "
        "`consumer<-source` reuses an earlier encoder's attention, `encoder~pairs` merges tokens, "
        "`encoder=rows` computes so many rows of attention."
    )


def _loss(variant: Variant) -> str:
    found = variant.measured or {}
    parts = []
    if found.get("top1") is not None and found.get("baseline_top1") is not None:
        own, original = 100 * found["top1"], 100 * found["baseline_top1"]
        parts.append(
            f"top-1 {own:.1f} %, the original {original:.1f} %: {original - own:.1f} points lost"
        )
    if found.get("agreement") is not None:
        parts.append(f"the original's first guess for {100 * found['agreement']:.1f} %")
    if found.get("loss") is not None:
        parts.append(f"KL divergence {found['loss']:.4f} nats")
    if not parts:
        return "Nobody has measured it: compare it with the original on your own data."
    where = f" of `{found['data']}`" if found.get("data") else " that it was chosen on"
    return f"On {found.get('n', 'the')} {found.get('unit', 'images')}{where}: {'; '.join(parts)}."


def _input(variant: Variant) -> str:
    prepared = asdict(variant.data_config)
    if variant.reads_texts:
        return (
            f"`texts`, int64, (batch, 2, {prepared['tokens']}): token numbers and mask, by "
            "`tokenizer.json`."
        )
    channels, height, width = prepared["input_size"]
    return (
        f"`images`, float32, (batch, {channels}, {height}, {width}), values from 0 to 1 less "
        f"mean {list(prepared['mean'])}, by std {list(prepared['std'])}; resized by "
        f"{prepared['interpolation']}, crop {prepared['crop_pct']:g} ({prepared['crop_mode']})."
    )
