"""The Python of README and docs/python.md, run as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from small_runs import write_images

ROOT = Path(__file__).parents[2]


def blocks(file: str) -> list[str]:
    """The Python blocks of a document, in order."""
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / file).read_text(), re.M | re.S)


def run(code: str, name: str) -> dict[str, Any]:
    """Run a document's code in a namespace of its own."""
    names: dict[str, Any] = {"__name__": name}
    exec(compile(code, name, "exec"), names)
    return names


@pytest.mark.slow
def test_every_example_of_the_guide_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        names = run("\n".join(blocks("docs/python.md")), "docs/python.md")
    assert names["again"].plan == names["result"].plan
    assert names["more"].run.read_json("surrogate.json") == names["again"].run.read_json(
        "surrogate.json"
    )
    assert Path("runs/digits/best/model.safetensors").is_file()
    assert Path("exported/pt2").is_dir()
    assert names["page"].is_file()
    assert names["measured"].n == 32
    assert names["tuned"].bundle.is_dir()
    out = capsys.readouterr().out
    assert "plans fits the budget" in out
    assert "candidates: 100 %" in out


@pytest.mark.slow
def test_readmes_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Literally, but for a narrower model with random weights, and a few images of noise."""
    pytest.importorskip("onnx")
    create = timm.create_model

    def narrow(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
        assert name == "deit_tiny_patch16_224"
        return create(name, embed_dim=48, num_heads=3, **kwargs)

    monkeypatch.setattr(timm, "create_model", narrow)
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", each=4)
    (code,) = blocks("README.md")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        names = run(code, "README.md")
    assert len([line for line in code.splitlines() if line]) <= 10
    assert names["result"].estimate.latency_s <= 0.6 * names["result"].baseline.latency_s * 1.0001
    assert Path("onnx/model.onnx").is_file()
    assert names["price"].edap_gain > 1
    assert "full accounting, budget latency <= 0.6x" in capsys.readouterr().out
