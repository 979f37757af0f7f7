"""Does a file answer like the variant it was made from?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor

from trex.errors import ExportError
from trex.exporters.graph import Counts, expected_counts
from trex.exporters.variant import Variant
from trex.models.adapter import first_tensor

#: Most that a logit may differ, of logits up to 1; a share of the largest where these are larger.
TOLERANCE: Final = 1e-4
#: Images in a forward: two numbers, neither that of the example that files are traced with.
BATCH_SIZES: Final = (1, 3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One file beside its variant.

    Attributes:
        plan: of the variant.
        images: compared.
        batch_sizes: images in a forward.
        difference: the largest of any logit.
        tolerance: what it may be at most.
        same_top1: images of the same first guess.
        attentions: in the file's graph, softmaxed maps; None where it has no graph.
        matchings: in the file's graph, of tokens; None where it has no graph.
    """

    plan: str
    images: int
    batch_sizes: tuple[int, ...]
    difference: float
    tolerance: float
    same_top1: int
    attentions: int | None = None
    matchings: int | None = None

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "batch_sizes": list(self.batch_sizes)}


def compare(
    file: str,
    run: Callable[[Tensor], Tensor],
    variant: Variant,
    images: Tensor,
    counts: Counts | None = None,
) -> Check:
    """Run a file and its variant on the same images, at two batch sizes.

    Args:
        file: what messages call it.
        run: from images to logits, as the file computes them.
        variant: what it was made from.
        images: inputs.
        counts: of the file's graph.

    Raises:
        ExportError: logits differ by more than the tolerance, or the graph does other work than
            the plan.
    """
    expected = _logits(lambda x: first_tensor(variant.model(x)), images, BATCH_SIZES[1])
    tolerance = TOLERANCE * max(1.0, float(expected.abs().max()))
    difference, same = 0.0, len(images)
    for batch in BATCH_SIZES:
        # one by one takes long, and is the same for every image
        some = images[:2] if batch == 1 else images
        found = _logits(run, some, batch)
        theirs = expected[: len(some)]
        if found.shape != theirs.shape:
            raise ExportError(
                f"{file} puts out {tuple(found.shape)} for {len(some)} images in batches of "
                f"{batch}, the variant {tuple(theirs.shape)}",
                hint="report it: this model's graph depends on the number of images",
            )
        difference = max(difference, float((found - theirs).abs().max()))
        same = min(same, len(images) - int((found.argmax(1) != theirs.argmax(1)).sum()))
    if not difference <= tolerance:  # nor where it is no number
        raise ExportError(
            f"{file} answers unlike the running variant: logits differ by {difference:.2g}, at "
            f"most {tolerance:.2g} is allowed",
            hint="report it; --no-verify writes the file all the same",
        )
    if counts is not None:
        _check_counts(file, counts, expected_counts(variant))
    return Check(
        plan=str(variant.plan),
        images=len(images),
        batch_sizes=BATCH_SIZES,
        difference=difference,
        tolerance=tolerance,
        same_top1=same,
        attentions=counts.attentions if counts else None,
        matchings=counts.matchings if counts else None,
    )


def _check_counts(file: str, found: Counts, expected: Counts) -> None:
    for what in ("attentions", "matchings"):
        there, wanted = getattr(found, what), getattr(expected, what)
        if wanted is not None and there != wanted:
            raise ExportError(
                f"{file} computes {there} {what}, the plan {wanted}",
                hint="report it; --no-verify writes the file all the same",
            )


def _logits(run: Callable[[Tensor], Tensor], images: Tensor, batch: int) -> Tensor:
    with torch.no_grad():
        parts = (images[start : start + batch] for start in range(0, len(images), batch))
        return torch.cat([run(part).float() for part in parts])
