"""Looking after run folders: which there are, what is in them, and what can go."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from trex.errors import RunError, StorageError
from trex.report.finetunings import is_finetuning, read_finetuning
from trex.report.tables import (
    aligned,
    fit_table,
    is_measured,
    points,
    search_table,
    shortened,
    where,
)
from trex.search.pareto import cost_front
from trex.search.ranking import in_fixed_order, spread_of
from trex.store.record import overall
from trex.store.run import Run
from trex.units import significant


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """Every run and fine-tuning in a folder, or the folder itself; unreadable ones say why.

    Raises:
        RunError: there is no such folder.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is no folder", hint="name the folder that holds your runs")
    paths = [folder, *sorted(folder.iterdir())]
    return [_row(path) for path in paths if (path / "manifest.json").is_file()]


def show_run(path: Path) -> dict[str, Any]:
    """One run's question and, where it has ended, its answer.

    Raises:
        RunError: there is none, or it is of another version or damaged.
    """
    run = _searched(path)
    manifest = run.manifest()
    return {
        **_row(path),
        "command": manifest.get("command", []),
        "baseline": manifest["baseline"],
        "versions": manifest.get("versions", {}),
        "settings": manifest["settings"],
        "summary": run.summary(),
    }


def diff_runs(before: Path, after: Path) -> dict[str, Any]:
    """The settings and results in which two runs differ.

    Raises:
        RunError: as `show_run`.
    """
    paths = (before, after)
    manifests = [_searched(path).manifest() for path in paths]
    rows = [_row(path) for path in paths]
    settings = [_flat(manifest["settings"]) for manifest in manifests]
    versions = [_flat({"versions": manifest.get("versions", {})}) for manifest in manifests]
    sides = [{**s, **v} for s, v in zip(settings, versions, strict=True)]
    results = [{k: row[k] for k in _RESULTS} for row in rows]
    return {
        "runs": [str(path) for path in paths],
        "settings": _differing(sides),
        "results": _differing(results),
    }


def prune_run(path: Path, *, delete: bool) -> dict[str, Any]:
    """The fitted parameters of plans off the front, and, with `delete`, gone.

    Records, the front's and the winner's parameters and the bundle stay, so every later command
    works but `--pick` of a plan that was pruned.

    Raises:
        RunError: there is no run, or a search is going on in it.
        StorageError: a file cannot be deleted.
    """
    run = _searched(path)
    if not (path / "summary.json").exists():
        raise RunError(
            f"{path} has not finished", hint="let its search end first: it may need every file"
        )
    with run.locked():
        kept = _kept(run)
        files = [f for f in sorted(run.candidates.glob("*.safetensors")) if f.stem not in kept]
        freed = sum(file.stat().st_size for file in files)
        if delete:
            try:
                for file in files:
                    file.unlink()
            except OSError as error:
                raise StorageError(
                    f"{path}: a file cannot be deleted: {error.strerror}",
                    hint="check the folder's permissions",
                ) from error
    return {"run": str(path), "files": [file.name for file in files], "bytes": freed}


def list_table(rows: list[dict[str, Any]]) -> list[str]:
    """`list_runs` for people."""
    if not rows:
        return ["no runs here"]
    faster = any(row["speedup"] for row in rows)  # a column that most folders do without
    head = (
        "run", "model", "device", "accounting", "plans", "gain", *(["faster"] if faster else []),
        "top-1", "MB", "state",
    )  # fmt: skip
    cells = [
        (
            shortened(Path(row["run"]).name, 16), shortened(row["model"], 15 if faster else 22),
            shortened(row["chip"], 16),
            row["accounting"], str(row["candidates"]), _number(row["edap_gain"], "x"),
            *([_number(row["speedup"], "x")] if faster else []),
            "-" if row["top1_change"] is None else points(row["top1_change"]),
            f"{row['bytes'] / 1e6:.0f}", row["state"],
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
        *(f"{row['run']}: {row['problem']}" for row in rows if row["problem"]),
    ]


def show_lines(shown: dict[str, Any]) -> list[str]:
    """`show_run` for people.

    Raises:
        RunError: what the search told at its end is damaged.
    """
    if shown["summary"] is not None:
        # A run that was moved since is where it is now.
        table = fit_table if shown["summary"]["strategy"] == "given" else search_table
        try:
            return table({**shown["summary"], "run": shown["run"]})
        except (
            ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError
        ) as error:  # fmt: skip
            raise RunError(
                f"{shown['run']}/summary.json is damaged: {type(error).__name__} {error}",
                hint="restore the file, or run the same command again, which writes it anew",
            ) from error
    settings = shown["settings"]
    budget = f", budget {settings['budget']}" if settings["budget"] else ""
    return [
        f"{where({**settings, 'baseline': shown['baseline']})}{budget}",
        f"{shown['candidates']} plans fitted and measured; not finished",
        "go on with: " + " ".join(map(str, shown["command"])),
    ]


def diff_table(result: dict[str, Any]) -> list[str]:
    """`diff_runs` for people."""
    rows = [
        (shortened(name, 30), *(shortened(_text(value), 31) for value in values))
        for part in ("settings", "results")
        for name, values in result[part].items()
    ]
    names = [shortened(Path(run).name, 31) for run in result["runs"]]
    if not rows:
        return [f"{names[0]} and {names[1]} do not differ"]
    return aligned(("", *names), rows, left=(0, 1, 2))


def prune_lines(pruned: list[dict[str, Any]], deleted: bool) -> list[str]:
    """`prune_run` for people."""
    word = "deleted" if deleted else "can go"
    lines = [
        f"{item['run']}: {len(item['files'])} files off the front, {item['bytes'] / 1e6:.1f} MB, "
        f"{word}"
        for item in pruned
    ]
    return lines if deleted else [*lines, "nothing was deleted; --yes deletes them"]


_RESULTS = (
    "state", "candidates", "plan", "edap_gain", "speedup", "loss", "top1", "top1_change",
)  # fmt: skip


def _row(path: Path) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run": str(path), "model": "-", "chip": "-", "accounting": "-", "budget": "-",
        "candidates": 0, "plan": None, "edap_gain": None, "speedup": None, "loss": None,
        "top1": None, "top1_change": None, "bytes": _size(path), "state": "unreadable",
        "problem": None,
    }  # fmt: skip
    try:
        if is_finetuning(path):
            return row | _finetuning(path)
        run = Run.open(path)
        settings = run.manifest()["settings"]
        row |= {name: str(settings[name]) for name in ("model", "chip", "accounting", "budget")}
        row["candidates"] = len(run.records())
        row["state"] = "stopped"
        if (summary := run.summary()) is not None:
            best, measured = summary["best"], summary["best"].get("evaluation")
            gain = overall(summary["baseline"]) / overall(best["estimate"])
            name = "speedup" if is_measured(summary["baseline"]) else "edap_gain"
            row |= {"plan": best["plan"], name: gain, "loss": best["selection"]["loss"]}
            if measured:
                row |= {"top1": measured["top1"], "top1_change": measured["difference"]}
            row["state"] = "finished"
    except RunError as error:
        row["problem"] = error.message
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        row["problem"] = f"is damaged: {type(error).__name__} {error}"
    return row


def _finetuning(path: Path) -> dict[str, Any]:
    """What a row tells of a fine-tuning; it holds no plans but its own, and no prices."""
    tuned = read_finetuning(path)
    measured = next((s.evaluation for s in tuned.stages if s.name == "finetuned"), None)
    told: dict[str, Any] = {
        "model": tuned.model, "plan": tuned.plan,
        "state": "fine-tuned" if tuned.kept else "fine-tuning",
    }  # fmt: skip
    if measured:
        told |= {"top1": measured["top1"], "top1_change": measured["difference"]}
    return told


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
    records = in_fixed_order(run.records())
    front = cost_front(
        [overall(record["estimate"]) for record in records],
        [record["selection"]["loss"] for record in records],
        spread_of(records),
    )
    kept = {records[i]["key"] for i in front}
    if (run.best / "best.json").exists():
        kept.add(run.read_json("best/best.json")["key"])
    return kept


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `search.seed`."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _differing(sides: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys([*sides[0], *sides[1]])
    pairs = {name: [side.get(name) for side in sides] for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return significant(value)
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value)


def _number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.2f}{unit}"
