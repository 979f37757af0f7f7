"""Many searches: every model on every device under every budget with every seed, and one table."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from trex.api.data import DataOptions, check_sources
from trex.api.devices import open_device
from trex.api.models import ModelOptions
from trex.api.problem import Given, Prepared, WorkOptions, carry_out
from trex.api.question import Question, limits_of, prepare
from trex.api.rungs import RungOptions
from trex.api.space import SpaceOptions
from trex.errors import (
    InfeasibleError,
    StorageError,
    SweepError,
    TrexError,
    WeightsError,
)
from trex.models.registry import architecture
from trex.progress import Callback, told_to
from trex.report.sweeps import Place, SweepResult, read_result, write_sweep
from trex.search.engine import Search
from trex.store.sweep import (
    BudgetEntry,
    Cell,
    DeviceEntry,
    ModelEntry,
    SweepFile,
    SweepFolder,
    read_sweep,
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """One search of a sweep.

    Attributes:
        name: of its run folder.
        model: it.
        device: it.
        budget: it.
        seed: it.
        question: what it is asked.
        asked: a hash of that, of the device's values, and of the weights' file.
    """

    name: str
    model: ModelEntry
    device: DeviceEntry
    budget: BudgetEntry
    seed: int
    question: Question
    asked: str

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.model.shown} on {self.device.shown}, {self.budget.shown}, seed {self.seed}"


class Swept(NamedTuple):
    """What a sweep came to.

    Attributes:
        path: its folder.
        result: every search's, in the file's order.
        page: the HTML page.
        tables: CSV, Markdown, LaTeX.
    """

    path: Path
    result: SweepResult
    page: Path
    tables: tuple[Path, ...]


def plan_of(asked: SweepFile, out: Path) -> list[Planned]:
    """All searches, in the order they are done; everything that can be is checked.

    Searches of one model and seed stand together: they share probes.

    Raises:
        TrexError: a model, device, budget, space or data set is not there or does not fit.
    """
    check_sources(asked.calib, asked.eval)
    if asked.class_map is not None and not Path(asked.class_map).is_file():
        raise SweepError(f"class_map {asked.class_map}: no such file", hint="check the path")
    devices = {of.shown: open_device(of.name) for of in asked.all_devices}
    planned = []
    for model in asked.all_models:
        weights = _weights(model)
        found = architecture(
            model.name,
            num_classes=model.num_classes,
            img_size=model.img_size,
            tokens=model.tokens,
        )
        SpaceOptions(
            name=asked.search.space,
            only=asked.search.only,
            keep_tokens=asked.search.keep_tokens,
        ).load(found, asked.search.strategy)
        for seed in asked.seeds:
            for device in asked.all_devices:
                for budget in asked.all_budgets:
                    name = _slug(model.shown, device.shown, budget.shown, f"seed{seed}")
                    question = _question(asked, model, device, budget, seed, out / "runs" / name)
                    question.check()
                    question.budget(devices[device.shown])
                    told = [
                        asked.model_dump(include={"calib", "eval", "class_map", "search"}),
                        model.model_dump(exclude={"label"}),
                        question.accounting,
                        budget.limits,
                        seed,
                        devices[device.shown].fingerprint,
                        weights,
                    ]
                    text = json.dumps(told, sort_keys=True)
                    planned.append(
                        Planned(
                            name=name, model=model, device=device, budget=budget, seed=seed,
                            question=question,
                            asked=hashlib.sha256(text.encode()).hexdigest()[:16],
                        )
                    )  # fmt: skip
    names = [one.name for one in planned]
    if twice := {name for name in names if names.count(name) > 1}:
        raise SweepError(
            f"two searches would share the folder {sorted(twice)[0]}",
            hint="give models or devices labels that differ in letters and digits",
        )
    return planned


def run(file: Path, out: Path) -> Swept:
    """Search everything that a sweep's file asks and that is not done yet; then the table.

    A search that nothing fits, or that fails, does not stop the others.

    Raises:
        SweepError: the file is malformed, or the folder holds something else.
        TrexError: as `plan_of`; before any work.
    """
    asked = read_sweep(file).resolved(file.parent)
    planned = plan_of(asked, out)
    folder = SweepFolder.start(out, asked)
    left: list[Planned] = []
    probed: dict[tuple[str, int], Path] = {}
    for one in planned:
        if folder.is_done(one.name, one.asked):
            if folder.run(one.name).begun:
                probed.setdefault((one.model.shown, one.seed), folder.run(one.name).path)
        else:
            left.append(one)
    _logger.info("sweep: %d searches, %d of them are done", len(planned), len(planned) - len(left))
    done = len(planned) - len(left)
    for one, came in _searched(left, folder, probed):
        done += 1
        folder.add(came)
        _logger.info(
            "sweep: %d of %d: %s: %s",
            done, len(planned), one.title, came.reason or came.state,
        )  # fmt: skip
    return finish(folder)


def finish(folder: SweepFolder) -> Swept:
    """Write the table and the page of what is done so far.

    Raises:
        SweepError: nothing is done.
        StorageError: they cannot be written.
    """
    asked = folder.asked()
    cells = folder.cells()
    places = [
        Place(model, device, budget, seed, _slug(model, device, budget, f"seed{seed}"))
        for model in (of.shown for of in asked.all_models)
        for device in (of.shown for of in asked.all_devices)
        for budget in (of.shown for of in asked.all_budgets)
        for seed in asked.seeds
    ]
    result = read_result(folder, asked.title, places, cells)
    written = write_sweep(result, folder.path)
    return Swept(folder.path, result, written.page, written.files)


def sweep(file: str | Path, out: str | Path, *, progress: Callback | None = None) -> Swept:
    """Search every model on every device under every budget with every seed; then one table.

    Calling it again goes on where it was stopped; models, devices, budgets and seeds may be added.

    Args:
        file: a sweep's YAML file, see docs/sweeps.md.
        out: its folder.
        progress: called with every step forward.

    Raises:
        TrexError: anything the file names is missing, malformed or does not fit; before any work.
    """
    with told_to(progress):
        return run(Path(file), Path(out))


def _searched(
    left: list[Planned], folder: SweepFolder, probed: dict[tuple[str, int], Path]
) -> Iterator[tuple[Planned, Cell]]:
    """What came of every search, one after another.

    Searches that differ in their budget alone share the original's pass; those on other devices
    take the probes of a run of the same model and seed, of which `probed` names those there are.
    """
    first: Search | None = None
    group: tuple[str, int, str] | None = None
    try:
        for one in left:
            if group != (one.model.shown, one.seed, one.device.shown):
                if first is not None:
                    first.close()
                first, group = None, (one.model.shown, one.seed, one.device.shown)
            state, reason, search = _search(one, first, probed.get((one.model.shown, one.seed)))
            first = first or search
            if state == "done":
                probed.setdefault((one.model.shown, one.seed), folder.run(one.name).path)
            yield one, Cell(name=one.name, asked=one.asked, state=state, reason=reason)
    finally:
        if first is not None:
            first.close()


def _search(
    one: Planned, first: Search | None, known: Path | None
) -> tuple[Any, str, Search | None]:
    """What came of a search, why, and the search itself where it could be prepared.

    Raises:
        StorageError: a disk is full: the others would fail too.
    """
    question, made = one.question, None
    if first is None and known is not None:
        work = replace(question.given.work, like=known)
        question = replace(question, given=replace(question.given, work=work))

    def prepared() -> Prepared:
        nonlocal made
        found = prepare(question, first)
        made = found.search
        return found

    try:
        carry_out(prepared, keep=True)
    except InfeasibleError as error:
        return "infeasible", error.message, made
    except StorageError:
        raise
    except TrexError as error:
        return "failed", error.message, made
    return "done", "", made


def _question(
    asked: SweepFile,
    model: ModelEntry,
    device: DeviceEntry,
    budget: BudgetEntry,
    seed: int,
    out: Path,
) -> Question:
    work = asked.search
    return Question(
        given=Given(
            model=model.name,
            data=asked.calib,
            device=device.name,
            out=out,
            evaluated=asked.eval,
            options=ModelOptions(
                weights=model.weights,
                num_classes=model.num_classes,
                img_size=model.img_size,
                tokens=model.tokens,
                tokenizer=model.tokenizer,
                mean=model.mean,
                std=model.std,
            ),
            reading=DataOptions.of(asked.class_map, False),
            work=WorkOptions(
                seed=seed,
                final_views=work.final_views,
                batch_size=work.batch_size,
                precision=work.precision,
                workers=work.workers,
                storage=work.storage,
                study=f"{out.name} in {out.parent.parent.name}",
            ),
        ),
        limits=limits_of(budget.limits),
        accounting=device.accounting,
        usual=asked.accounting,
        space=SpaceOptions(name=work.space, only=work.only, keep_tokens=work.keep_tokens),
        strategy=work.strategy,
        evaluations=work.evaluations,
        refine_rounds=work.refine_rounds,
        quick=work.quick,
        rungs=RungOptions(refined=work.refined_candidates),
    )


def _weights(model: ModelEntry) -> list[object]:
    """A weights file's path, size and time of change; empty where the hub has them.

    Raises:
        WeightsError: it is not there.
    """
    if model.weights is None:
        return []
    try:
        found = Path(model.weights).stat()
    except OSError:
        raise WeightsError(
            f"{model.weights}: no such file", hint=f"check the weights of {model.shown}"
        ) from None
    return [model.weights, found.st_size, found.st_mtime_ns]


def _slug(*parts: str) -> str:
    """What a search's folder is called."""
    return ",".join(re.sub(r"[^A-Za-z0-9._-]+", "_", part).strip("_") for part in parts)
