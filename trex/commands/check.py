"""`trex check`: validate a chip, a measured device, a space, a plan, a bundle or a run folder."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any, Final

from trex.commands import _arguments

#: what stands between an encoder and what it does
_PLAN: Final = re.compile(r"<-|\d[~=]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "thing",
        metavar="THING",
        help='a chip or space (name or path), a plan ("5<-4 3~40"), a bundle or run folder',
    )
    parser.add_argument("--model", help="also check that a space or plan fits this model")
    _arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Find out what the thing is and check it."""
    kind, lines, good = _check(args.thing, args.model)
    if args.json:
        print(json.dumps({"kind": kind, "ok": good, "details": lines}))
    else:
        print("\n".join([f"{args.thing}: {kind}, {'good' if good else 'NOT good'}", *lines]))
    return 0 if good else 1


def _check(thing: str, model: str | None) -> tuple[str, list[str], bool]:
    path = Path(thing)
    if not path.exists() and _PLAN.search(thing):
        return "plan", _plan(thing, model), True
    if (path / "manifest.json").is_file():
        return "run folder", _run_folder(path), True
    if (path / "device.json").is_file():
        return "measured device", _machine(path), True
    if (path / "dynamic.json").is_file():
        return "dynamic bundle", _dynamic(path), True
    if (path / "config.json").is_file():
        return "bundle", _bundle(path), True
    if _is_space(thing):
        return "search space", _space(thing, model), True
    return _chip(thing)


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


def _chip(name: str) -> tuple[str, list[str], bool]:
    from trex.hardware import check_chip

    report = check_chip(name)
    chip = report.chip
    lines = [f"{chip.technology_nm} nm, {chip.citation}"]
    lines += [
        f"{c.name}: {c.quantity} {c.ours:.6g}, published {c.published:.6g} ({c.deviation:+.2%}"
        + ("" if c.agrees else f", known: {c.known_difference}" if c.known_difference else ", NOT")
        + ")"
        for c in report.comparisons
    ]
    if report.source is None:
        lines.append("nothing is published beside it, so nothing was compared")
    return "chip", [*lines, *(f"assumption: {text}" for text in chip.assumptions)], report.ok
