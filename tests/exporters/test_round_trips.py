"""Every family, in every format that takes it: a file answers like the running variant.

Small models with random weights; real ones are measured in docs/deploy.md. Text models are in
tests/text/test_text_exports.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_variants import variant_of_kind
from tiny_models import KINDS, logits_of, randomised
from torch import Tensor

from trex.errors import ExportError
from trex.exporters import exporter
from trex.exporters.graph import counts_of_program
from trex.exporters.timm import load_timm
from trex.exporters.torch_export import load_program
from trex.exporters.variant import Variant
from trex.exporters.verify import compare
from trex.exporters.write import Probe, export
from trex.models.registry import create
from trex.models.weights import weights_hash
from trex.reuse import apply_plan
from trex.training.transforms import DataConfig

#: Outputs, maps and merges; shared rows, mixed and average maps with class rows; grids take the
#: first two and shared rows. Both formats are written from one trace, so each takes its half.
PLANS = {
    "lvvit": ("2<-1 3<-0:map/linear 4~1", "2<-1:map/mixed 3:map/average 0~1 2=class 4=3 5=@4"),
    "uniform": ("2<-1 3<-0:map/linear 4=5 5=@4", "4<-3:map/none 8<-7"),
    "shvit": ("2<-1 3<-0:map/linear 4=5 5=@4", "4<-3:map/none"),
}
CASES = [(kind, plan) for kind, plans in PLANS.items() for plan in plans]
IN_ONNX = [CASES[1], CASES[2], CASES[5]]
IN_TORCH = [case for case in CASES if case not in IN_ONNX]


def answers_alike(found: Tensor, made: Variant, images: Tensor) -> None:
    expected = logits_of(made.model, images)
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * scale)
    assert torch.equal(found.argmax(1), expected.argmax(1))


@pytest.mark.parametrize(("kind", "plan"), IN_TORCH)
def test_a_pt2_file_answers_like_the_variant(kind: str, plan: str, tmp_path: Path) -> None:
    made = variant_of_kind(kind, plan)
    export([made], tmp_path / "out", exporter("torch-export"), None)
    # loading takes most of the time: once, for what `verify` does and for more images
    program: Any = load_program(tmp_path / "out" / "model.pt2")
    run = program.module()
    check = compare("it", run, made, KINDS[kind].images(4), counts_of_program(program))
    assert check.attentions is not None
    images = KINDS[kind].images(5)
    with torch.no_grad():
        answers_alike(run(images), made, images)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "plan"), IN_ONNX)
def test_an_onnx_file_answers_like_the_variant(kind: str, plan: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra `onnx` is missing")
    from trex.exporters.onnx import open_session, runner

    made = variant_of_kind(kind, plan)
    probe = Probe(images=KINDS[kind].images(4), origin="noise", real=False)
    record = export([made], tmp_path / "out", exporter("onnx"), probe)
    (check,) = record["verified"]
    assert check["attentions"] is not None
    images = KINDS[kind].images(5)
    answers_alike(runner(open_session(tmp_path / "out" / "model.onnx"))(images), made, images)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "plan"),
    [
        ("lvvit_t", {"num_classes": 5, "img_size": 64}, "2<-1 3<-0:map/linear 4~1 6=4 7=@6"),
        (
            "lvvit_t", {"num_classes": 5, "img_size": 64},
            "2<-1:map/mixed 3:map/average 0~1 2=class",
        ),
        ("uniform_t", {"num_classes": 5}, "2<-1 4<-3:map/linear"),
        ("shvit_s1", {"num_classes": 5}, "1<-0"),
    ],
)  # fmt: skip
def test_timm_builds_the_variant(
    name: str, arguments: dict[str, Any], plan: str, tmp_path: Path
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create(name, **arguments)
        base = weights_hash(model)
        apply_plan(model, plan)
    made = Variant(
        name=name, arguments=arguments, model=model.eval(),
        data_config=DataConfig.of_model(model), base_weights_sha256=base,
    )  # fmt: skip
    images = made.example(2)
    probe = Probe(images=images, origin="noise", real=False)
    export([made], tmp_path / "out", exporter("timm"), probe)
    assert torch.equal(logits_of(load_timm(tmp_path / "out"), images), logits_of(model, images))


def test_what_timm_does_not_know_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = randomised(create("test_vit", num_classes=5, img_size=32))
    made = Variant(
        name="my_own_model", arguments={}, model=model,
        data_config=DataConfig.of_model(model), base_weights_sha256="",
    )  # fmt: skip
    with pytest.raises(ExportError, match="my_own_model is no model of timm's") as caught:
        export([made], tmp_path / "out", exporter("timm"), None)
    assert "bundle, onnx or torch-export" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_what_torch_cannot_trace_is_refused(tmp_path: Path) -> None:
    class Branching(torch.nn.Module):
        """Its work depends on what is in the images."""

        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.model(images)
            return logits if images.sum() > 0 else -logits

    model = create("test_vit", num_classes=5, img_size=32).eval()
    made = Variant(
        name="test_vit", arguments={}, model=Branching(model),
        data_config=DataConfig.of_model(model), base_weights_sha256="",
    )  # fmt: skip
    with pytest.raises(ExportError, match="test_vit"):
        export([made], tmp_path / "out", exporter("torch-export"), None)
    assert not (tmp_path / "out" / "model.pt2").exists()
