"""`.pt2` and ONNX: the variant's answers, the plan's work, in processes that know no TReX.

Tracing takes seconds, so few models are traced, each with much in its plan.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_variants import JOINT, ROWS, images, variant, variant_of_kind
from tiny_models import KINDS, logits_of

from trex.errors import ExportError
from trex.exporters import exporter
from trex.exporters.graph import Counts, expected_counts
from trex.exporters.torch_export import load_program
from trex.exporters.write import Probe, export

PROBE = Probe(images=images(), origin="noise", real=False)
CLASSES = ("ant", "bee", "cat", "dog", "eel")


def without_trex(script: str, *arguments: str) -> None:
    """Run Python in which TReX and timm cannot be imported."""
    guard = (
        "import sys\n"
        "for name in ('trex', 'timm', 'torchvision'): sys.modules[name] = None\n"
    )  # fmt: skip
    subprocess.run([sys.executable, "-c", guard + script, *arguments], check=True)


def test_a_pt2_file_runs_without_trex(tmp_path: Path) -> None:
    made = variant(JOINT, classes=CLASSES)
    record = export([made], tmp_path / "out", exporter("torch-export"), PROBE)
    (check,) = record["verified"]
    # of six encoders two reuse; one merges
    assert (check["attentions"], check["matchings"]) == (4, 1)
    save_file({"images": images(5)}, tmp_path / "images.safetensors")
    script = (
        "import torch\n"
        "from safetensors.torch import load_file, save_file\n"
        "extra = {'trex.json': ''}\n"
        "model = torch.export.load(sys.argv[1], extra_files=extra).module()\n"
        "with torch.no_grad(): logits = model(load_file(sys.argv[2])['images'])\n"
        "assert 'preprocessing' in extra['trex.json']\n"
        "save_file({'logits': logits}, sys.argv[3])\n"
    )
    out = tmp_path / "logits.safetensors"
    without_trex(
        script, str(tmp_path / "out" / "model.pt2"), str(tmp_path / "images.safetensors"), str(out)
    )
    torch.testing.assert_close(load_file(out)["logits"], logits_of(made.model, images(5)))
    card_runs(tmp_path / "out")
    file = tmp_path / "out" / "model.pt2"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(
        ExportError, match=r"is not a file that torch\.export wrote, or is damaged"
    ):
        load_program(file)


def card_runs(folder: Path) -> None:
    """The model card's own Python runs as it stands, beside a photo."""
    from PIL import Image

    Image.fromarray(np.zeros((50, 40, 3), dtype=np.uint8)).save(folder / "photo.jpg")
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    guard = "import sys\nfor name in ('trex', 'timm', 'torchvision'): sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", guard + code], cwd=folder, check=True, capture_output=True
    )
    assert done.stdout.decode().strip() in CLASSES


def test_onnx_files_share_weights_and_run_without_trex(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra `onnx` is missing")
    from trex.exporters.onnx import counts_of_file, open_session, runner, sessions

    both = [variant(plan, fitted=False, classes=CLASSES) for plan in (ROWS, "")]
    record = export(both, tmp_path / "out", exporter("onnx"), PROBE)
    rows, original = record["verified"]
    # encoder 3 computes class rows of its mixed map, 4 nothing; 0 matches 5 tokens to 3 in one go
    assert (rows["attentions"], rows["matchings"]) == (5, 1)
    assert (original["attentions"], original["matchings"]) == (6, 0)
    files = [tmp_path / "out" / f"{v.plan.key}.onnx" for v in both]
    shared = tmp_path / "out" / "weights.bin"
    alone = sum(p.numel() * 4 for v in both for p in v.model.parameters())
    assert shared.stat().st_size < 0.75 * alone
    opened = sessions(tmp_path / "out")
    for each, file in zip(both, files, strict=True):
        graph = onnx.load(file, load_external_data=False)
        facts = {entry.key: entry.value for entry in graph.metadata_props}
        assert facts["plan"] == str(each.plan)
        assert json.loads(facts["classes"]) == list(CLASSES)
        assert json.loads(facts["preprocessing"])["input_size"] == [3, 32, 32]
        assert not any(node.metadata_props for node in graph.graph.node)
        assert b"site-packages" not in file.read_bytes()
        expected = logits_of(each.model, images(5))
        for session in (open_session(file), opened.by_plan[str(each.plan)]):
            torch.testing.assert_close(runner(session)(images(5)), expected, atol=1e-4, rtol=0)
    script = (
        "import numpy as np, onnxruntime\n"
        "sys.modules['torch'] = None\n"
        "session = onnxruntime.InferenceSession(sys.argv[1])\n"
        "(logits,) = session.run(None, {'images': np.load(sys.argv[2])})\n"
        "np.save(sys.argv[3], logits)\n"
    )
    np.save(tmp_path / "images.npy", images(5).numpy())
    out = tmp_path / "logits.npy"
    without_trex(script, str(files[0]), str(tmp_path / "images.npy"), str(out))
    expected = logits_of(both[0].model, images(5)).numpy()
    np.testing.assert_allclose(np.load(out), expected, atol=1e-4)
    card_runs(tmp_path / "out")
    file = files[0]
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(ExportError, match="cannot run"):
        open_session(file)
    with pytest.raises(ExportError, match="is no ONNX file, or is damaged"):
        counts_of_file(file)
    shared.write_bytes(shared.read_bytes()[:1000])
    with pytest.raises(ExportError):
        sessions(tmp_path / "out")


def test_without_the_extra_its_name_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else real(name)
    )
    with pytest.raises(ExportError, match="onnxscript is not installed") as caught:
        export([variant()], tmp_path / "out", exporter("onnx"), PROBE)
    assert "trex-vit[onnx]" in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_running_model_computes_the_attentions_its_plan_says(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What files are held to, held to what running models do: their calls of softmax."""
    from trex.exporters import graph

    if kind in ("bert", "roberta", "electra"):
        pytest.skip("attention of transformers' own modules is called in ways of its own")
    plan = KINDS[kind].mixed or "2<-1:map/linear 4<-3"
    made = variant_of_kind(kind, plan)
    expected = expected_counts(made)
    counter = graph._Attentions()
    with torch.no_grad(), counter:
        made.model(made.example(1))
    assert counter.found == expected.attentions


def test_other_work_than_the_plans_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trex.exporters import verify

    with pytest.raises(ExportError, match="computes 6 attentions, the plan 4"):
        verify.compare("it", made_runner(), variant(), images(), Counts(attentions=6, matchings=1))
    with pytest.raises(ExportError, match="computes 0 matchings, the plan 1"):
        verify.compare("it", made_runner(), variant(), images(), Counts(attentions=4, matchings=0))


def made_runner() -> Any:
    return variant().model


def test_linear_layers_in_8_bits_are_measured_beside_float(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra `onnx` is missing")
    from small_runs import write_images

    from trex.exporters.int8 import measure_int8, write_int8
    from trex.exporters.onnx import OnnxExporter, open_session, runner
    from trex.training.data import open_dataset
    from trex.training.transforms import eval_transform

    made = variant("2<-1 4<-3:map/linear")
    OnnxExporter().write(tmp_path, [made])
    pictures = write_images(tmp_path / "images", each=3)
    transform = eval_transform(made.data_config)
    labelled = open_dataset(str(pictures), transform=transform)
    unlabelled = open_dataset(str(pictures), transform=transform, labels=False)
    expected = logits_of(made.model, images())
    for mode in ("dynamic", "static"):
        file = write_int8(tmp_path, mode, images())  # type: ignore[arg-type]
        operations = [node.op_type for node in onnx.load(file).graph.node]
        # qkv, proj (own or fitted), fc1, fc2; softmaxed maps are multiplied in float
        assert operations.count("Softmax") == 4
        assert operations.count("MatMul") > 4
        assert "QLinearAdd" not in operations
        found = runner(open_session(file))(images())
        assert not torch.equal(found, expected)
        # weights at random are hard to quantise; real ones are measured in docs/deploy.md
        assert torch.cosine_similarity(found, expected).min() > 0.8
        told = measure_int8(tmp_path, labelled)
        assert told["bytes"] < told["float_bytes"]
        assert told["n"] == 12
        assert told["difference"] == pytest.approx(told["top1"] - told["float_top1"])
        assert told["ci95"][0] <= told["difference"] <= told["ci95"][1]
        assert "top1" not in measure_int8(tmp_path, unlabelled)
