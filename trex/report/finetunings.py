"""What `trex finetune` did, read from its folder: the curve, and accuracies before and after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trex.plan import Plan
from trex.store.finetuning import FinetuneFolder, read_curve
from trex.store.schemas import Stage
from trex.stored import text_of_v0_1


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


def read_finetuning(path: Path) -> Finetuning:
    """One fine-tuning, finished or not.

    Raises:
        RunError: it is damaged or of another version.
    """
    folder = FinetuneFolder(path)
    manifest, stages = folder.manifest(), folder.records()
    steps, loss, held_out = _curve(path / "curve.csv")
    training = next((stage.training for stage in stages if stage.training), None)
    return Finetuning(
        name=path.resolve().name,
        path=path,
        model=manifest.settings.model,
        weights_sha256=manifest.settings.weights_sha256,
        plan=stages[0].plan if stages else manifest.settings.plan,
        run=manifest.run,
        steps=steps,
        loss=loss,
        held_out=held_out,
        stages=tuple(stages),
        kept=training.in_words if training else "",
        chip=next((stage.non_ideal_chip for stage in stages if stage.non_ideal_chip), None),
        command=tuple(manifest.command),
    )


def _curve(
    file: Path,
) -> tuple[tuple[int, ...], tuple[float, ...], tuple[tuple[int, float], ...]]:
    """Steps, their losses, and losses on held-out images where there are some."""
    if not file.exists():
        return (), (), ()
    rows = [row for row in read_curve(file) if row.get("loss")]
    return (
        tuple(int(row["step"]) for row in rows),
        tuple(float(row["loss"]) for row in rows),
        tuple((int(r["step"]), float(r["held_out_loss"])) for r in rows if r.get("held_out_loss")),
    )
