"""What `trex finetune` did, read from its folder: the curve, and accuracies before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trex.errors import RunError
from trex.files import parse_json, read_jsonl
from trex.plan import Plan
from trex.store.finetuning import read_curve
from trex.stored import read_plan, text_of_v0_1

#: of version 0.1 and of this one
SCHEMAS: Final = (1, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A variant before (`fitted`) or after (`finetuned`) the training.

    Attributes:
        evaluation: as `measure_pair` gives it, or None.
        noisy: the same with the errors of the chip that was trained on, or None.
    """

    name: str
    evaluation: dict[str, Any] | None
    noisy: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Finetuning:
    """One fine-tuning.

    Attributes:
        name: the folder's.
        weights_sha256: of the original.
        plan: in text; of an unfinished one of version 0.1, without transforms.
        run: the run folder the variant came from, as the command named it.
        steps: of the training, ascending.
        loss: at these steps, on training images.
        held_out: (step, loss) on images that were held out.
        kept: which weights were kept, in words; empty while it is not finished.
        chip: whose errors were in training, or None.
    """

    name: str
    path: Path
    model: str
    weights_sha256: str
    plan: str
    run: str
    steps: tuple[int, ...]
    loss: tuple[float, ...]
    held_out: tuple[tuple[int, float], ...]
    stages: tuple[Stage, ...]
    kept: str
    chip: str | None
    command: tuple[str, ...]

    def is_of(self, plan: str) -> bool:
        """Whether this is a fine-tuning of a plan in text."""
        return self.plan in (plan, text_of_v0_1(Plan.parse(plan)))


def is_finetuning(path: Path) -> bool:
    """Whether a folder was written by `trex finetune`."""
    try:
        manifest = parse_json((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and "fitted_sha256" in manifest.get("settings", {})


def read_finetuning(path: Path) -> Finetuning:
    """One fine-tuning, finished or not.

    Raises:
        RunError: it is damaged or of another version.
    """
    try:
        manifest = parse_json((path / "manifest.json").read_text(encoding="utf-8"))
        if manifest.get("schema") not in SCHEMAS:
            raise RunError(
                f"{path / 'manifest.json'} is of schema {manifest.get('schema')}, this TReX "
                f"reads {' and '.join(map(str, SCHEMAS))}",
                hint="use the version of TReX that wrote it",
            )
        return _finetuning(path, manifest)
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{path} is damaged: {type(error).__name__} {error}",
            hint="restore its files, or fine-tune again in another folder",
        ) from error


def kept_in_words(training: Mapping[str, Any]) -> str:
    """Which weights a training kept, from its record; empty where there is none."""
    share = training.get("recipe", {}).get("interpolation", 1.0)
    way = f", {100 * share:.0f} % of the way from the fitted weights" if share < 1 else ""
    return f"{training['kept']}{way}" if training else ""


def _finetuning(path: Path, manifest: Mapping[str, Any]) -> Finetuning:
    settings = manifest["settings"]
    records: tuple[dict[str, Any], ...] = ()
    if (path / "results.jsonl").exists():
        records = read_jsonl(path / "results.jsonl").records
    steps, loss, held_out = _curve(path / "curve.csv")
    training: dict[str, Any] = next((r["training"] for r in records if "training" in r), {})
    return Finetuning(
        name=path.resolve().name,
        path=path,
        model=str(settings["model"]),
        weights_sha256=str(settings["weights_sha256"]),
        plan=str(read_plan(records[0])) if records else str(settings["plan"]),
        run=str(manifest.get("run", "")),
        steps=steps,
        loss=loss,
        held_out=held_out,
        stages=tuple(
            Stage(name=str(r["stage"]), evaluation=r.get("evaluation"),
                  noisy=r.get("non_ideal_evaluation"))
            for r in records
        ),
        kept=kept_in_words(training),
        chip=next((r["non_ideal_chip"] for r in records if r.get("non_ideal_chip")), None),
        command=tuple(map(str, manifest.get("command", ()))),
    )  # fmt: skip


def _curve(
    file: Path,
) -> tuple[tuple[int, ...], tuple[float, ...], tuple[tuple[int, float], ...]]:
    """Steps, their losses, and losses on held-out images where there are some."""
    if not file.exists():
        return (), (), ()
    rows = read_curve(file)
    return (
        tuple(int(row["step"]) for row in rows),
        tuple(float(row["loss"]) for row in rows),
        tuple((int(r["step"]), float(r["held_out_loss"])) for r in rows if r.get("held_out_loss")),
    )
