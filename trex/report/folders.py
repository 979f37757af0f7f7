"""Looking after run folders: which there are, what is in them, and what can go."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from trex.errors import RunError
from trex.report.finetunings import read_finetuning
from trex.report.tables import aligned, fit_table, points, search_table, shortened, where
from trex.search.front import front_of
from trex.store.finetuning import is_finetuning
from trex.store.run import Run
from trex.store.schemas import Manifest, Summary
from trex.units import significant


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """One run or fine-tuning in a list.

    Attributes:
        run: the folder.
        candidates: that were fitted and measured.
        plan: the best, in text; None before the end.
        edap_gain: how many times lower its EDAP is than the original's; None of a machine.
        speedup: how many times lower its latency is on a measured machine; None of a chip.
        loss: its, measured.
        top1: its, on labelled images.
        top1_change: from the original's.
        bytes: of all its files.
        state: `stopped`, `finished`, `fine-tuning`, `fine-tuned` or `unreadable`.
        problem: why it is unreadable.
    """

    run: str
    model: str = "-"
    chip: str = "-"
    accounting: str = "-"
    budget: str = "-"
    candidates: int = 0
    plan: str | None = None
    edap_gain: float | None = None
    speedup: float | None = None
    loss: float | None = None
    top1: float | None = None
    top1_change: float | None = None
    bytes: int = 0
    state: str = "unreadable"
    problem: str | None = None


class ShownRun(NamedTuple):
    """One run's question and, where it has ended, its answer."""

    row: RunRow
    manifest: Manifest
    summary: Summary | None

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            **asdict(self.row),
            "command": self.manifest.command,
            "versions": self.manifest.versions,
            "settings": self.manifest.settings.as_json(),
            "summary": self.summary and self.summary.as_json(),
        }


class Differences(NamedTuple):
    """In what two runs differ, by name: before and after."""

    runs: tuple[str, str]
    settings: Mapping[str, tuple[Any, Any]]
    results: Mapping[str, tuple[Any, Any]]


class Pruned(NamedTuple):
    """Files of fitted parameters that nothing needs, and their bytes."""

    run: str
    files: tuple[str, ...]
    bytes: int


def list_runs(folder: Path) -> list[RunRow]:
    """Every run and fine-tuning in a folder, or the folder itself; unreadable ones say why.

    Raises:
        RunError: there is no such folder.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is no folder", hint="name the folder that holds your runs")
    paths = [folder, *sorted(folder.iterdir())]
    return [_row(path) for path in paths if (path / "manifest.json").is_file()]


def show_run(path: Path) -> ShownRun:
    """One run's question and, where it has ended, its answer.

    Raises:
        RunError: there is none, or it is of another version or damaged.
    """
    run = _searched(path)
    return ShownRun(_row(path), run.manifest(), run.summary())


def diff_runs(before: Path, after: Path) -> Differences:
    """The settings and results in which two runs differ.

    Raises:
        RunError: as `show_run`.
    """
    paths = (before, after)
    manifests = [_searched(path).manifest() for path in paths]
    rows = [asdict(_row(path)) for path in paths]
    sides = [_flat({**m.settings.as_json(), "versions": m.versions}) for m in manifests]
    return Differences(
        runs=(str(before), str(after)),
        settings=_differing(*sides),
        results=_differing(*({name: row[name] for name in _RESULTS} for row in rows)),
    )


def prune_run(path: Path, *, delete: bool) -> Pruned:
    """The fitted parameters of plans off the front, and, with `delete`, gone.

    Records, the front's and the winner's parameters and the bundle stay, so every later command
    works but `--pick` of a plan that was pruned.

    Raises:
        RunError: there is no run, or a search is going on in it.
        StorageError: a file cannot be deleted.
    """
    run = _searched(path)
    if run.summary() is None:
        raise RunError(
            f"{path} has not finished", hint="let its search end first: it may need every file"
        )
    found = run.prune(_kept(run), delete=delete)
    return Pruned(str(path), tuple(name for name, _ in found), sum(size for _, size in found))


def list_table(rows: Sequence[RunRow]) -> list[str]:
    """`list_runs` for people."""
    if not rows:
        return ["no runs here"]
    faster = any(row.speedup for row in rows)  # a column that most folders do without
    head = (
        "run", "model", "device", "accounting", "plans", "gain", *(["faster"] if faster else []),
        "top-1", "MB", "state",
    )  # fmt: skip
    cells = [
        (
            shortened(Path(row.run).name, 16), shortened(row.model, 15 if faster else 22),
            shortened(row.chip, 16),
            row.accounting, str(row.candidates), _number(row.edap_gain, "x"),
            *([_number(row.speedup, "x")] if faster else []),
            "-" if row.top1_change is None else points(row.top1_change),
            f"{row.bytes / 1e6:.0f}", row.state,
        )
        for row in rows
    ]  # fmt: skip
    explained = "gain: the best plan's in EDAP, an estimate; "
    if faster:
        explained += "faster: its latency on a measured machine, predicted; "
    return [
        *aligned(head, cells, left=(0, 1, 2, 3, len(head) - 1)),
        "",
        *textwrap.wrap(
            f"{explained}top-1: points gained, measured, without training but for what is "
            "fine-tuned.",
            99,
        ),
        *(f"{row.run}: {row.problem}" for row in rows if row.problem),
    ]


def show_lines(shown: ShownRun) -> list[str]:
    """`show_run` for people."""
    if shown.summary is not None:
        # A run that was moved since is where it is now.
        table = fit_table if shown.summary.strategy == "given" else search_table
        return table(shown.summary.model_copy(update={"run": shown.row.run}))
    settings = shown.manifest.settings
    budget = f", budget {settings.budget}" if settings.budget else ""
    return [
        f"{where(settings.model, settings.chip, shown.manifest.baseline)}{budget}",
        f"{shown.row.candidates} plans fitted and measured; not finished",
        "go on with: " + " ".join(shown.manifest.command),
    ]


def diff_table(result: Differences) -> list[str]:
    """`diff_runs` for people."""
    rows = [
        (shortened(name, 30), *(shortened(_text(value), 31) for value in values))
        for part in (result.settings, result.results)
        for name, values in part.items()
    ]
    names = [shortened(Path(run).name, 31) for run in result.runs]
    if not rows:
        return [f"{names[0]} and {names[1]} do not differ"]
    return aligned(("", *names), rows, left=(0, 1, 2))


def prune_lines(pruned: Sequence[Pruned], deleted: bool) -> list[str]:
    """`prune_run` for people."""
    word = "deleted" if deleted else "can go"
    lines = [
        f"{item.run}: {len(item.files)} files off the front, {item.bytes / 1e6:.1f} MB, {word}"
        for item in pruned
    ]
    return lines if deleted else [*lines, "nothing was deleted; --yes deletes them"]


_RESULTS: Final = (
    "state", "candidates", "plan", "edap_gain", "speedup", "loss", "top1", "top1_change",
)  # fmt: skip


def _row(path: Path) -> RunRow:
    row = RunRow(run=str(path), bytes=_size(path))
    try:
        if is_finetuning(path):
            return _finetuning(row, path)
        run = Run.open(path)
        settings = run.manifest().settings
        row = replace(
            row, model=settings.model, chip=settings.chip, accounting=settings.accounting,
            budget=settings.budget,
        )  # fmt: skip
        row = replace(row, candidates=len(run.records()), state="stopped")
        if (summary := run.summary()) is None:
            return row
        best, measured = summary.best, summary.best.evaluation
        gain = summary.baseline.overall / best.estimate.overall
        on_machine = summary.baseline.on_machine
        return replace(
            row,
            plan=best.plan,
            edap_gain=None if on_machine else gain,
            speedup=gain if on_machine else None,
            loss=best.selection.loss,
            top1=None if measured is None else measured.top1,
            top1_change=None if measured is None else measured.difference,
            state="finished",
        )
    except RunError as error:
        return replace(row, problem=error.message, state="unreadable")


def _finetuning(row: RunRow, path: Path) -> RunRow:
    """What a row tells of a fine-tuning; it holds no plans but its own, and no prices."""
    tuned = read_finetuning(path)
    measured = next((s.evaluation for s in tuned.stages if s.stage == "finetuned"), None)
    return replace(
        row,
        model=tuned.model,
        plan=tuned.plan,
        state="fine-tuned" if tuned.kept else "fine-tuning",
        top1=None if measured is None else measured.top1,
        top1_change=None if measured is None else measured.difference,
    )


def _searched(path: Path) -> Run:
    """A search's run folder; a fine-tuning's is told apart, since its files are others."""
    if is_finetuning(path):
        raise RunError(
            f"{path} is a fine-tuning, not a search's run",
            hint="see it beside its run: trex report RUN " + str(path),
        )
    return Run.open(path)


def _kept(run: Run) -> set[str]:
    """Keys of the front and of the winner."""
    records, winner = run.records(), run.winner()
    kept = {record.key for record in front_of(records)} if records else set()
    return kept | ({winner.key} if winner else set())


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested settings as `search.seed`."""
    flat: dict[str, object] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _differing(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> Mapping[str, tuple[Any, Any]]:
    names = dict.fromkeys([*before, *after])
    pairs = {name: (before.get(name), after.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return significant(value)
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value)


def _number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.2f}{unit}"
