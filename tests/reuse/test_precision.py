"""Half precision changes activations, never what is solved or reported from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import KINDS

from trex.fit.calibration import Calibration, FitSettings
from trex.fit.fitter import FittedPlan, PlanFitter
from trex.models.registry import adapter_of
from trex.plan import Plan
from trex.reuse.precision import Precision, fastest_precision


def fitted(precision: Precision, folder: Path) -> FittedPlan:
    kind = KINDS["vit"]
    model = kind.build()
    images = kind.images(40)
    plan = Plan.parse("2<-1 4<-3:map")
    calibration = Calibration(
        model,
        adapter_of(model),
        images[:32].split(16),
        images[32:].split(16),
        settings=FitSettings(precision=precision),
        scratch=folder,
    )
    candidate = plan.with_transforms({2: "linear", 4: "linear_own"})
    try:
        (result,) = PlanFitter(calibration).fit([candidate])
    finally:
        calibration.close()
    assert calibration.logits.dtype == result.logits.dtype == torch.float32
    return result


def test_a_fit_in_half_precision_answers_nearly_alike(tmp_path: Path) -> None:
    exact, rounded = (fitted(p, tmp_path) for p in ("float32", "bfloat16"))
    assert not torch.equal(exact.logits, rounded.logits)
    assert torch.allclose(exact.logits, rounded.logits, atol=0.05 * float(exact.logits.std()))
    assert all(value.dtype == torch.float32 for value in rounded.state.values())


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ("flags : fpu sse avx512_bf16 avx512f", "bfloat16"),
        ("flags : amx_tile amx_bf16", "bfloat16"),
        ("Features : fp asimd bf16 i8mm", "bfloat16"),
        ("flags : fpu sse avx2 avx512f", "float32"),
        ("", "float32"),
    ],
)
def test_half_precision_is_for_processors_that_have_it(
    tmp_path: Path, flags: str, precision: Precision
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    assert fastest_precision(tmp_path / "cpuinfo") == precision
    assert fastest_precision(tmp_path / "nothing") == "float32"
