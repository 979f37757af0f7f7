"""The run folder: everything one search did, written so that a kill at any moment loses little.

manifest.json     what was asked, of what (versions, hashes), written once
fit.json          how plans are fitted, chosen once on the fitted images, and what else was tried
surrogate.json    predicted losses' measured parts, once they are all there
results.jsonl     one record a candidate, appended; what later rungs measured follows as lines of
                  their own. This file alone says what was measured; every line has a checksum
candidates/       the fitted parameters of every recorded candidate, each file with its hash
best/             the winner as a bundle, fitted on all images (best.json)
timings.json      what a measured machine took for the best plans, where one was searched for
original.safetensors  the original's weights, where the search was given the model itself
finetuned/        the winner as the last rung trained it, where there were short trainings
study.log         who works on what (an Optuna journal); made again from the records if lost
.locks/           of processes that search here together
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from trex.errors import PlanError, RunError, StorageError
from trex.files import (
    GrowingLines,
    append_line,
    make_folder,
    parse_json,
    repair_jsonl,
    sealed_line,
    write_atomic,
)
from trex.plan import Layout
from trex.settings import difference
from trex.store.fields import Fields, check_plan, read_fields
from trex.store.locks import LOCKS, file_lock
from trex.store.record import Later, Record
from trex.store.schemas import (
    FILES,
    Fit,
    Manifest,
    Proof,
    Short,
    Summary,
    Timings,
    Tuned,
    Winner,
)
from trex.stored import current, read_layout, text_of_v0_1

if TYPE_CHECKING:
    from torch import Tensor

_logger = logging.getLogger(__name__)

#: of what is written; version 0.1's is read too, and its runs can be gone on with
SCHEMA: Final = 3
V0_1: Final = 2

#: names of the files
RESULTS: Final = "results.jsonl"
FIT: Final = "fit.json"
WINNER: Final = "best/best.json"
TUNED: Final = "finetuned/finetuned.json"
PROOF: Final = "proof.json"
#: what losses are predicted from
PROBES: Final = "surrogate.json"
SUMMARY: Final = "summary.json"
#: what a measured machine took for the best plans
TIMINGS: Final = "timings.json"
#: weights of the original, where the search was given the model itself
ORIGINAL: Final = "original.safetensors"

_DROP_LINE: Final = "restore the file, or drop the line: the same command measures it again"
_RESTORE: Final = "restore the file, or search again elsewhere"
_Kind = TypeVar("_Kind", bound=Fields)
#: names a folder may hold before it is a run
_BEFORE: Final = (".manifest.json.", ".lock")


class Run:
    """One run folder.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = GrowingLines(path / RESULTS)
        #: by key
        self._records: dict[str, Record] = {}

    @classmethod
    def start(cls, path: Path, manifest: Manifest) -> Run:
        """Create the folder, or go on in one whose settings are the same.

        Only `manifest.settings` is compared; the rest (versions, time, command) is for people.

        Raises:
            RunError: the folder holds a run of other settings, or something else.
            StorageError: it cannot be created.
        """
        run, settings = cls(path), manifest.settings.as_json()
        run.check(settings)
        with run.folder(), file_lock(path / LOCKS / "manifest"):
            if run.begun:
                run.check(settings)
            else:
                # The manifest makes it a run: killed before, the same command begins anew.
                text = json.dumps({"schema": SCHEMA, **manifest.as_json()}, indent=2)
                write_atomic(run._manifest_path, text + "\n")
        return run

    def check(self, settings: Mapping[str, Any]) -> None:
        """See that `start` can go on here, or begin; changes nothing.

        Raises:
            RunError: the folder holds a run of other settings, or something else.
            StorageError: it cannot be read.
        """
        if self.begun:
            self._compare(settings)
            return
        try:
            names = [item.name for item in self.path.iterdir()]
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unusable(self.path, error) from error
        if not all(name.startswith(_BEFORE) for name in names):
            raise RunError(
                f"{self.path} exists and is not a run folder", hint="choose another --out folder"
            )

    @contextmanager
    def folder(self) -> Iterator[None]:
        """Make the folder; where an error leaves it empty, it is removed again.

        Raises:
            StorageError: it cannot be made.
        """
        made = [p for p in (self.path, *self.path.parents) if not p.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(self.path, error) from error
        try:
            yield
        except BaseException:
            for path in made:
                with suppress(OSError):
                    path.rmdir()
            raise

    @classmethod
    def open(cls, path: Path) -> Run:
        """An existing run.

        Raises:
            RunError: there is none, or it is of another version of TReX.
        """
        run = cls(path)
        run.manifest()
        return run

    @property
    def begun(self) -> bool:
        """Whether the folder holds a run."""
        return self._manifest_path.exists()

    @property
    def candidates(self) -> Path:
        """The folder of fitted parameters."""
        return self.path / "candidates"

    @property
    def best(self) -> Path:
        """The winner's folder."""
        return self.path / "best"

    @property
    def finetuned(self) -> Path:
        """The folder of the winner with the weights of its short training."""
        return self.path / "finetuned"

    @property
    def trainings(self) -> Path:
        """The folder of what short trainings that are not finished go on from."""
        return self.path / "trainings"

    @property
    def _manifest_path(self) -> Path:
        return self.path / "manifest.json"

    def manifest(self) -> Manifest:
        """What was asked.

        Raises:
            RunError: it is missing, damaged or of another version.
        """
        return self._read_as("manifest.json", Manifest)

    @property
    def of_v0_1(self) -> bool:
        """Whether version 0.1 began the run.

        Raises:
            RunError: as `manifest`.
        """
        return bool(self.read_json("manifest.json")["schema"] == V0_1)

    def layout(self) -> Layout:
        """Which plans the run's model can run.

        Of a run of version 0.1, whose plans merge nothing, only who may reuse whom is known.
        """
        manifest = self.manifest()
        try:
            if manifest.layout is None:
                return Layout(stages=tuple(manifest.settings.space["stages"]), tokens=0)
            return read_layout(manifest.layout.as_json())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{self._manifest_path} is damaged: layout: {error}", hint="restore the file"
            ) from None

    def read_json(self, name: str) -> dict[str, Any]:
        """One of the folder's JSON files, checked; a plan at its top as this version tells it.

        Raises:
            RunError: it is missing, damaged or of another version.
        """
        file = self.path / name
        try:
            data = parse_json(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(
                f"{self.path} has no {name}",
                hint="give the folder that `trex search` or `trex fit` wrote"
                if name == "manifest.json"
                else "run the same command again; it goes on where it stopped",
            ) from None
        except (OSError, ValueError) as error:
            raise RunError(f"{file} cannot be read: {error}", hint="restore the file") from None
        if not isinstance(data, dict) or data.get("schema") not in (V0_1, SCHEMA):
            if (self.path / "bundle" / "config.json").is_file():
                raise RunError(
                    f"{self.path} holds a fine-tuned variant, no search",
                    hint=f"give the search's folder; trex.load and trex evaluate take "
                    f"{self.path / 'bundle'}",
                )
            found = data.get("schema") if isinstance(data, dict) else None
            raise RunError(
                f"{file} is of schema {found}, this TReX reads {SCHEMA} and {V0_1}",
                hint="use the version of TReX that wrote it",
            )
        old = data["schema"] == V0_1 and "plan" in data
        values = _renewed_plan(data, file) if old else data
        if (fields := FILES.get(name)) is not None:
            read_fields(fields, values, file, RunError, _RESTORE)
        return values

    def _read_as(self, name: str, fields: type[_Kind]) -> _Kind:
        """One of the folder's JSON files as what it holds."""
        values = {key: value for key, value in self.read_json(name).items() if key != "schema"}
        return read_fields(fields, values, self.path / name, RunError, _RESTORE)

    def winner(self) -> Winner | None:
        """Which candidate the search chose; None before.

        Raises:
            RunError: as `read_json`.
        """
        return self.chosen() if (self.path / WINNER).exists() else None

    def chosen(self) -> Winner:
        """The same.

        Raises:
            RunError: as `read_json`, and before it has chosen.
        """
        return self._read_as(WINNER, Winner)

    def tuned(self) -> Tuned:
        """The winner as the last short training left it.

        Raises:
            RunError: as `read_json`, and before that.
        """
        return self._read_as(TUNED, Tuned)

    def proof(self) -> Proof | None:
        """How well the best prediction is proved to be the best; None where nothing was solved.

        Raises:
            RunError: as `read_json`.
        """
        return self._read_as(PROOF, Proof) if (self.path / PROOF).exists() else None

    def timings(self) -> Timings | None:
        """What a measured machine took for the best plans; None where none was timed.

        Raises:
            RunError: as `read_json`.
        """
        return self._read_as(TIMINGS, Timings) if (self.path / TIMINGS).exists() else None

    def fitting(self) -> Fit | None:
        """How plans are fitted (`chosen`), and what else was `tried`.

        None before anything was fitted, and in a run that version 0.1 began.

        Raises:
            RunError: as `read_json`.
        """
        return self._read_as(FIT, Fit) if (self.path / FIT).exists() else None

    def summary(self) -> Summary | None:
        """What the search told at its end; None before.

        Raises:
            RunError: as `read_json`.
        """
        if not (self.path / SUMMARY).exists():
            return None
        summary = self._read_as(SUMMARY, Summary)
        if self.read_json(SUMMARY)["schema"] == SCHEMA:
            return summary
        return _renewed(summary, self.records())

    def write(self, name: str, values: Fields) -> None:
        """Write one of the folder's JSON files, at once."""
        self.write_json(name, values.as_json())

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        """The same of plain values."""
        write_atomic(self.path / name, json.dumps({"schema": SCHEMA, **data}, indent=2) + "\n")

    def records(self) -> list[Record]:
        """The finished candidates, each once, in the order they were finished.

        Raises:
            RunError: a record is damaged, or of another version.
        """
        if not (self.path / RESULTS).exists():
            self._records = {}
            return []
        lines, first = self._lines.new()
        if first:
            self._records = {}
        try:
            for number, line in lines:
                self._take(line, f"{self.path / RESULTS}:{number}")
        except RunError:
            self._lines = GrowingLines(self.path / RESULTS)
            raise
        return list(self._records.values())

    def record(self, key: str) -> Record | None:
        """A candidate's record, if there is one.

        Raises:
            RunError: as `records`.
        """
        self.records()
        return self._records.get(key)

    def _take(self, line: dict[str, Any], where: str) -> None:
        """One more line of `results.jsonl`."""
        schema = line.pop("schema", None)
        if schema not in (V0_1, SCHEMA) or "key" not in line:
            raise RunError(
                f"{where}: is not a record this TReX reads",
                hint="use the version of TReX that wrote it",
            )
        if "rung" in line:
            later = read_fields(Later, line, where, RunError, _DROP_LINE)
            if (record := self._records.get(later.key)) is not None:
                self._records[later.key] = record.with_later(later)
            return
        record = read_fields(Record, line, where, RunError, _DROP_LINE)
        check_plan(record.plan, where, RunError, _DROP_LINE)
        if schema == V0_1:
            record = Record.model_validate(_renewed_plan(line, where))
        self._records.setdefault(record.key, record)

    def append(self, record: Record | Later) -> None:
        """Add one candidate's record, or what a later rung measured; on disk when this returns."""
        self.append_unless(lambda: None, record)

    def append_unless(self, known: Callable[[], object], record: Record | Later) -> None:
        """The same, unless `known` finds something once other processes can no longer append.

        A line that a crash has cut off is removed first.
        """
        with file_lock(self.path / LOCKS / "results"):
            if known() is None:
                self._append(RESULTS, {"schema": SCHEMA, **record.as_json()})

    def append_to(self, name: str, line: Mapping[str, Any]) -> None:
        """Add a line to another of the folder's files of lines.

        Raises:
            StorageError: it cannot be written.
        """
        with file_lock(self.path / LOCKS / name):
            self._append(name, line)

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        """The lock is held: a last line that a crash has cut off can be told from one in work."""
        file = self.path / name
        if file.exists() and repair_jsonl(file):
            _logger.warning("%s: the last line was cut off and is left out", file)
        append_line(file, sealed_line(line))

    def write_parameters(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Keep a candidate's fitted parameters under its key, or `KEY.RUNG` of a later rung.

        Raises:
            StorageError: they cannot be written; what was there before stays.
        """
        from trex.store.tensors import write_tensors

        write_tensors(self._parameters(name), state, of=name)

    def parameters(self, name: str) -> dict[str, Tensor]:
        """What `write_parameters` kept.

        Raises:
            RunError: they are missing or damaged.
        """
        from trex.store.tensors import read_tensors

        return read_tensors(self._parameters(name), of=name)

    def usable_parameters(self, name: str) -> dict[str, Tensor] | None:
        """The same for who can make them again: None where they are missing or, aloud, damaged."""
        if not self._parameters(name).exists():
            return None
        try:
            return self.parameters(name)
        except RunError as error:
            _logger.warning("%s: it is made again", error.message)
            return None

    def remove_parameters(self, name: str) -> None:
        """Give the disk space back."""
        self._parameters(name).unlink(missing_ok=True)

    def prune(self, kept: Collection[str], *, delete: bool) -> list[tuple[str, int]]:
        """The files of fitted parameters of others than these, and their bytes.

        Args:
            kept: names, as `write_parameters` has them.
            delete: whether they go.

        Raises:
            RunError: a search is going on here.
            StorageError: a file cannot be deleted.
        """
        with self.locked():
            files = [
                f for f in sorted(self.candidates.glob("*.safetensors")) if f.stem not in kept
            ]
            found = [(file.name, file.stat().st_size) for file in files]
            try:
                for file in files if delete else ():
                    file.unlink()
            except OSError as error:
                raise StorageError(
                    f"{self.path}: a file cannot be deleted: {error.strerror}",
                    hint="check the folder's permissions",
                ) from error
        return found

    def _parameters(self, name: str) -> Path:
        return self.candidates / f"{name}.safetensors"

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Choose and write the winner in one process at a time; the others wait."""
        with file_lock(self.path / LOCKS / "best"):
            yield

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Search here, as other processes may.

        Raises:
            RunError: another process deletes files here.
            StorageError: the folder cannot be written.
        """
        with self._lock(fcntl.LOCK_SH, "another process is pruning"):
            for folder in (self.path, self.candidates):
                make_folder(folder)
            yield

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep searches out.

        Raises:
            RunError: another process is searching there.
            StorageError: the folder cannot be written.
        """
        with self._lock(fcntl.LOCK_EX, "another process is searching"):
            yield

    @contextmanager
    def _lock(self, kind: int, otherwise: str) -> Iterator[None]:
        try:
            descriptor = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR, 0o666)
        except OSError as error:
            raise _unusable(self.path, error) from error
        try:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except OSError:
                raise RunError(
                    f"{otherwise} in {self.path}",
                    hint="wait for it, or choose another --out folder",
                ) from None
            yield
        finally:
            os.close(descriptor)

    def _compare(self, settings: Mapping[str, Any]) -> None:
        if different := difference(self.manifest().settings.as_json(), settings):
            raise RunError(
                f"{self.path} holds a run of other settings: {different}",
                hint="choose another --out folder; nothing was changed",
            )


def _renewed_plan(stored: dict[str, Any], where: object) -> dict[str, Any]:
    """What holds a plan of version 0.1, as this version tells it."""
    try:
        return current(stored)
    except PlanError as error:
        raise RunError(f"{where}: {error.message}", hint="restore the file") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise RunError(f"{where} is damaged: {error}", hint="restore the file") from error


def _renewed(summary: Summary, records: Sequence[Record]) -> Summary:
    """A summary of version 0.1, its plans told as this version tells them."""
    values = {(text_of_v0_1(r.parsed), r.transform, r.selection): r.plan for r in records}

    def renewed(short: Short) -> Short:
        plan = values.get((short.plan, short.transform, short.selection))
        if plan is None:
            raise RunError(
                f'summary.json tells of "{short.plan}", of which there is no record',
                hint="restore results.jsonl, or delete summary.json",
            )
        return short.model_copy(update={"plan": plan})

    front, tuned, best = summary.front, summary.finetuned, renewed(summary.best)
    points, knee = list(map(renewed, front.points)), front.knee and renewed(front.knee)
    return summary.model_copy(
        update={
            "best": best,
            "finetuned": tuned and tuned.model_copy(update={"plan": best.plan}),
            "pareto": list(map(renewed, summary.pareto)),
            "front": front.model_copy(update={"points": points, "knee": knee}),
        }
    )


def _unusable(path: Path, error: OSError) -> StorageError:
    what = "read" if path.exists() and not os.access(path, os.R_OK) else "created"
    return StorageError(
        f"{path} cannot be {what}: {error.strerror}", hint="choose another --out folder"
    )
