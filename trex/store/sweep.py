"""A sweep's folder: searches of models × devices × budgets × seeds, each a run folder of its own.

sweep.json      what was asked, as the last command read it, its paths absolute
cells.jsonl     what came of every search, appended: done, or nothing fits, or why it failed
runs/           a run folder for every search
sweep.csv, sweep.md, sweep.tex, index.html      the table, and the page
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from trex.config import FieldProblem, StrictModel, read_document
from trex.errors import SweepError
from trex.files import (
    append_line,
    make_folder,
    read_jsonl,
    repair_jsonl,
    sealed_line,
    write_atomic,
)
from trex.store.fields import Fields, Text, read_fields
from trex.store.run import SUMMARY, Run

ASKED: Final = "sweep.json"
CELLS: Final = "cells.jsonl"

_Name = Annotated[str, Field(min_length=1, max_length=500)]
_Size = Annotated[int, Field(ge=1, le=1_000_000)]


class ModelEntry(StrictModel):
    """A model of a sweep.

    Attributes:
        name: as `trex search --model` takes it.
        label: in tables; the name where it is not given.
    """

    name: _Name
    label: _Name | None = None
    weights: _Name | None = None
    num_classes: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    img_size: _Size | None = None
    tokens: _Size | None = None
    tokenizer: _Name | None = None
    mean: Annotated[tuple[float, ...], Field(min_length=1)] | None = None
    std: Annotated[tuple[float, ...], Field(min_length=1)] | None = None

    @property
    def shown(self) -> str:
        """In tables."""
        return self.label or self.name


class DeviceEntry(StrictModel):
    """A device of a sweep; `accounting` is of a chip, and the sweep's where it is not given."""

    name: _Name
    label: _Name | None = None
    accounting: Literal["paper", "paper_transform", "full"] | None = None

    @property
    def shown(self) -> str:
        """In tables."""
        return self.label or self.name


class BudgetEntry(StrictModel):
    """Upper limits, all of which must hold."""

    latency: _Name | None = None
    energy: _Name | None = None
    area: _Name | None = None
    edap: _Name | None = None
    params: _Name | None = None
    macs: _Name | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> BudgetEntry:
        if not self.limits:
            raise FieldProblem((), "limits nothing", "give latency: 0.6x, or another cost")
        return self

    @property
    def limits(self) -> dict[str, str]:
        """Those that were given."""
        return self.model_dump(exclude_none=True)

    @property
    def shown(self) -> str:
        """In tables: `0.6x` of latency alone, else every cost by name."""
        limits = self.limits
        if list(limits) == ["latency"]:
            return limits["latency"]
        return ", ".join(f"{name} {limit}" for name, limit in limits.items())


class SearchEntry(StrictModel):
    """How every search of a sweep works; names are those of `trex search`'s flags."""

    space: _Name | None = None
    only: Literal["reuse", "merging", "rows"] | None = None
    keep_tokens: bool = False
    strategy: Literal["exact", "optuna", "paper", "random"] = "exact"
    quick: bool = False
    evaluations: _Size | None = None
    refine_rounds: Annotated[int, Field(ge=0)] | None = None
    refined_candidates: Annotated[int, Field(ge=0)] = 0
    final_views: Annotated[int, Field(ge=0)] | None = None
    batch_size: _Size = 50
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    workers: Annotated[int, Field(ge=1)] = 1
    storage: _Name | None = None


class SweepFile(StrictModel):
    """`sweep.yaml`: every model on every device under every budget with every seed.

    Paths are relative to the file's folder.
    """

    #: one line for people, the table's title
    title: _Name = "sweep"
    #: images to fit and compare plans with
    calib: _Name
    #: labelled images to measure every best plan on
    eval: _Name | None = None
    #: class folders in the head's order
    class_map: _Name | None = None
    models: Annotated[tuple[ModelEntry | _Name, ...], Field(min_length=1)]
    devices: Annotated[tuple[DeviceEntry | _Name, ...], Field(min_length=1)]
    #: `0.6x` is of latency
    budgets: Annotated[tuple[BudgetEntry | _Name, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    #: of chips
    accounting: Literal["paper", "paper_transform", "full"] = "full"
    search: SearchEntry = SearchEntry()

    @property
    def all_models(self) -> list[ModelEntry]:
        """Names as entries."""
        return [ModelEntry(name=of) if isinstance(of, str) else of for of in self.models]

    @property
    def all_devices(self) -> list[DeviceEntry]:
        """Names as entries."""
        return [DeviceEntry(name=of) if isinstance(of, str) else of for of in self.devices]

    @property
    def all_budgets(self) -> list[BudgetEntry]:
        """Texts as limits of latency."""
        return [BudgetEntry(latency=of) if isinstance(of, str) else of for of in self.budgets]

    def resolved(self, folder: Path) -> SweepFile:
        """The same with paths that mean the same from anywhere; `folder` is the file's."""

        def located(name: str | None) -> str | None:
            if name is None:
                return None
            kind, colon, rest = name.partition(":")
            if colon and kind in ("cola", "text"):
                return f"{kind}:{(folder / rest).absolute()}"
            path = folder / name
            return str(path.absolute()) if os.path.exists(path) else name  # of any text

        models = [
            of.model_copy(
                update={
                    field: located(value)
                    for field in ("name", "weights", "tokenizer")
                    if (value := getattr(of, field)) is not None
                }
            )
            for of in self.all_models
        ]
        devices = [of.model_copy(update={"name": located(of.name)}) for of in self.all_devices]
        space = self.search.space
        search = self.search
        if space is not None:
            search = search.model_copy(update={"space": located(space)})
        return self.model_copy(
            update={
                "calib": located(self.calib),
                **({"eval": located(self.eval)} if self.eval else {}),
                **({"class_map": located(self.class_map)} if self.class_map else {}),
                "models": tuple(models),
                "devices": tuple(devices),
                "search": search,
            }
        )

    @model_validator(mode="after")
    def _each_once(self) -> SweepFile:
        for field, shown in (
            ("models", [of.shown for of in self.all_models]),
            ("devices", [of.shown for of in self.all_devices]),
            ("budgets", [of.shown for of in self.all_budgets]),
            ("seeds", list(map(str, self.seeds))),
        ):
            twice = {of for of in shown if shown.count(of) > 1}
            if twice:
                raise FieldProblem(
                    (field,), f"{sorted(twice)[0]} stands there twice",
                    "leave one out, or give them different labels",
                )  # fmt: skip
        return self


class Cell(Fields):
    """A line of `cells.jsonl`: what came of a search.

    Attributes:
        name: of its run folder.
        asked: a hash of all that it was asked.
        state: whether its run folder holds an answer.
        reason: why not.
    """

    name: Text
    asked: Text
    state: Literal["done", "infeasible", "failed"]
    reason: Text = ""


def read_sweep(path: Path) -> SweepFile:
    """A sweep's file.

    Raises:
        SweepError: it is missing or malformed.
    """
    return read_document(path, SweepError).validate(SweepFile)


class SweepFolder:
    """A sweep's folder.

    Args:
        path: it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def start(cls, path: Path, asked: SweepFile) -> SweepFolder:
        """Create the folder, or go on in one.

        Raises:
            SweepError: the folder holds something else.
            StorageError: it cannot be written.
        """
        if path.exists() and not (path / ASKED).exists() and any(path.iterdir()):
            raise SweepError(
                f"{path} exists and is not a sweep's folder", hint="choose another --out folder"
            )
        make_folder(path)
        text = json.dumps(asked.model_dump(exclude_unset=True), indent=2)
        write_atomic(path / ASKED, text + "\n")
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> SweepFolder:
        """An existing sweep.

        Raises:
            SweepError: there is none, or its file is damaged.
        """
        folder = cls(path)
        folder.asked()
        return folder

    def asked(self) -> SweepFile:
        """What was asked last.

        Raises:
            SweepError: it is missing or damaged.
        """
        return read_sweep(self.path / ASKED)

    def run(self, name: str) -> Run:
        """The run folder of a search."""
        return Run(self.path / "runs" / name)

    def cells(self) -> dict[str, Cell]:
        """What came of every search last, by name.

        Raises:
            SweepError: a line is damaged.
        """
        file = self.path / CELLS
        if not file.exists():
            return {}
        lines = read_jsonl(file).records
        hint = f"remove {file}: the same command makes it again"
        cells = [read_fields(Cell, line, file, SweepError, hint) for line in lines]
        return {cell.name: cell for cell in cells}

    def add(self, cell: Cell) -> None:
        """Note what came of a search; on disk when this returns.

        Raises:
            StorageError: it cannot be written.
        """
        file = self.path / CELLS
        if file.exists():
            repair_jsonl(file)  # a line that a crash cut off
        append_line(file, sealed_line(cell.as_json()))

    def is_done(self, name: str, asked: str) -> bool:
        """Whether a search has its answer already, or is known to have none that fits."""
        cell = self.cells().get(name)
        if cell is None or cell.asked != asked or cell.state == "failed":
            return False
        return cell.state == "infeasible" or (self.run(name).path / SUMMARY).exists()


def is_sweep(path: Path) -> bool:
    """Whether a folder is a sweep's."""
    return (path / ASKED).is_file()
