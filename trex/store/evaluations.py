"""What `trex evaluate` measured, kept in the run folder for its report.

evaluations.jsonl     one line a measurement, appended; the last one of its kind counts
"""

from __future__ import annotations

from typing import Final

from trex.errors import RunError
from trex.files import read_jsonl
from trex.store.fields import read_fields
from trex.store.ranking import best_record, records_of
from trex.store.run import Run
from trex.store.schemas import Evaluation, EvaluationLine

FILE: Final = "evaluations.jsonl"
#: of what is written; version 0.1's, whose plans are told without transforms, is read too
SCHEMA: Final = 2
V0_1: Final = 1


def store_evaluation(run: Run, pick: str, plan: str, measured: Evaluation) -> None:
    """Append a measurement.

    Raises:
        StorageError: the folder cannot be written.
    """
    line = {"schema": SCHEMA, "pick": pick, "plan": plan, **measured.as_json()}
    run.append_to(FILE, line)


def stored_evaluations(run: Run) -> tuple[EvaluationLine, ...]:
    """The measurements; of equal picks, data and chips the last. Others' lines are left out.

    Raises:
        RunError: a line is damaged.
    """
    if not (run.path / FILE).exists():
        return ()
    kept: dict[tuple[str, ...], EvaluationLine] = {}
    for number, line in enumerate(read_jsonl(run.path / FILE).records, start=1):
        if line.get("schema") not in (V0_1, SCHEMA):
            continue
        where = f"{run.path / FILE}:{number}"
        found = read_fields(
            EvaluationLine, line, where, RunError, "drop the line, and evaluate again"
        )
        if line["schema"] == V0_1:
            found = found.model_copy(update={"plan": _meant(run, found)})
        noisy = (found.non_ideal.chip, found.non_ideal.mode) if found.non_ideal else ()
        key = (found.pick, found.plan, str(found.data_sha256), *noisy)
        kept.pop(key, None)
        kept[key] = found
    return tuple(kept.values())


def _meant(run: Run, line: EvaluationLine) -> str:
    """The plan that a line of version 0.1 is of; its own text where that is not to be found."""
    if line.pick in ("best", "finetuned") and (winner := run.winner()) is not None:
        return winner.plan
    records = records_of(run.records(), line.plan)
    return best_record(records).plan if records else line.plan
