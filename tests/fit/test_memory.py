"""Memory of a fit does not grow with the images: what does lies on the disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: of the logits of all images, 4 bytes each: what would grow if they were kept in memory
CLASSES, BATCH = 10_000, 50
CODE = f"""
import re, sys
from contextlib import closing
from pathlib import Path
import timm, torch
from trex.fit.calibration import Calibration, FitSettings
from trex.fit.fitter import PlanFitter
from trex.fit.loss import answers, mean_kl
from trex.models.registry import adapter_of
from trex.plan import Plan
from trex.search.records import selection_metrics

count, scratch = int(sys.argv[1]), Path(sys.argv[2])
most = 0

def look(steps=0):
    global most
    of = re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    most = max(most, int(of[1]))

def batches(seed, images):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(images // {BATCH}):
        yield torch.randn({BATCH}, 3, 32, 32, generator=generator)

torch.manual_seed(0)
model = timm.create_model("test_vit", img_size=32, num_classes={CLASSES}).eval()
settings = FitSettings(batch_size={BATCH})
with closing(Calibration(
    model, adapter_of(model), batches(0, count // 2), batches(1, count // 2),
    settings=settings, scratch=scratch, progress=look,
)) as calibration:
    look()
    for fitted in PlanFitter(calibration, progress=look).fit([Plan.parse("3<-2 5<-4")]):
        look()
        original = calibration.logits[calibration.n_fit :]
        found = selection_metrics(fitted.logits, original, torch.full((count // 2,), -1))
        look()
        assert found.n == count // 2
print(most)
"""


@pytest.mark.slow
def test_many_images_take_the_memory_of_few(tmp_path: Path) -> None:
    few, many = 400, 4000

    def peak_kb(images: int) -> int:
        command = [sys.executable, "-c", CODE, str(images), str(tmp_path)]
        told = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(told.stdout)

    grown = 1024 * (peak_kb(many) - peak_kb(few))
    assert grown < 0.3 * 4 * CLASSES * (many - few)
