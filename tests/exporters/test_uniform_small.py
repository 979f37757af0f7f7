"""The benchmark that takes a UniForm from training to a deployed variant, in its smallest form."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from small_runs import write_images

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "uniform_small.py"


@pytest.mark.slow
def test_from_training_to_a_rebuilt_variant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(SCRIPT))["main"]
    flags = [
        "--train", str(write_images(tmp_path / "train")), "--test",
        str(write_images(tmp_path / "test", each=2, seed=1)), "--out", str(tmp_path / "out"),
        "--model", "uniform_t", "--img-size", "80", "--epochs", "1", "--calib-images", "12",
        "--max-latency", "0.95x", "--evaluations", "2",
    ]  # fmt: skip
    main(flags)
    printed = capsys.readouterr().out
    assert "rebuilt in a fresh process: logits of 8 images differ by" in printed
    names = [line.split()[0] for line in printed.splitlines() if line]
    assert names[-4:] == ["original", "fitted", "fine-tuned", "rebuilt"]
