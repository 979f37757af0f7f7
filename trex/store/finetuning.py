"""The folder of one fine-tuning.

manifest.json     what was asked, of what (versions, hashes), written once
curve.csv         losses, learning rate and speed by step
checkpoints/      the state, until the training is finished
bundle/           the fine-tuned variant
results.jsonl     one record of the variant as it was fitted, one as it was fine-tuned; every line
                  has a checksum
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from trex.errors import RunError, StorageError
from trex.files import (
    append_line,
    make_folder,
    parse_json,
    read_jsonl,
    repair_jsonl,
    sealed_line,
    sweep,
    write_atomic,
)
from trex.plan import Plan
from trex.settings import difference
from trex.store.fields import check_plan, read_fields
from trex.store.schemas import FinetuneManifest, Stage
from trex.stored import current, text_of_v0_1

_logger = logging.getLogger(__name__)

#: of what is written; version 0.1's is read too, and its fine-tunings can be gone on with
SCHEMA: Final = 2
V0_1: Final = 1

_RESTORE: Final = "restore its files, or fine-tune again in another folder"


def is_finetuning(path: Path) -> bool:
    """Whether a folder was written by `trex finetune`."""
    try:
        manifest = parse_json((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    settings = manifest.get("settings") if isinstance(manifest, dict) else None
    return isinstance(settings, dict) and "fitted_sha256" in settings


class FinetuneFolder:
    """Where a fine-tuning is kept.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def bundle(self) -> Path:
        """The fine-tuned variant's folder."""
        return self.path / "bundle"

    def start(self, manifest: Mapping[str, Any]) -> None:
        """Create the folder, or go on in one whose `manifest["settings"]` are the same.

        Raises:
            RunError: the folder holds something else.
            StorageError: it cannot be created.
        """
        file = self.path / "manifest.json"
        if file.exists():
            self._compare(file, manifest["settings"])
            return
        if self.path.exists() and any(not p.name.startswith(".") for p in self.path.iterdir()):
            raise RunError(
                f"{self.path} exists and is not a fine-tuning", hint="choose another --out folder"
            )
        make_folder(self.path)
        write_atomic(file, json.dumps({"schema": SCHEMA, **manifest}, indent=2) + "\n")

    def manifest(self) -> FinetuneManifest:
        """What was asked.

        Raises:
            RunError: it is missing, damaged or of another version.
        """
        file = self.path / "manifest.json"
        try:
            stored = parse_json(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{file} cannot be read: {error}", hint="restore the file") from None
        schema = stored.get("schema") if isinstance(stored, dict) else None
        if schema not in (V0_1, SCHEMA):
            raise RunError(
                f"{file} is of schema {schema}, this TReX reads {V0_1} and {SCHEMA}",
                hint="use the version of TReX that wrote it",
            )
        return read_fields(FinetuneManifest, stored, file, RunError, _RESTORE)

    def records(self) -> list[Stage]:
        """What is measured so far, each stage once.

        Raises:
            RunError: a record is damaged.
        """
        file = self.path / "results.jsonl"
        if not file.exists():
            return []
        by_stage: dict[str, Stage] = {}
        for number, line in enumerate(read_jsonl(file).records, start=1):
            where = f"{file}:{number}"
            line.pop("schema", None)
            stage = read_fields(Stage, line, where, RunError, _RESTORE)
            check_plan(stage.plan, where, RunError, _RESTORE)
            by_stage.setdefault(stage.stage, Stage.model_validate(current(line)))
        return list(by_stage.values())

    def append(self, record: Stage) -> None:
        """Add one stage's record."""
        line = sealed_line({"schema": SCHEMA, **record.as_json()})
        append_line(self.path / "results.jsonl", line)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other trainings out of the folder; repairs a torn last record.

        Raises:
            RunError: another one is working there.
        """
        for folder in (self.path, self.bundle):
            sweep(folder)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR, 0o666)
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be written: {error.strerror}",
                hint="choose another --out folder",
            ) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(
                    f"another process is fine-tuning in {self.path}",
                    hint="wait for it, or choose another --out folder",
                ) from None
            if (self.path / "results.jsonl").exists():
                repair_jsonl(self.path / "results.jsonl")
            yield
        finally:
            os.close(descriptor)

    def _compare(self, file: Path, settings: Mapping[str, Any]) -> None:
        try:
            manifest = parse_json(file.read_text(encoding="utf-8"))
            before = manifest["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file} cannot be read: {error}", hint="restore the file") from None
        if manifest.get("schema") == V0_1:
            settings = {**settings, "plan": text_of_v0_1(Plan.parse(settings["plan"]))}
        if different := difference(before, settings):
            raise RunError(
                f"{self.path} holds a fine-tuning of other settings: {different}",
                hint=f"compare with {file}, or choose another --out folder; nothing was changed",
            )


def read_curve(file: Path) -> list[dict[str, str]]:
    """The rows of a curve whose every number can be read, in order; others are left out, aloud."""
    text = file.read_bytes().decode("utf-8", errors="replace").replace("\0", "\ufffd")
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error:  # a field without end
        rows = []
    sound = [row for row in rows if _is_sound(row)]
    if len(sound) < len(rows) or (text and not rows and "," not in text):
        _logger.warning("%s: what is damaged in it is left out", file)
    return sound


def _is_sound(row: dict[str, str]) -> bool:
    try:  # a torn last row has fewer fields, so None for the last ones
        numbers = [float(value) for value in row.values() if value != ""]
        return bool(numbers) and int(row["step"]) >= 0
    except (KeyError, TypeError, ValueError):
        return False
