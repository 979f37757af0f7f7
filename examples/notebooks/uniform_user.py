"""The source of a notebook: see run.py."""

# %% [markdown]
# # Reuse for a UniForm, as its own code reads it
#
# UniForm shares attention maps among the *heads* of a layer. TReX adds reuse *along depth*, and
# writes it as a reuse config beside the public code's own. The weights here are random, and so
# are the images: what is shown is the way, not an accuracy.

# %%
from pathlib import Path

import torch

import trex
from trex.models.registry import create

torch.manual_seed(0)
uniform = create("uniform_t", num_classes=10, img_size=80)
images = torch.randn(24, 3, 80, 80)
print(trex.price(uniform, "trex_fefet_32nm", plan="2<-1:map").latency_ratio)

# %% [markdown]
# Encoders of one stage can exchange attention. Fit a plan of your own; `trex.search` would
# choose one.

# %%
fitted = trex.fit(uniform, ["2<-1:map", "2<-1"], images, out="runs/uniform")
for record in fitted.records:
    print(record.plan, f"loss {record.selection.loss:.2e} nats, measured")
    print(f"  latency {record.estimate.latency_s * 1e3:.3f} ms, an estimate")

# %% [markdown]
# The export: the reuse config, the base's config, the weights.

# %%
written = fitted.export("exported", format="uniform", images=images)
print(sorted(path.name for path in Path("exported").iterdir()))
print(written.record["verified"][0]["difference"])
print(written.loading)
