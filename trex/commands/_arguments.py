"""Flags that several commands share, and what they mean. No heavy imports at the top."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trex.plan import MAP_TRANSFORMS

if TYPE_CHECKING:
    from trex.api.data import DataOptions
    from trex.api.models import ModelOptions
    from trex.errors import TrexError

# The same names as in trex.hardware, which is too heavy to import for `--help`.
ACCOUNTINGS = ("paper", "paper_transform", "full")
#: for consumers whose transform a plan leaves out; average maps have no source to leave one out of
TRANSFORMS_LEFT_OUT = tuple(name for name in MAP_TRANSFORMS if name != "average")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Which model, with which weights and preprocessing."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        required=True,
        help="timm name, e.g. deit_tiny_patch16_224; bert_base_uncased, a folder; or "
        "package.module:factory, a function of yours",
    )
    group.add_argument(
        "--weights", type=Path, metavar="FILE", help="a local checkpoint; else timm's"
    )
    group.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        help="classes of the head, 0 for features alone; else the model's",
    )
    group.add_argument("--img-size", type=int, metavar="PIXELS")
    group.add_argument(
        "--tokens", type=int, metavar="N", help="tokens that texts are cut or padded to (128)"
    )
    group.add_argument(
        "--tokenizer", metavar="FILE", help="a text model's tokenizer; else the model's"
    )
    group.add_argument("--mean", type=float, nargs="+", help="channel means; else the model's")
    group.add_argument("--std", type=float, nargs="+", help="channel deviations; else the model's")


def add_data(parser: argparse.ArgumentParser) -> None:
    """How data sets are read."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--class-map",
        type=Path,
        metavar="FILE",
        help="a file of class folders in the head's order",
    )
    group.add_argument(
        "--strict", action="store_true", help="stop at an unreadable image; else skip it"
    )


def add_set(parser: argparse.ArgumentParser, file: str, example: str) -> None:
    """Other values for fields of a file; `set_values` reads them."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help=f"another value for a field of {file}, e.g. {example}; repeatable",
    )


def set_values(texts: list[str], example: str, error: type[TrexError]) -> dict[str, Any]:
    """Field -> value of `FIELD=VALUE` texts, with the values as YAML reads them.

    Raises:
        TrexError: of class `error`: a text is not of this form, its value is not plain, or it
            names a field of another one, or a part of it.
    """
    from trex.config import parse_value

    values: dict[str, Any] = {}
    for text in texts:
        field, equals, value = text.partition("=")
        if not equals or not field:
            raise error(f"--set {text!r} is not FIELD=VALUE", hint=f"e.g. {example}")
        for other in values:
            if f"{field}.".startswith(f"{other}.") or f"{other}.".startswith(f"{field}."):
                both = f"{field} twice" if field == other else f"{other} and {field}"
                raise error(f"--set gives {both}", hint="keep one of them")
        values[field] = parse_value(value, f"--set {field}", error)
    return values


def add_json(parser: argparse.ArgumentParser) -> None:
    """Output for programs."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_factory(parser: argparse.ArgumentParser) -> None:
    """The factory of a run's model, which is called only where it is named."""
    parser.add_argument(
        "--model",
        metavar="PACKAGE.MODULE:FACTORY",
        help="the factory that the run was made with, named again: what a run names is not called",
    )


def model_options(args: argparse.Namespace) -> ModelOptions:
    """What is said of the model beside its name."""
    from trex.api.models import ModelOptions

    return ModelOptions(
        weights=args.weights,
        num_classes=args.num_classes,
        img_size=args.img_size,
        tokens=args.tokens,
        tokenizer=args.tokenizer,
        mean=None if args.mean is None else tuple(args.mean),
        std=None if args.std is None else tuple(args.std),
    )


def data_options(args: argparse.Namespace) -> DataOptions:
    """How data sets are read."""
    from trex.api.data import DataOptions

    return DataOptions(class_map=args.class_map, strict=args.strict)
