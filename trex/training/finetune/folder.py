"""The folder of one fine-tuning.

manifest.json     what was asked, of what (versions, hashes), written once
curve.csv         losses, learning rate and speed by step
checkpoints/      the state, until the training is finished
bundle/           the fine-tuned variant
results.jsonl     one record of the variant as it was fitted, one as it was fine-tuned
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from trex.errors import RunError, StorageError
from trex.files import append_line, read_jsonl, repair_jsonl, write_atomic
from trex.plan import Plan
from trex.settings import difference
from trex.stored import current, text_of_v0_1

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
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be created: {error.strerror}",
                hint="choose another --out folder",
            ) from error
        write_atomic(file, json.dumps({"schema": SCHEMA, **manifest}, indent=2) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """What is measured so far, each stage once."""
        file = self.path / "results.jsonl"
        if not file.exists():
            return []
        by_stage: dict[str, dict[str, Any]] = {}
        for record in read_jsonl(file).records:
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
            manifest = json.loads(file.read_text(encoding="utf-8"))
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
