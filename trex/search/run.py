"""The run folder: everything one search did, written so that a kill at any moment loses little.

manifest.json     what was asked, of what (versions, hashes), written once
surrogate.json    predicted losses' measured parts, once they are all there
results.jsonl     one record a candidate, appended
candidates/       the fitted parameters of every recorded candidate
best/             the winner as a bundle, and its final measurements (best.json)
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

SCHEMA: Final = 1

#: what a record must hold to be read by later commands
_RECORD_FIELDS: Final = ("key", "plan", "transforms", "estimate", "selection")


class Run:
    """One run folder.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def start(cls, path: Path, manifest: dict[str, Any]) -> Run:
        """Create the folder, or go on in one whose settings are the same.

        Only `manifest["settings"]` is compared; the rest (versions, time, command) is for people.

        Raises:
            RunError: the folder holds a run of other settings, or something else.
            StorageError: it cannot be created.
        """
        run = cls(path)
        if run._manifest_path.exists():
            run._compare(manifest["settings"])
            return run
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(not item.name.startswith(".manifest.json.") for item in path.iterdir()):
                raise RunError(
                    f"{path} exists and is not a run folder", hint="choose another --out folder"
                )
        except OSError as error:
            raise StorageError(
                f"{path} cannot be created: {error.strerror}", hint="choose another --out folder"
            ) from error
        # The manifest makes it a run: killed before, the same command begins anew.
        write_atomic(
            run._manifest_path, json.dumps({"schema": SCHEMA, **manifest}, indent=2) + "\n"
        )
        return run

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
    def candidates(self) -> Path:
        """The folder of fitted parameters."""
        return self.path / "candidates"

    @property
    def best(self) -> Path:
        """The winner's folder."""
        return self.path / "best"

    @property
    def _manifest_path(self) -> Path:
        return self.path / "manifest.json"

    def manifest(self) -> dict[str, Any]:
        """What was asked.

        Raises:
            RunError: it is missing, damaged or of another version.
        """
        return self.read_json("manifest.json")

    def read_json(self, name: str) -> dict[str, Any]:
        """One of the folder's JSON files.

        Raises:
            RunError: it is missing, damaged or of another version.
        """
        file = self.path / name
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(
                f"{self.path} has no {name}",
                hint="give the folder that `trex search --out` wrote"
                if name == "manifest.json"
                else "run the same `trex search` command again; it goes on where it stopped",
            ) from None
        except (OSError, ValueError) as error:
            raise RunError(f"{file} cannot be read: {error}", hint="restore the file") from None
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else None
            raise RunError(
                f"{file} is of schema {found}, this TReX reads {SCHEMA}",
                hint="use the version of TReX that wrote it",
            )
        return data

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        """Write one of the folder's JSON files, at once."""
        write_atomic(self.path / name, json.dumps({"schema": SCHEMA, **data}, indent=2) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """The finished candidates, each once, in the order they were finished.

        Raises:
            RunError: a record is damaged, or of another version.
        """
        file = self.path / "results.jsonl"
        if not file.exists():
            return []
        unique: dict[str, dict[str, Any]] = {}
        for number, record in enumerate(read_jsonl(file).records, start=1):
            if record.get("schema") != SCHEMA or any(f not in record for f in _RECORD_FIELDS):
                raise RunError(
                    f"{file}:{number}: is not a record this TReX reads",
                    hint="use the version of TReX that wrote it",
                )
            unique.setdefault(record["key"], record)
        return list(unique.values())

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one candidate's record; on disk when this returns."""
        append_line(self.path / "results.jsonl", json.dumps({"schema": SCHEMA, **record}))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from searching in the same folder; repairs a torn last record.

        Raises:
            RunError: another process is searching there.
            StorageError: the folder cannot be written.
        """
        try:
            self.candidates.mkdir(exist_ok=True)
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
                    f"another process is searching in {self.path}",
                    hint="wait for it, or choose another --out folder",
                ) from None
            if (self.path / "results.jsonl").exists():
                repair_jsonl(self.path / "results.jsonl")
            yield
        finally:
            os.close(descriptor)

    def _compare(self, settings: Mapping[str, Any]) -> None:
        before = self.manifest()["settings"]
        now = json.loads(json.dumps(settings))
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                raise RunError(
                    f"{self.path} holds a run of other settings: {name} was "
                    f"{_short(before.get(name))}, now it is {_short(now.get(name))}",
                    hint="choose another --out folder; nothing was changed",
                )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
