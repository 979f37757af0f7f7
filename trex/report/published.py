"""The TReX paper's accuracies beside its EDAP, for models that a run may share with it."""

from __future__ import annotations

from typing import Final, NamedTuple

from trex.report.facts import Facts


class PaperPoint(NamedTuple):
    """A published variant: trained, ideal accuracy, FeFET crossbars (TReX, Tables IV and V)."""

    name: str
    n_reuse: int
    edap_mj_ms_mm2: float
    top1: float
    edap_gain: float
    top1_lost: float


_CHIP: Final = "trex_fefet_32nm"

#: name, encoders that reuse, EDAP in mJ·ms·mm², ideal top-1 in percent; the original first
TABLE_IV: Final[tuple[tuple[str, int, float, float], ...]] = (
    ("DeiT-S", 0, 1115.23, 79.6),
    ("TReX-D-9", 3, 700.2, 79.3),
    ("TReX-D-7", 5, 484.15, 78.4),
    ("TReX-D-6", 7, 311.43, 77.7),
    ("TReX-D-4", 9, 177.6, 75.0),
)
TABLE_V: Final[tuple[tuple[str, int, float, float], ...]] = (
    ("LV-ViT-S", 0, 2030.1, 83.3),
    ("TReX-L-12", 4, 1234.87, 82.9),
    ("TReX-L-10", 6, 924.03, 82.6),
    ("TReX-L-9", 7, 788.35, 81.7),
    ("TReX-L-8", 9, 553.72, 80.0),
    ("TReX-L-6", 11, 364.35, 78.1),
)


class PublishedResilience(NamedTuple):
    """What switching among execution paths of one pretrained model saved and lost elsewhere."""

    name: str
    source: str
    energy_saved: float
    top1_lost: float


#: Sreedhar et al., Vision Transformer Computation and Resilience for Dynamic Inference
#: (arXiv 2212.02687): other models, devices and data than any run's; SegFormer's loss is in mIoU
RESILIENCE: Final[tuple[PublishedResilience, ...]] = (
    PublishedResilience("SegFormer", "no training, points of mIoU, arXiv 2212.02687", 28.0, 1.4),
    PublishedResilience("OFA ResNet-50", "trained paths, arXiv 2212.02687", 53.0, 3.3),
)


def paper_points(facts: Facts) -> tuple[PaperPoint, ...]:
    """The paper's variants, where the run is of its model, chip and accounting; else none."""
    if facts.chip != _CHIP or facts.accounting != "paper":
        return ()
    name = facts.model.partition(".")[0].lower()
    if name.startswith("deit_small_patch16_224"):
        table = TABLE_IV
    elif name.startswith(("lvvit_s", "lv_vit_s")):
        table = TABLE_V
    else:
        return ()
    _, _, edap, top1 = table[0]
    return tuple(PaperPoint(*row, edap / row[2], top1 - row[3]) for row in table[1:])
