"""TReX: attention reuse for pretrained vision transformers, under a hardware budget."""

from __future__ import annotations

import importlib
import inspect
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trex.versions import VERSION

if TYPE_CHECKING:
    from trex.api.compare import compare
    from trex.api.evaluate import evaluate
    from trex.api.export import export
    from trex.api.finetune import finetune
    from trex.api.fit import fit
    from trex.api.price import price
    from trex.api.result import Result
    from trex.api.search import search
    from trex.api.sweep import sweep
    from trex.errors import TrexError
    from trex.plan import Plan
    from trex.plan import Plan as ReusePlan
    from trex.progress import Progress
    from trex.reuse import apply_plan, apply_reuse, remove_plan, remove_reuse
    from trex.runtime import load

__version__ = VERSION
__all__ = [
    "Plan",
    "Progress",
    "Result",
    "ReusePlan",
    "TrexError",
    "apply_plan",
    "apply_reuse",
    "compare",
    "evaluate",
    "export",
    "finetune",
    "fit",
    "load",
    "price",
    "remove_plan",
    "remove_reuse",
    "search",
    "sweep",
]

#: public name -> (module, name there); imported on first use, since torch takes seconds.
#: `ReusePlan` is what version 0.1 called plans.
_PUBLIC = {
    "Plan": ("trex.plan", "Plan"),
    "Progress": ("trex.progress", "Progress"),
    "Result": ("trex.api.result", "Result"),
    "ReusePlan": ("trex.plan", "Plan"),
    "TrexError": ("trex.errors", "TrexError"),
    "apply_plan": ("trex.reuse", "apply_plan"),
    "apply_reuse": ("trex.reuse", "apply_reuse"),
    "evaluate": ("trex.api.evaluate", "evaluate"),
    "export": ("trex.api.export", "export"),
    "finetune": ("trex.api.finetune", "finetune"),
    "load": ("trex.runtime", "load"),
    "price": ("trex.api.price", "price"),
    "remove_plan": ("trex.reuse", "remove_plan"),
    "remove_reuse": ("trex.reuse", "remove_reuse"),
    "sweep": ("trex.api.sweep", "sweep"),
}
#: packages that are called as the function of their name: Python binds a package to its parent's
#: name, so `trex.search` is the package `trex/search/` as soon as anything in it is imported
_CALLED = {
    "compare": ("trex.api.compare", "compare"),
    "fit": ("trex.api.fit", "fit"),
    "search": ("trex.api.search", "search"),
}


class _CalledPackage(ModuleType):
    """A package of `_CALLED`: calling it calls the function."""

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(_function(self.__name__))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _function(self.__name__)(*args, **kwargs)


class _Package(ModuleType):
    """`trex` itself, which makes those packages callable as they are bound to it."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _CALLED and type(value) is ModuleType:
            value.__class__ = _CalledPackage
        super().__setattr__(name, value)


def _function(package: str) -> Any:
    module, name = _CALLED[package.rpartition(".")[2]]
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def __getattr__(name: str) -> Any:
    if name in _CALLED:
        return importlib.import_module(f"trex.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'trex' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)


sys.modules[__name__].__class__ = _Package

if "timm" in sys.modules:
    # Its user may ask it for TReX's models next. Otherwise whoever imports `trex.models` may.
    import trex.models  # noqa: F401
