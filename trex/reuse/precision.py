"""Forwards in half precision, where the processor multiplies it natively.

Searching needs many forwards of the variants, and no digit of theirs is ever printed: activations
may be rounded to eight bits of mantissa. What is solved from them is solved in double precision,
and what is reported is measured in single precision.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Final, Literal

import torch

Precision = Literal["float32", "bfloat16"]

#: what Linux calls instructions that multiply bfloat16: AVX-512, AMX, Arm
_NATIVE: Final = {"avx512_bf16", "amx_bf16", "bf16"}


def forward_precision(precision: Precision) -> AbstractContextManager[None]:
    """Forwards inside this context multiply in `precision`; parameters stay as they are."""
    context: AbstractContextManager[None] = torch.autocast(
        "cpu", torch.bfloat16, enabled=precision == "bfloat16"
    )
    return context


@cache
def fastest_precision(cpuinfo: Path = Path("/proc/cpuinfo")) -> Precision:
    """bfloat16 where the processor has instructions for it, as far as the system tells.

    Where it has none, PyTorch multiplies bfloat16 sixty times slower than float32.
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return "float32"
    return "bfloat16" if _NATIVE & set(text.lower().split()) else "float32"
