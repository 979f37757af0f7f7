"""TReX: attention reuse for pretrained vision transformers, under a hardware budget."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trex.plan import Plan
    from trex.plan import Plan as ReusePlan
    from trex.reuse import apply_plan, apply_reuse, remove_plan, remove_reuse
    from trex.runtime import load

__version__ = "0.2.0"
__all__ = [
    "Plan",
    "ReusePlan",
    "apply_plan",
    "apply_reuse",
    "load",
    "remove_plan",
    "remove_reuse",
]

#: public name -> (module, name there); imported on first use, since torch takes seconds.
#: `ReusePlan` is what version 0.1 called plans.
_PUBLIC = {
    "Plan": ("trex.plan", "Plan"),
    "ReusePlan": ("trex.plan", "Plan"),
    "apply_plan": ("trex.reuse", "apply_plan"),
    "apply_reuse": ("trex.reuse", "apply_reuse"),
    "load": ("trex.runtime", "load"),
    "remove_plan": ("trex.reuse", "remove_plan"),
    "remove_reuse": ("trex.reuse", "remove_reuse"),
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'trex' has no attribute {name!r}")
    import importlib

    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)


if "timm" in sys.modules:
    # Its user may ask it for TReX's models next. Otherwise whoever imports `trex.models` may.
    import trex.models  # noqa: F401
