"""The source of a notebook: see run.py."""

# %% [markdown]
# # A trade-off table for a paper
#
# Chips × budgets, one table, a LaTeX file that fits a column. The model is a small ViT trained
# on scikit-learn's handwritten digits (1,797 real scans), so that the notebook runs offline in
# minutes.

# %%
from pathlib import Path

import torch
from safetensors.torch import save_file

import trex
from trex.demo.digits import train_digits_model, write_digits

torch.manual_seed(0)
write_digits(Path("digits"))
save_file(train_digits_model(Path("digits")).state_dict(), "digits.safetensors")

# %% [markdown]
# A sweep's file says what is searched. Interrupt it, and the same call goes on.

# %%
Path("sweep.yaml").write_text("""
title: digits ViT, two chips
calib: digits/calib
eval: digits/test
models:
  - {name: vit_digits_patch4_24, label: digits ViT, weights: digits.safetensors}
devices: [trex_fefet_32nm, neurosim_sram_22nm]
budgets: [0.8x, 0.6x]
search: {quick: true, evaluations: 4}
""")
swept = trex.sweep("sweep.yaml", "sweep")
print(Path("sweep/sweep.md").read_text())

# %% [markdown]
# For the paper: estimates and measurements in columns of their own.

# %%
print(Path("sweep/sweep.tex").read_text())

# %% [markdown]
# Every search is a run folder, with every plan that was measured.

# %%
for row in swept.result.rows:
    run = trex.Result.open(Path("sweep/runs") / row.place.name)
    print(row.place.device, row.place.budget, len(run.records), "plans measured;", run.plan)

# %% [markdown]
# Where the costs come from, and what is left out:

# %%
price = trex.price("vit_digits_patch4_24", "trex_fefet_32nm", plan=run.plan)
print(f"EDAP {price.edap_gain:.2f} times lower")
for line in (*price.cost.not_modelled, *price.cost.assumptions)[:5]:
    print("-", line)
