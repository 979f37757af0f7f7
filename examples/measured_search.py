"""A plan for this very machine: profile it, search for 0.6 of its real latency, run the winner.

    python examples/measured_search.py IMAGES

IMAGES is a folder of a few hundred pictures, as the model is used on; labels are not needed. The
machine should do nothing else meanwhile. `my_cpu` and `runs/my_cpu` are written here.
"""

import json
import sys
from pathlib import Path

import trex
from trex.cli import main

model = ["--model", "deit_tiny_patch16_224"]
if not Path("my_cpu").exists():
    assert main(["profile", *model, "--batch", "8", "--threads", "1", "--out", "my_cpu"]) == 0
search = ["search", *model, "--hw", "my_cpu", "--max-latency", "0.6x", "--space", "joint"]
assert main([*search, "--calib", sys.argv[1], "--out", "runs/my_cpu"]) == 0
timings = json.loads(Path("runs/my_cpu/summary.json").read_text())["timings"]
for row in timings["rows"]:
    print(row["plan"], f"{row['predicted_ratio']:.2f}x predicted, {row['ratio']['median']:.2f}x")
variant = trex.load("runs/my_cpu/best")
