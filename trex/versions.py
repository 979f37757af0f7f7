"""Which versions a result was made with."""

from __future__ import annotations

import platform
from importlib import metadata

#: of TReX; pyproject.toml reads it here
VERSION = "0.2.0"


def versions() -> dict[str, str]:
    """Package or part -> version."""
    packages = ("torch", "timm", "numpy", "scipy", "safetensors")
    return {
        "trex": VERSION,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }
