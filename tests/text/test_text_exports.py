"""Text models as files: their graphs answer like the running variant; timm's format is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import logits_of
from tiny_texts import SENTENCES, tiny_folder

from trex.errors import ExportError
from trex.exporters import exporter
from trex.exporters.variant import Variant
from trex.exporters.write import Probe, export
from trex.models.registry import load
from trex.reuse import apply_plan
from trex.text.config import TextConfig
from trex.text.tokenizer import encode

#: outputs and maps reused, tokens merged, the last encoder's class row: as a .pt2; shared rows: as
#: ONNX, which is written from the same trace
PLANS = ("2<-1 4<-3:map/linear 1~1 5=class", "3<-2:map/none 1=4 2=@1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("bert"))


def variant(folder: Path, plan: str) -> Variant:
    loaded = load(str(folder), tokens=10)
    config = TextConfig.of_model(loaded.model)
    return Variant(
        name=loaded.name, arguments=loaded.arguments,
        model=apply_plan(loaded.model, plan).eval(), data_config=config,
        base_weights_sha256=loaded.weights_sha256,
    )  # fmt: skip


def texts(made: Variant, count: int) -> torch.Tensor:
    config: Any = made.data_config
    return encode(config.load(), SENTENCES[:count], config.tokens)


def test_a_pt2_file_reads_texts(folder: Path, tmp_path: Path) -> None:
    from trex.exporters.graph import counts_of_program
    from trex.exporters.torch_export import load_program
    from trex.exporters.verify import compare

    made = variant(folder, PLANS[0])
    export([made], tmp_path / "out", exporter("torch-export"), None)
    # loading takes most of the time: once, for what `verify` does and for more texts
    program: Any = load_program(tmp_path / "out" / "model.pt2")
    run = program.module()
    compare("it", run, made, texts(made, 4), counts_of_program(program))
    with torch.no_grad():
        found = run(texts(made, 5))
    torch.testing.assert_close(found, logits_of(made.model, texts(made, 5)), rtol=0, atol=1e-4)
    assert (tmp_path / "out" / "tokenizer.json").is_file()


@pytest.mark.slow
def test_an_onnx_file_reads_texts(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra `onnx` is missing")
    from trex.exporters.onnx import open_session, runner

    made = variant(folder, PLANS[1])
    probe = Probe(images=texts(made, 4), origin="texts", real=True)
    export([made], tmp_path / "out", exporter("onnx"), probe)
    session = open_session(tmp_path / "out" / "model.onnx")
    assert [of.name for of in session.get_inputs()] == ["texts"]
    expected = logits_of(made.model, texts(made, 5))
    torch.testing.assert_close(runner(session)(texts(made, 5)), expected, rtol=0, atol=1e-4)


def test_timm_has_no_texts(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is no model of timm's"):
        export([variant(folder, PLANS[0])], tmp_path / "out", exporter("timm"), None)
    assert not (tmp_path / "out").exists()
