"""The folder of one fine-tuning.

manifest.json     what was asked, of what (versions, hashes), written once
curve.csv         losses, learning rate and speed by step
checkpoints/      the state, until the training is finished
bundle/           the fine-tuned variant
results.jsonl     one record of the variant as it was fitted, one as it was fine-tuned
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
    sweep,
    write_atomic,
)
from trex.plan import Plan
from trex.settings import difference
from trex.store.schemas import StageFields, check_fields
from trex.stored import current, text_of_v0_1

_logger = logging.getLogger(__name__)

#: of what is written; version 0.1's is read too, and its fine-tunings can be gone on with
SCHEMA: Final = 2
V0_1: Final = 1


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

    def records(self) -> list[dict[str, Any]]:
        """What is measured so far, each stage once.

        Raises:
            RunError: a record is damaged.
        """
        file = self.path / "results.jsonl"
        if not file.exists():
            return []
        by_stage: dict[str, dict[str, Any]] = {}
        for number, record in enumerate(read_jsonl(file).records, start=1):
            check_fields(StageFields, record, f"{file}:{number}", RunError, "restore the file")
            by_stage.setdefault(record["stage"], current(record))
        return list(by_stage.values())

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one stage's record."""
        append_line(self.path / "results.jsonl", json.dumps({"schema": SCHEMA, **record}))

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
