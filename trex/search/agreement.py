"""How often a variant gives its original's first guess, with the doubt that few images leave.

No torch in here: reports say it too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

#: agreeing less often, a variant is far from its original
NEAR: Final = 0.9
#: of the normal distribution, for 95 %
_Z: Final = 1.959964


def measured_last(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was measured last of a plan before any training: refined, confirmed or fitted."""
    rung = next(name for name in ("refined", "confirmed", "selection") if name in record)
    measured: Mapping[str, Any] = record[rung]
    return measured


class Agreement(NamedTuple):
    """A share of `n` images, and its 95 % interval (Wilson's)."""

    share: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, measured: Mapping[str, Any]) -> Agreement:
        """What a rung measured: `agreement` and `n`."""
        share, n = float(measured["agreement"]), int(measured["n"])
        spread = _Z**2 / n
        middle = (share + spread / 2) / (1 + spread)
        half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
        return cls(share, max(0.0, middle - half), min(1.0, middle + half), n)

    @classmethod
    def of_best(cls, best: Mapping[str, Any]) -> Agreement:
        """Of the best plan's record: refined, where that is what was measured last."""
        return cls.of(measured_last(best))

    @property
    def far(self) -> bool:
        """Whether the variant is far from its original."""
        return self.share < NEAR

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "agreement": self.share,
            "ci95": [self.low, self.high],
            "n": self.n,
            "far_from_original": self.far,
        }

    def __str__(self) -> str:
        low, high = (f"{100 * of:.1f}" for of in (self.low, self.high))
        return f"{100 * self.share:.1f} % (95 % interval {low} to {high})"
