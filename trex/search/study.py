"""A study: who works on which candidate, and what came of it, shared by any number of processes.

It is an Optuna study, so `optuna-dashboard` shows it. A candidate is a trial: waiting, running,
complete, or failed because its worker died; then a copy of it waits. The records of a search are
in its run folder's `results.jsonl`, not here: a study that was lost is made again from them.
"""

from __future__ import annotations

import logging
import secrets
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from trex.errors import RunError
from trex.search.shared import SharedStorage
from trex.settings import as_stored, difference

_logger = logging.getLogger(__name__)

#: names of trials' attributes
KEY: Final = "key"
WORKER: Final = "worker"
SETTINGS: Final = "settings"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A candidate as a trial.

    Attributes:
        key: names it.
        choices: by the parameter's name, what was chosen and what could have been.
        notes: further facts for people.
    """

    key: str
    choices: Mapping[str, tuple[str, tuple[str, ...]]]
    notes: Mapping[str, Any] = field(default_factory=dict)

    def as_trial(self) -> FrozenTrial:
        """A trial that waits."""
        return optuna.create_trial(
            state=TrialState.WAITING,
            params={name: chosen for name, (chosen, _) in self.choices.items()},
            distributions={
                name: CategoricalDistribution(options)
                for name, (_, options) in self.choices.items()
            },
            user_attrs={KEY: self.key, **self.notes},
        )


class Study:
    """One study, as one process sees it.

    Args:
        shared: where it is kept.
        name: for people; the storage holds one study of a name.
        objectives: what is minimised, with units.
        settings: what every process that joins must agree on.
        sampler: proposes candidates where they are not listed.

    Raises:
        RunError: the storage holds a study of this name with other settings.
        StorageError: the storage does not answer.
    """

    def __init__(
        self,
        shared: SharedStorage,
        name: str,
        objectives: Sequence[str],
        settings: Mapping[str, Any],
        sampler: BaseSampler | None = None,
    ) -> None:
        self.shared = shared
        self.name = name
        self.worker = f"worker-{secrets.token_hex(6)}"
        self._storage = shared.studies
        self._mine: set[int] = set()
        try:
            with shared.errors(), shared.locks.exclusive():
                self.optuna = _open(name, shared.studies, len(objectives), sampler)
                self._id = self._storage.get_study_id_from_name(name)
                self._agree(settings, objectives)
                shared.locks.hold(self.worker)
        except BaseException:
            shared.close()
            raise

    def _agree(self, settings: Mapping[str, Any], objectives: Sequence[str]) -> None:
        before = self.optuna.user_attrs.get(SETTINGS)
        if before is None:
            self.optuna.set_user_attr(SETTINGS, as_stored(settings))
            with warnings.catch_warnings():  # names of objectives are experimental in Optuna 5
                warnings.simplefilter("ignore", ExperimentalWarning)
                self.optuna.set_metric_names(list(objectives))
        else:
            _refuse_other(self.shared, self.name, before, settings)

    def close(self) -> None:
        """Let go of the storage: what this process still works on can be taken by others."""
        self.shared.close()

    def offer(self, entries: Sequence[Entry]) -> None:
        """List candidates to be worked on; those that are listed stay as they are."""

        def offer() -> None:
            if self._by_key().keys() >= {entry.key for entry in entries}:
                return
            with self.shared.locks.exclusive():
                listed = self._by_key()
                for entry in entries:
                    if entry.key not in listed:
                        self._storage.create_new_trial(self._id, entry.as_trial())

        self.shared.patiently(offer)

    def trials(self) -> dict[str, FrozenTrial]:
        """Of every listed candidate the trial that counts; changes show in the next call."""
        return self.shared.patiently(self._by_key)

    def claim(self, keys: Sequence[str]) -> str | None:
        """Take the first of these candidates that waits; None where none does."""

        def claim() -> str | None:
            if self._first_waiting(keys) is None:
                return None
            with self.shared.locks.exclusive():
                trial = self._first_waiting(keys)
                if trial is None:
                    return None
                self.take(trial._trial_id)
            return str(trial.user_attrs[KEY])

        return self.shared.patiently(claim)

    def take(self, trial_id: int) -> None:
        """Work on a trial from now on; the lock is held."""
        # The name first: a trial that runs always says whose death ends it.
        self._storage.set_trial_user_attr(trial_id, WORKER, self.worker)
        if self._storage.get_trial(trial_id).state == TrialState.WAITING:
            self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        self._mine.add(trial_id)

    def adopt(self, trial: optuna.Trial, entry: Entry) -> None:
        """Work on a candidate that the sampler proposed; the lock is held."""
        for name, value in ({WORKER: self.worker} | dict(entry.notes) | {KEY: entry.key}).items():
            trial.set_user_attr(name, value)
        self._mine.add(trial._trial_id)

    def finish(self, key: str, values: Sequence[float], notes: Mapping[str, Any]) -> None:
        """Say what came of a candidate that this process works on."""

        def finish() -> None:
            trial = self._by_key().get(key)
            if trial is None:  # taken for dead; listed again, it is told what is recorded
                return
            try:
                for name, value in notes.items():
                    self._storage.set_trial_user_attr(trial._trial_id, name, value)
                self._storage.set_trial_state_values(
                    trial._trial_id, TrialState.COMPLETE, list(values)
                )
            except UpdateFinishedTrialError:
                # This worker was taken for dead, and another one has done the work again.
                _logger.warning("%s was finished by another worker", key)
            self._mine.discard(trial._trial_id)

        self.shared.patiently(finish)

    def complete(self) -> dict[str, FrozenTrial]:
        """The finished candidates' trials by key."""
        trials = self.shared.patiently(self._by_key)
        return {key: t for key, t in trials.items() if t.state == TrialState.COMPLETE}

    def revive(self) -> int:
        """Let candidates of dead workers wait again; how many there were."""

        def revive() -> list[FrozenTrial]:
            if not any(self._is_orphan(trial) for trial in self._by_key().values()):
                return []
            with self.shared.locks.exclusive():
                orphans = [t for t in self._by_key().values() if self._is_orphan(t)]
                for trial in orphans:
                    self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                    # Killed in between, the candidate is no longer listed, and offered again.
                    self._storage.create_new_trial(self._id, _waiting_copy(trial))
            return orphans

        orphans = self.shared.patiently(revive)
        if orphans:
            _logger.warning("%d plans of dead workers are tried again", len(orphans))
        return len(orphans)

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        if trial.state != TrialState.RUNNING or trial._trial_id in self._mine:
            return False
        worker = trial.user_attrs.get(WORKER)
        # Its own that it does not know of: the storage went away while it was claimed.
        return worker in (None, self.worker) or not self.shared.locks.is_held(worker)

    def _first_waiting(self, keys: Sequence[str]) -> FrozenTrial | None:
        trials = self._by_key()
        found = (trials[key] for key in keys if key in trials)
        return next((trial for trial in found if trial.state == TrialState.WAITING), None)

    def _by_key(self) -> dict[str, FrozenTrial]:
        """Of every candidate the trial that counts: the first that did not fail."""
        counting: dict[str, FrozenTrial] = {}
        for trial in self._storage.get_all_trials(self._id, deepcopy=False):
            key = trial.user_attrs.get(KEY)
            if key is not None and trial.state != TrialState.FAIL:
                counting.setdefault(key, trial)
        return counting


def check_study(shared: SharedStorage, name: str, settings: Mapping[str, Any]) -> None:
    """See that a storage answers and that a process of these settings may join; changes nothing.

    Raises:
        RunError: the storage holds a study of this name with other settings.
        StorageError: the storage does not answer.
    """
    with shared.errors():
        try:
            study = optuna.load_study(study_name=name, storage=shared.studies)
        except KeyError:
            return
        before = study.user_attrs.get(SETTINGS)
    if before is not None:
        _refuse_other(shared, name, before, settings)


def _refuse_other(
    shared: SharedStorage, name: str, before: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    if different := difference(before, settings):
        raise RunError(
            f'{shared.where} holds a study "{name}" of other settings: {different}',
            hint="name another study with --study, or give what it was started with",
        )


def _open(
    name: str, storage: BaseStorage, objectives: int, sampler: BaseSampler | None
) -> optuna.Study:
    """Not `load_if_exists`, which adds to the journal even where the study is there."""
    try:
        return optuna.load_study(study_name=name, storage=storage, sampler=sampler)
    except KeyError:
        return optuna.create_study(
            study_name=name,
            storage=storage,
            sampler=sampler,
            directions=["minimize"] * objectives,
        )


def _waiting_copy(trial: FrozenTrial) -> FrozenTrial:
    notes = {name: value for name, value in trial.user_attrs.items() if name != WORKER}
    return optuna.create_trial(
        state=TrialState.WAITING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={**notes, "tried again after": f"trial {trial.number}"},
    )
