"""Which versions a result was made with."""

from __future__ import annotations

import platform
from importlib import metadata

import trex


def versions() -> dict[str, str]:
    """Package or part -> version."""
    packages = ("torch", "timm", "numpy", "scipy", "safetensors")
    return {
        "trex": trex.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }
