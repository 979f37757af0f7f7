"""`trex check`: validate a chip, a measured device, a space, a plan, a bundle or a run folder."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from trex.commands import _arguments
from trex.errors import ChipError

if TYPE_CHECKING:
    from trex.hardware import Chip, ChipReport
    from trex.hardware.accuracy import AccuracyFigure

#: what stands between an encoder and what it does
_PLAN: Final = re.compile(r"<-|\d[~=]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "thing",
        metavar="THING",
        help='a chip or space (name or path), a plan ("5<-4 3~40"), a bundle or run folder',
    )
    parser.add_argument(
        "--model", help="also check that a space or plan fits this model; of a chip, with --data"
    )
    _arguments.add_set(parser, "the chip file", "arrays.sram.row.levels=64")
    group = parser.add_argument_group(
        "accuracy that a chip leaves", "measured on your images; else what is stored is told"
    )
    group.add_argument("--data", metavar="DATASET", help="labelled images to answer")
    group.add_argument("--weights", type=Path, metavar="FILE", help="local file; else timm's")
    group.add_argument("--num-classes", type=int, metavar="N", help="of the model's head")
    group.add_argument("--img-size", type=int, metavar="PIXELS")
    group.add_argument(
        "--calib", metavar="DATASET",
        help="images that set the ranges of inputs and converters; else others of --data",
    )  # fmt: skip
    group.add_argument("--images", type=int, default=200, metavar="N", help="to answer (200)")
    group.add_argument("--draws", type=int, default=1, metavar="N", help="chip instances (1)")
    group.add_argument(
        "--mode", default="fast", choices=("fast", "exact"),
        help="exact computes bit by bit, and slowly",
    )  # fmt: skip
    group.add_argument(
        "--keep", action="store_true", help="store the figure beside the chip's file"
    )
    _arguments.add_data(parser)
    _arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Find out what the thing is and check it."""
    found = _check(args)
    if args.json:
        about = {"kind": found.kind, "ok": found.ok, "verdict": found.verdict}
        print(json.dumps({**about, "details": found.details, **found.more}))
    else:
        lines = [f"{args.thing}: {found.kind}", *found.details, f"verdict: {found.verdict}"]
        print("\n".join(lines))
    return 0 if found.ok else 1


class _Found(NamedTuple):
    """What was checked, what there is to tell of it, and whether it is valid."""

    kind: str
    details: list[str]
    verdict: str = "good"
    ok: bool = True
    more: Mapping[str, Any] = MappingProxyType({})


def _check(args: argparse.Namespace) -> _Found:
    thing, model = args.thing, args.model
    path = Path(thing)
    if _is_chip(thing):
        return _chip(args)
    for flag in ("data", "weights", "calib", "keep", "set"):
        if getattr(args, flag):
            raise ChipError(f"--{flag} is for chips; {thing} is none", hint="leave it out")
    if not path.exists() and _PLAN.search(thing):
        return _Found("plan", _plan(thing, model))
    if (path / "manifest.json").is_file():
        return _Found("run folder", _run_folder(path))
    if (path / "device.json").is_file():
        return _Found("measured device", _machine(path))
    if (path / "dynamic.json").is_file():
        return _Found("dynamic bundle", _dynamic(path))
    if (path / "config.json").is_file():
        return _Found("bundle", _bundle(path))
    return _Found("search space", _space(thing, model))


def _is_chip(thing: str) -> bool:
    """Whatever is nothing else: a wrong name is then told beside the shipped chips' names."""
    path = Path(thing)
    if not path.exists() and _PLAN.search(thing):
        return False
    files = ("manifest.json", "device.json", "dynamic.json", "config.json")
    return not any((path / name).is_file() for name in files) and not _is_space(thing)


def _is_space(thing: str) -> bool:
    from trex.search.space import shipped_spaces

    path = Path(thing)
    if thing in shipped_spaces():
        return True
    if not path.is_file() or path.suffix not in (".yaml", ".yml") or path.name == "chip.yaml":
        return False
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return not any(line.startswith("kind:") for line in lines)  # every chip file has its kind


def _plan(text: str, model: str | None) -> list[str]:
    from trex.plan import Plan

    plan = Plan.parse(text)
    if model is not None:
        from trex.models.registry import architecture

        plan.validate(architecture(model).layout)
    sharing = sum(rows.rows != "class" for rows in plan.rows)
    counts = (
        (plan.n_reuse, "reuse"),
        (len(plan.merges), "merge"),
        (sharing, "share rows"),
        (len(plan.rows) - sharing, "class rows"),
    )
    counted = ", ".join(f"{number} {what}" for number, what in counts if number)
    return [f"{plan} (encoders: {counted or 'as they are'})"]


def _space(name: str, model: str | None) -> list[str]:
    from trex.config import read_document
    from trex.datafiles import find
    from trex.errors import SpaceError
    from trex.search.space import SearchSpace, SpaceFile

    path = find("search_spaces", name, ".yaml", SpaceError)
    file = read_document(path, SpaceError).validate(SpaceFile)
    lines = [file.description]
    if model is not None:
        from trex.models.registry import architecture

        space = SearchSpace.load(name, architecture(model))
        lines.append(f"{space.size:,} plans for {model}")
    return lines


def _run_folder(path: Path) -> list[str]:
    from trex.errors import RunError
    from trex.store.run import Run

    run = Run.open(path)
    records = run.records()
    for record in records:
        try:
            run.parameters(record.key)
        except RunError as error:
            raise RunError(
                f'the fitted parameters of "{record.plan}": {error.message}', hint=error.hint
            ) from error
    finished = run.winner() is not None
    lines = [f"{len(records)} candidates, {'finished' if finished else 'not finished'}"]
    return [*lines, *(_bundle(run.best) if finished else [])]


def _dynamic(path: Path) -> list[str]:
    from trex.runtime.bundle import load_dynamic, load_dynamic_config

    model = load_dynamic(path)
    name = load_dynamic_config(path)["model"]
    plans = ", ".join(f"{of.name} ({of.plan or 'as it is'})" for of in model.points)
    return [f"{name}, {len(model.points)} plans: {plans}"]


def _bundle(path: Path) -> list[str]:
    from trex.exporters.bundle import load_bundle, load_config

    load_bundle(path)
    config: dict[str, Any] = load_config(path)
    return [f'{config["model"]} with "{config["plan"]}", weights {config["weights_sha256"]}']


def _machine(path: Path) -> list[str]:
    from trex.hardware.measured import read_profiles

    return [
        f"{p.model} in {p.runtime}, {p.dtype}, {p.threads} thread(s), batches of {p.batch}: "
        f"{p.original_s * 1e3:.2f} ms, spread {100 * p.spread:.1f} %, {len(p.runs)} plans timed"
        for p in read_profiles(path)
    ]


def _chip(args: argparse.Namespace) -> _Found:
    from trex.commands._price_lines import accuracy_lines
    from trex.hardware import check_chip

    overrides = _arguments.set_values(args.set, "arrays.sram.row.levels=64", ChipError)
    report = check_chip(args.thing, overrides)
    chip = report.chip
    figures = (_measured(args, chip),) if args.data is not None else chip.accuracy
    if args.data is None:
        for flag in ("model", "weights", "calib", "keep"):
            if getattr(args, flag):
                raise ChipError(
                    f"--{flag} is for measuring accuracy", hint="give labelled images with --data"
                )
    lines = [f"{chip.technology_nm} nm, {chip.citation}"]
    lines += [
        f"{c.name}: {c.quantity} {c.ours:.6g}, published {c.published:.6g} ({c.deviation:+.2%}"
        + ("" if c.agrees else f", known: {c.known_difference}" if c.known_difference else ", NOT")
        + ")"
        for c in report.comparisons
    ]
    lines += [f"warning: {text}" for text in chip.warnings]
    lines += [f"assumption: {text}" for text in chip.assumptions]
    lines += accuracy_lines(figures)
    return _Found(
        kind="chip",
        details=lines,
        verdict=_verdict(report, figures),
        ok=report.ok,
        more={"accuracy": [figure.as_json() for figure in figures]},
    )


def _verdict(report: ChipReport, figures: Sequence[AccuracyFigure]) -> str:
    """One line on a chip's prices and on the accuracy it leaves."""
    if report.source is None:
        prices = "nothing published compared"
    else:
        met = sum(c.agrees for c in report.comparisons)
        known = len(report.comparisons) - met - len(report.disagreements)
        prices = f"{met} of {len(report.comparisons)} published met"
        prices += f", {known} known to differ" if known else ""
    accuracy, grade = "accuracy not measured", "good"
    if figures:
        worst = max(figures, key=lambda figure: figure.points_lost)
        accuracy = f"{worst.model} loses {worst.points_lost:.1f} points"
        grade = worst.grade
    word = grade if report.ok else "NOT good"
    return f"{word}: {accuracy}; {prices}; {len(report.chip.assumptions)} assumed"


def _measured(args: argparse.Namespace, chip: Chip) -> AccuracyFigure:
    """What the chip leaves of the model's accuracy on the user's images.

    Raises:
        TrexError: the model, its weights or the images cannot be used.
    """
    from trex.api.data import DataOptions, check_sources, open_labelled, open_unlabelled
    from trex.errors import DataError
    from trex.hardware.accuracy import keep_accuracy
    from trex.hardware.load import chip_path
    from trex.models.registry import load
    from trex.training.measure import RANGE_IMAGES, measure_chip
    from trex.training.transforms import DataConfig

    if args.model is None:
        raise ChipError("--data needs a model to measure with", hint="give one with --model")
    for flag in ("images", "draws"):
        if getattr(args, flag) < 1:
            raise DataError(f"--{flag} {getattr(args, flag)} is too few", hint="give at least 1")
    check_sources(args.data, args.calib)
    loaded = load(
        args.model,
        weights=args.weights,
        num_classes=args.num_classes,
        img_size=args.img_size,
    )
    config = DataConfig.of_model(loaded.model)
    reading = DataOptions.of(args.class_map, args.strict)
    images = open_labelled(
        args.data, config, getattr(loaded.model, "num_classes", 0) or None, reading
    )
    if args.calib is None:
        # a quarter at most, so that few images still leave some to answer
        for_ranges = min(RANGE_IMAGES, len(images) // 4)
        answered = min(args.images, len(images) - for_ranges)
        if not for_ranges:
            raise DataError(
                f"{args.data} holds {len(images)} images, too few to set ranges and to answer",
                hint="give at least 4, or others with --calib",
            )
        shares = (for_ranges / len(images), answered / len(images))
        ranges, images = images.split(shares, seed=0)
    else:
        ranges = open_unlabelled(args.calib, config, reading)
        ranges = ranges.subset(min(RANGE_IMAGES, len(ranges)), seed=0)
        images = images.subset(min(args.images, len(images)), seed=0)
    figure = measure_chip(
        loaded.model, args.model, images, chip, ranges,
        draws=args.draws, mode=args.mode, command=_command(args),
    )  # fmt: skip
    if args.keep:
        keep_accuracy(chip_path(args.thing).parent, chip.errors_key, figure)
    return figure


def _command(args: argparse.Namespace) -> str:
    """The command that measures this figure, with paths by their last part."""
    words = ["trex check", Path(args.thing).name]
    words += [f"--set {text}" for text in args.set]
    named = ("model", "weights", "num_classes", "img_size", "data", "class_map", "calib")
    for flag in named:
        if (value := getattr(args, flag)) is not None:
            words.append(f"--{flag.replace('_', '-')} {Path(str(value)).name}")
    words += [f"--{flag} {getattr(args, flag)}" for flag in ("images", "draws", "mode")]
    return " ".join(words)
