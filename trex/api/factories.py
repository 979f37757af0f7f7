"""Models that a caller's own function makes: `package.module:factory`.

A factory is imported and called only where the caller names it, in this call. What is stored names
it as `object:package.module:factory`, which builds nothing: reading a run folder or a bundle never
imports code that it names.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from torch import nn

from trex.errors import ModelError
from trex.models.objects import OBJECT, is_object, unwrapped
from trex.models.towers import known
from trex.models.weights import load_weights
from trex.store.run import ORIGINAL, Run

_FACTORY: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_factory(name: str) -> bool:
    """Whether a model's name is `package.module:factory`."""
    return bool(_FACTORY.fullmatch(name)) and not is_object(name)


def made_by(name: str, sizes: dict[str, Any], weights: str | Path | None = None) -> nn.Module:
    """The model that a factory makes, in evaluation mode.

    Args:
        name: `package.module:factory`; the module is looked for in the working folder too.
        sizes: `num_classes`, `img_size` and `tokens`, which the factory is given where they are
            not None.
        weights: a local file that its model is filled from; None keeps the factory's own.

    Raises:
        ModelError: the module or the factory is not there, does not take a size, fails, or makes
            no model.
        WeightsError: the file does not fit.
    """
    factory = _imported(name)
    given = {size: value for size, value in sizes.items() if value is not None}
    _check_arguments(name, factory, given)
    try:
        model = factory(**given)
    except Exception as error:  # a caller's code
        reason = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"{name} failed: {type(error).__name__}: {reason}",
            hint="call it in Python to see where",
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{name} makes a {type(model).__name__}, no torch.nn.Module",
            hint="name a function that returns a model",
        )
    model = unwrapped(model).eval()
    if weights is not None:
        load_weights(model, Path(weights), model_name=type(model).__name__)
    return known(model)


def object_again(name: str | None, folder: Path, weights: Path | None = None) -> nn.Module | None:
    """The model of a run that a factory made, named again; None where no factory is named.

    It gets the weights that the run keeps.

    Args:
        name: as in `made_by`.
        folder: the run.
        weights: a file in place of the kept ones.

    Raises:
        ModelError: the name is no factory's, or as `made_by`.
        RunError: there is no run.
        WeightsError: the weights do not fit.
    """
    if name is None:
        return None
    if not is_factory(name):
        raise ModelError(
            f"--model {name} is no factory",
            hint="name package.module:factory again, or leave --model out: other models are "
            "built by the name that is stored",
        )
    sizes = Run.open(folder).manifest().settings.model_args.as_json()
    model, kept = made_by(name, sizes, weights), folder / ORIGINAL
    if weights is None and kept.exists():
        load_weights(model, kept, model_name=type(model).__name__)
    return model


def stored_name(name: str) -> str:
    """What runs and bundles call a factory's model."""
    return f"{OBJECT}{name}"


def _imported(name: str) -> Callable[..., Any]:
    module, _, path = name.partition(":")
    with _working_folder():
        try:
            found: Any = importlib.import_module(module)
        except Exception as error:  # a caller's code
            reason = (str(error).splitlines() or [""])[0]
            raise ModelError(
                f"{name}: {module} cannot be imported: {type(error).__name__}: {reason}",
                hint="install it, or run in the folder that holds it",
            ) from error
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ModelError(
            f"{name}: {module} has no function {path}", hint="name a function of that module"
        )
    factory: Callable[..., Any] = found
    return factory


@contextmanager
def _working_folder() -> Iterator[None]:
    """The working folder is looked in last, while the factory's module is imported."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _check_arguments(name: str, factory: Callable[..., Any], given: dict[str, Any]) -> None:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # written in C
        return
    if any(of.kind is of.VAR_KEYWORD for of in parameters.values()):
        return
    for argument in given:
        if argument not in parameters:
            raise ModelError(
                f"{name} takes no {argument}",
                hint=f"leave --{argument.replace('_', '-')} out, or give the factory that "
                "parameter",
            )
