"""Classify a photo with an exported variant, in the runtime that its file is for.

    trex export runs/deit_t --format onnx --out onnx
    trex export runs/deit_t --format torch-export --out pt2
    trex export runs/deit_t --format timm --out timm
    python examples/classify.py photo.jpg onnx/model.onnx pt2/model.pt2 timm

A `.onnx` file needs NumPy, Pillow and ONNX Runtime; a `.pt2` file PyTorch in place of the runtime;
a folder for timm needs timm and TReX.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


def prepare(photo: str, given: dict) -> np.ndarray:
    """A photo as the model wants it, (1, channels, height, width)."""
    size, edge = given["input_size"][:0:-1], (1 - given["crop_pct"]) / 2
    method = Image.Resampling[given["interpolation"].upper()]
    image = ImageOps.fit(Image.open(photo).convert("RGB"), size, method, edge)
    pixels = (np.asarray(image) / 255 - given["mean"]) / given["std"]
    return pixels.transpose(2, 0, 1)[None].astype("float32")


def by_onnx_runtime(file: str, photo: str) -> tuple[np.ndarray, list[str]]:
    """Logits and the classes' names."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    facts = session.get_modelmeta().custom_metadata_map
    images = prepare(photo, json.loads(facts["preprocessing"]))
    return session.run(None, {"images": images})[0][0], json.loads(facts.get("classes", "[]"))


def by_pytorch(file: str, photo: str) -> tuple[np.ndarray, list[str]]:
    """The same."""
    import torch

    extra = {"trex.json": ""}
    model = torch.export.load(file, extra_files=extra).module()
    facts = json.loads(extra["trex.json"])
    with torch.no_grad():
        logits = model(torch.from_numpy(prepare(photo, facts["preprocessing"])))
    return logits[0].numpy(), facts.get("classes", [])


def by_timm(folder: str, photo: str) -> tuple[np.ndarray, list[str]]:
    """The same."""
    import timm
    import torch

    import trex.models  # noqa: F401 - so that timm knows trex_variant

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.no_grad():
        logits = model(transform(Image.open(photo).convert("RGB"))[None])
    facts = json.loads((Path(folder) / "config.json").read_text())["trex"]
    return logits[0].numpy(), facts.get("classes", [])


def main() -> None:
    """Print the first guess of every file."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    photo, *files = sys.argv[1:]
    runtimes = {".onnx": by_onnx_runtime, ".pt2": by_pytorch, "": by_timm}
    for file in files:
        logits, classes = runtimes[Path(file).suffix](file, photo)
        first = int(logits.argmax())
        chance = np.exp(logits - logits.max())
        named = classes[first] if classes else f"class {first}"
        print(f"{file}: {named}, {100 * chance[first] / chance.sum():.1f} %")


if __name__ == "__main__":
    main()
