"""The source of a notebook: see run.py."""

# %% [markdown]
# # A ViT that has to fit into a latency budget
#
# You have a checkpoint, a few hundred images without labels, and a limit. Here the model is a
# small ViT trained on scikit-learn's handwritten digits (1,797 real scans), so that the notebook
# runs offline in minutes. Put your own in its place.

# %%
from pathlib import Path

import torch

import trex
from trex.demo.digits import train_digits_model, write_digits

torch.manual_seed(0)
write_digits(Path("digits"))
vit = train_digits_model(Path("digits"))
type(vit).__name__, sum(p.numel() for p in vit.parameters())

# %% [markdown]
# What does it cost now, and where does the time go? These are estimates of one chip, under
# `full` accounting.

# %%
price = trex.price(vit, "trex_fefet_32nm")
print(f"{price.latency_s * 1e3:.3f} ms, {price.energy_j * 1e6:.2f} uJ")
print(f"{price.area_m2 * 1e6:.1f} mm2")
for stage, sums in price.cost.by_stage().items():
    print(f"{stage:20s} {100 * sums.latency_s / price.latency_s:5.1f} % of the latency")

# %% [markdown]
# Search: 0.7 of the original's latency. `evaluate_on` is labelled and chooses nothing.

# %%
result = trex.search(
    vit, "digits/calib", "trex_fefet_32nm",
    budget="0.7x", quick=True, evaluations=6, evaluate_on="digits/test", out="runs/digits",
)  # fmt: skip
print(result)

# %% [markdown]
# The winner is an ordinary module, with its unused weights gone.

# %%
variant = result.model
print(result.plan)
print(sum(p.numel() for p in variant.parameters()), "parameters")
measured = result.winner.evaluation
print(f"top-1 {100 * measured.top1:.1f} %, original {100 * measured.baseline_top1:.1f} %")
print(f"measured on {measured.n} images, without training")

# %% [markdown]
# A file that runs without TReX, verified against the variant.

# %%
written = result.export("exported", format="torch-export")
print(written.record["verified"])
print(written.loading)
