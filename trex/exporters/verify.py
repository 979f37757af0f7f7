"""Does a file answer like the variant it was made from?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from trex.errors import ExportError
from trex.exporters.graph import Counts, expected_counts
from trex.exporters.variant import Check, Variant
from trex.models.answers import first_tensor

#: Most that a logit may differ, of logits up to 1; a share of the largest where these are larger.
TOLERANCE: Final = 1e-4
#: Images in a forward: two numbers, neither that of the example that files are traced with.
BATCH_SIZES: Final = (1, 3)
#: Of the images, how many may lie at a tie of matching, one at least; none where nothing matches.
_MOST_TIES: Final = 0.05
#: Relative noise of rounding, and how many draws of it: two thirds of the draws at a tie that was
#: looked into answered one way, one third the other.
_ROUNDING: Final = 1e-6
_DRAWS: Final = 16


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
    difference, same, ties = 0.0, len(images), 0
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
        apart = (found - theirs).abs().amax(dim=1)
        tied = [
            number
            for number in (~(apart <= tolerance)).nonzero().flatten().tolist()
            if _is_tie(variant, some[number], found[number], tolerance)
        ]
        ties = max(ties, len(tied))
        if len(tied) <= max(1, int(_MOST_TIES * len(images))):
            apart[tied] = 0.0
        difference = max(difference, float(apart.max()))
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
        ties=ties,
        attentions=counts.attentions if counts else None,
        matchings=counts.matchings if counts else None,
    )


def _is_tie(variant: Variant, image: Tensor, found: Tensor, tolerance: float) -> bool:
    """Whether a file's logits are those of the variant after noise of rounding's size.

    Only matching makes jumps of such noise, so only plans that match tokens are asked.
    """
    matches = variant.plan.merges or any(rows.rows != "class" for rows in variant.plan.rows)
    if not matches or not image.is_floating_point():
        return False
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(_DRAWS, *image.shape, generator=generator)
    with torch.no_grad():
        own = first_tensor(variant.model(image * (1 + _ROUNDING * noise))).float()
    return bool(((own - found).abs().amax(dim=1) <= tolerance).any())


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
