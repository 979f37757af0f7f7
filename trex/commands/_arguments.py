"""Flags that several commands share, and what they mean. No heavy imports at the top."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trex.plan import MAP_TRANSFORMS

if TYPE_CHECKING:
    from trex.errors import TrexError
    from trex.training.data import ImageSet
    from trex.training.transforms import InputConfig

_logger = logging.getLogger(__name__)


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
        help="timm name, e.g. deit_tiny_patch16_224; or bert_base_uncased, a folder",
    )
    group.add_argument(
        "--weights", type=Path, metavar="FILE", help="a local checkpoint; else timm's"
    )
    group.add_argument(
        "--num-classes", type=int, metavar="N", help="classes of the head; else the model's"
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


def data_config(args: argparse.Namespace, model: Any) -> InputConfig:
    """The model's preprocessing with the user's own numbers, or its tokeniser.

    Raises:
        DataError: a number does not fit, the tokeniser cannot be had, or what was given is for
            the other kind of model.
    """
    from trex.errors import DataError
    from trex.models.bert import TextClassifier
    from trex.text.config import TextConfig
    from trex.training.transforms import DataConfig

    if isinstance(model, TextClassifier):
        if args.mean is not None or args.std is not None:
            raise DataError(
                f"{args.model} reads texts, which have no channels",
                hint="leave --mean and --std out",
            )
        return TextConfig.of_model(model, args.tokenizer)
    if args.tokenizer is not None:
        raise DataError(f"{args.model} reads images", hint="leave --tokenizer out")
    return DataConfig.of_model(model, mean=args.mean, std=args.std)


def check_sources(*names: str | None) -> None:
    """See that there can be data sets of these names, before weights are fetched for them.

    Raises:
        DataError: there cannot.
    """
    from trex.training.sources import check_name

    for name in names:
        if name is not None:
            check_name(name)


def open_labelled(
    source: str, args: argparse.Namespace, config: InputConfig, num_classes: int | None
) -> ImageSet:
    """A data set whose labels are needed.

    Raises:
        DataError: it is missing, empty, or its labels are not the head's classes.
    """
    from trex.training.data import open_dataset
    from trex.training.transforms import eval_transform

    return open_dataset(
        source,
        transform=eval_transform(config),
        class_map=args.class_map,
        num_classes=num_classes,
        strict=args.strict,
    )


def open_calibration(
    source: str, args: argparse.Namespace, config: InputConfig, num_classes: int | None
) -> ImageSet:
    """A data set whose labels are used where they are the head's, and otherwise left out, aloud.

    Raises:
        DataError: it is missing or empty, or `--class-map` was given and does not fit.
    """
    from trex.errors import DataError
    from trex.training.data import open_dataset
    from trex.training.transforms import eval_transform

    try:
        return open_labelled(source, args, config, num_classes)
    except DataError as error:
        if args.class_map is not None:
            raise
        unlabelled = open_dataset(
            source, transform=eval_transform(config), labels=False, strict=args.strict
        )
        _logger.info("labels are not used: %s", error.message)
        return unlabelled
