"""How often a variant gives its original's first guess, with the doubt that few images leave.

No torch in here: reports say it too.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from trex.store.record import Measured
from trex.store.schemas import Agreed

#: agreeing less often, a variant is far from its original
NEAR: Final = 0.9
#: of the normal distribution, for 95 %
_Z: Final = 1.959964


class Agreement(NamedTuple):
    """A share of `n` images, and its 95 % interval (Wilson's)."""

    share: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, measured: Measured) -> Agreement:
        """What a rung measured."""
        share, n = measured.agreement, measured.n
        spread = _Z**2 / n
        middle = (share + spread / 2) / (1 + spread)
        half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
        return cls(share, max(0.0, middle - half), min(1.0, middle + half), n)

    @property
    def far(self) -> bool:
        """Whether the variant is far from its original."""
        return self.share < NEAR

    def as_fields(self) -> Agreed:
        """For the summary."""
        return Agreed(
            agreement=self.share, ci95=[self.low, self.high], n=self.n, far_from_original=self.far
        )

    def __str__(self) -> str:
        low, high = (f"{100 * of:.1f}" for of in (self.low, self.high))
        return f"{100 * self.share:.1f} % (95 % interval {low} to {high})"
