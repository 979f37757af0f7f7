"""What `trex evaluate` measured, kept in the run folder for the report.

evaluations.jsonl     one line a measurement, appended; the last one of its kind counts
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from trex.errors import RunError
from trex.files import read_jsonl
from trex.search.ranking import best_record, records_of
from trex.store.run import Run
from trex.store.schemas import LineFields, check_fields

FILE: Final = "evaluations.jsonl"
#: of what is written; version 0.1's, whose plans are told without transforms, is read too
SCHEMA: Final = 2
V0_1: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Noisy:
    """Accuracies on instances of a chip that errs, in fractions; one entry a chip instance."""

    chip: str
    mode: str
    top1: tuple[float, ...]
    baseline_top1: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """A variant beside its original on labelled images, in fractions.

    Attributes:
        pick: `best` for the winner's bundle, `finetuned` for the one after the search's short
            training, else a plan as it was fitted for the selection.
        noisy: the same on a chip that errs, or None.
    """

    pick: str
    plan: str
    data: str
    n: int
    top1: float
    baseline_top1: float
    difference: float
    ci95: tuple[float, float]
    noisy: Noisy | None


def store_evaluation(run: Run, pick: str, plan: str, measured: dict[str, Any]) -> None:
    """Append a measurement, as `measure_pair` and `measure_non_ideal` give it.

    Raises:
        StorageError: the folder cannot be written.
    """
    run.append_to(FILE, {"schema": SCHEMA, "pick": pick, "plan": plan, **measured})


def stored_evaluations(run: Run) -> tuple[Evaluation, ...]:
    """The measurements; of equal picks, data and chips the last. Others' lines are left out.

    Raises:
        RunError: a line is damaged.
    """
    if not (run.path / FILE).exists():
        return ()
    kept: dict[tuple[str, ...], Evaluation] = {}
    for number, line in enumerate(read_jsonl(run.path / FILE).records, start=1):
        if line.get("schema") not in (V0_1, SCHEMA):
            continue
        where = f"{run.path / FILE}:{number}"
        check_fields(LineFields, line, where, RunError, "drop the line, and evaluate again")
        if line["schema"] == V0_1:
            line["plan"] = _meant(run, line)
        found = _evaluation(line)
        noisy = (found.noisy.chip, found.noisy.mode) if found.noisy else ()
        key = (found.pick, found.plan, str(line.get("data_sha256")), *noisy)
        kept.pop(key, None)
        kept[key] = found
    return tuple(kept.values())


def _meant(run: Run, line: dict[str, Any]) -> str:
    """The plan that a line of version 0.1 is of; its own text where that is not to be found."""
    if line["pick"] in ("best", "finetuned") and (run.best / "best.json").exists():
        return str(run.read_json("best/best.json")["plan"])
    records = records_of(run.records(), line["plan"])
    return str(best_record(records)["plan"]) if records else str(line["plan"])


def _evaluation(line: dict[str, Any]) -> Evaluation:
    low, high = line["ci95"]
    noisy = line.get("non_ideal")
    return Evaluation(
        pick=str(line["pick"]),
        plan=str(line["plan"]),
        data=str(line["data"]),
        n=int(line["n"]),
        top1=float(line["top1"]),
        baseline_top1=float(line["baseline_top1"]),
        difference=float(line["difference"]),
        ci95=(float(low), float(high)),
        noisy=None
        if noisy is None
        else Noisy(
            chip=str(noisy["chip"]),
            mode=str(noisy["mode"]),
            top1=tuple(map(float, noisy["top1_by_draw"])),
            baseline_top1=tuple(map(float, noisy["baseline_top1_by_draw"])),
        ),
    )
