"""How well a cheap rung of a search ranks plans for a dearer one.

    trex search ... --strategy random --evaluations 16 --finetuned-candidates 16 --out RUN
    python benchmarks/rung_rank.py RUN

For every two rungs after the fit that at least three plans of a run came to: Spearman's
correlation of their losses, and of their soft agreements, with 95 % intervals over plans, and the
mean loss on both. Both rungs are measured on the same images, so they share these images' noise,
and plans that a rung was chosen for by the one before are alike: measure on plans that were drawn
at random, and train all of them.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Final

import numpy as np
from rank_correlation import rank_correlation

from trex.store.ranking import order_of
from trex.store.record import SELECTION, Record
from trex.store.run import Run

#: with fewer plans than this a correlation says nothing at all
_LEAST: Final = 3


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="what `trex search` wrote")
    args = parser.parse_args()
    records = Run.open(args.run).records()
    rungs = sorted({SELECTION, *(rung for r in records for rung in r.later)}, key=order_of)
    head = f"{'from':<12} {'to':<12} {'images':>7} {'plans':>5}"
    print(f"{head} {'loss':>6} {'loss':>6}  {'Spearman, loss':<18} Spearman, soft agreement")
    for earlier, later in itertools.combinations(rungs, 2):
        both = [r for r in records if r.measured(earlier) and r.measured(later)]
        if len(both) < _LEAST:
            continue
        images = both[0].spent(later).images
        before, after = (losses(both, rung) for rung in (earlier, later))
        agreed = [[r.measured(rung).soft_agreement for r in both] for rung in (earlier, later)]
        print(
            f"{earlier:<12} {later:<12} {images:>7,} {len(both):>5} {before.mean():>6.3f} "
            f"{after.mean():>6.3f}  {rank(before, after):<18} {rank(*map(np.array, agreed))}"
        )


def losses(records: list[Record], rung: str) -> np.ndarray:
    """Losses on the selection images, as a rung measured them."""
    return np.array([record.measured(rung).loss for record in records])


def rank(one: np.ndarray, other: np.ndarray) -> str:
    """Spearman's correlation, with its 95 % interval over plans."""
    found = rank_correlation(one, other)
    return f"{found.rank:.2f} ({found.low:.2f} to {found.high:.2f})"


if __name__ == "__main__":
    main()
