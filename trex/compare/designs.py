"""Methods that leave what is computed as it is, and change how it lies on the chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trex.architecture import Architecture
from trex.compare.methods import Method, parameters
from trex.hardware import Chip, Cost, EncoderWork, Workload, workload
from trex.hardware.load import with_options


class WeightSharing(Method):
    """Adjacent encoders share their weights, and so one encoder's arrays: area only.

    Encoders run one after another, so what is written while the model runs is shared too.
    MiniViT's own transformations between shared layers are not counted.
    """

    name = "weight_sharing"
    title = "weight sharing"
    source = "MiniViT (arXiv 2204.07154), its form: area only"
    accuracy = "trained"

    def settings(self, model: Architecture) -> Sequence[float]:
        """How many adjacent encoders share; the usual number first."""
        return [2]

    def label(self, setting: float) -> str:
        """How many share."""
        return f"by {setting:.0f}"

    def work(self, model: Architecture, setting: float) -> Workload:
        """The original's."""
        return workload(model)

    def adjusted(self, cost: Cost, work: Workload, setting: float) -> Cost:
        """Only the first of every group of encoders has arrays."""
        borrowed = {
            op.name
            for item in work.body
            if isinstance(item, EncoderWork) and item.encoder.index % int(setting)
            for op in item.operations
        }
        shares = tuple(
            replace(
                share,
                area_m2=0.0,
                energy_j=0.0 if share.component == "leakage" else share.energy_j,
            )
            if share.layer in borrowed
            else share
            for share in cost.shares
        )
        return replace(cost, shares=shares)

    def shared_parameters(self, model: Architecture, setting: float) -> int:
        """Those of all encoders that are not the first of their group."""
        borrowing = (e for e in model.encoders if e.index % int(setting))
        return sum(parameters(e.operations) for e in borrowing)


class _Fixed(Method):
    """A design that is there or not, and computes the same."""

    accuracy = "exact"

    def settings(self, model: Architecture) -> Sequence[float]:
        """There is nothing to set."""
        return [1]

    def label(self, setting: float) -> str:
        """Nothing."""
        return ""

    def work(self, model: Architecture, setting: float) -> Workload:
        """The original's."""
        return workload(model)


class ReTransformer(_Fixed):
    """Scores as (Q·W_Kᵀ)·Xᵀ: X is known before K, so its write hides behind Q's product."""

    name = "retransformer"
    title = "ReTransformer"
    source = "ReTransformer (ICCAD 2020), as the TReX paper prices it: write of Kᵀ hidden"

    def adjusted(self, cost: Cost, work: Workload, setting: float) -> Cost:
        """Without the time of the writes of Kᵀ; leakage lasts as long as the image."""
        keys = {op.name for op in work if op.part == "scores"}
        hidden = [
            replace(share, latency_s=0.0)
            if share.component == "array_write" and share.layer in keys
            else share
            for share in cost.shares
        ]
        shorter = sum(share.latency_s for share in hidden) / cost.latency_s
        shares = tuple(
            replace(share, energy_j=share.energy_j * shorter)
            if share.component == "leakage"
            else share
            for share in hidden
        )
        return replace(cost, shares=shares)


class FusedQk(_Fixed):
    """One d×d product a head in place of Q and K."""

    name = "fused_qk"
    title = "fused Q/K weights"
    source = "tiny transformers on MCUs (arXiv 2404.02945); biases left out"
    full_only = True

    def chip(self, chip: Chip) -> Chip:
        """The chip's option."""
        return with_options(chip, fused_qk=True)


class DepthFirstSoftmax(_Fixed):
    """Scores go from the array through the softmax and on, and never to the buffer."""

    name = "depth_first_softmax"
    title = "depth-first softmax"
    source = "Edge-MoE (arXiv 2305.18691), arXiv 2404.02945: single pass, no t×t buffer"
    full_only = True

    def chip(self, chip: Chip) -> Chip:
        """With such a softmax."""
        return replace(chip, softmax=replace(chip.softmax, depth_first=True))
