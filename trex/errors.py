"""What can go wrong, said in words a user can act on."""

from __future__ import annotations


class TrexError(Exception):
    """Base of every error TReX raises on purpose.

    Args:
        message: what is wrong and where.
        hint: what to do about it.

    `exit_code` is what the command line ends with: 2 for bad usage or a bad file, 1 for a
    failure on the way, 3 where nothing fits the budget.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[type[TrexError], tuple[str, str]]:
        return type(self), (self.message, self.hint)


class UnitError(TrexError):
    """A quantity has no unit, an unknown one, or is not a number."""


class PlanError(TrexError):
    """A reuse plan is malformed or does not fit the model."""


class ModelError(TrexError):
    """A model is unknown, or has parts TReX does not understand."""


class WeightsError(TrexError):
    """A checkpoint is missing, unreadable, or of another architecture."""


class ReuseError(TrexError):
    """Reuse cannot be applied to this model, or a feature cannot work with it."""


class ChipError(TrexError):
    """A chip file is missing a value, or holds one that cannot be right."""


class SpaceError(TrexError):
    """A search space is contradictory or does not fit the model."""


class BudgetError(TrexError):
    """A budget is malformed or impossible."""


class InfeasibleError(TrexError):
    """No plan of the space fits the budget."""

    exit_code = 3


class DataError(TrexError):
    """A data set is missing, empty, corrupt, or labelled for another head."""


class RunError(TrexError):
    """A run folder is incomplete, of other settings, or of another version."""


class SweepError(TrexError):
    """A sweep's file is malformed, or its folder holds something else."""


class TrainingError(TrexError):
    """A training cannot go on: its loss is no number any more."""

    exit_code = 1


class BundleError(TrexError):
    """An exported bundle is incomplete, damaged, or of another base model."""


class ExportError(TrexError):
    """A variant cannot be written in a format, or its file answers unlike it."""


class BenchError(TrexError):
    """A machine cannot be timed like this, or a measured device is of another machine or model."""


class StorageError(TrexError):
    """A result could not be written: the disk is full or the folder not writable."""

    exit_code = 1


class WorkerError(TrexError):
    """The processes of a search died."""

    exit_code = 1
