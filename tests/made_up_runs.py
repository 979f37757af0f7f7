"""Run folders made up of plain values, without a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trex.plan import Plan
from trex.store.run import SCHEMA

MODEL, CHIP = "deit_small_patch16_224", "trex_fefet_32nm"
ENCODERS = 12
LAYOUT: dict[str, Any] = {
    "stages": [0] * ENCODERS, "tokens": 197, "protected": 1, "class_tokens": 1, "class_rows": 1,
    "no_merging": "", "no_class_rows": "",
}  # fmt: skip
#: of the shipped chip's files, filled in by whoever prices
ORIGINAL = {"latency_s": 10.92e-3, "energy_j": 0.13e-3, "area_m2": 775.2e-6}


def estimate(share: float, accounting: str = "paper", chip: str = CHIP) -> dict[str, Any]:
    """The original's costs times `share`."""
    costs = {name: value * share for name, value in ORIGINAL.items()}
    edap = 1e12 * costs["latency_s"] * costs["energy_j"] * costs["area_m2"]
    return {"chip": chip, "accounting": accounting, **costs, "edap_mj_ms_mm2": edap}


def record(
    consumers: list[int], loss: float, labelled: bool = True, more: str = ""
) -> dict[str, Any]:
    """A candidate; every consumer spares five percent. `more` is done beside reuse."""
    plan = Plan.parse(f"{Plan.nearest(consumers)} {more}")
    return {
        "schema": SCHEMA,
        "key": f"key{plan.key}",
        "plan": str(plan),
        "n_reuse": plan.n_reuse,
        "transform": "linear",
        "estimate": estimate(1 - 0.05 * plan.n_reuse),
        "predicted_loss": 0.8 * loss,
        "selection": {
            "loss": loss,
            "agreement": 0.9,
            "soft_agreement": max(0.0, 0.9 - 0.1 * loss),
            "top1": max(0.0, 0.8 - 0.1 * loss) if labelled else None,
            "baseline_top1": 0.8 if labelled else None,
            "n": 400,
        },
        "seconds": 1.0,
    }


RECORDS = [
    record([1, 3, 5, 7, 9, 11], 0.9),
    record([3, 5, 7], 0.1),
    record([3, 5, 8], 0.2),
    record([3, 5, 7, 9], 0.4),
]


def write_run(path: Path, records: list[dict[str, Any]] | None = None, **settings: Any) -> Path:
    """A finished run; `settings` in place of the usual ones."""
    found = RECORDS if records is None else records
    path.mkdir(parents=True)
    manifest = {
        "schema": SCHEMA,
        "settings": {
            "model": MODEL, "model_args": {"num_classes": None, "img_size": None},
            "weights_sha256": "0123456789abcdef", "chip": CHIP, "chip_sha256": "another",
            "accounting": "paper",
            "space": {"may_reuse": [False] + [True] * (ENCODERS - 1)},
            "budget": "latency <= 0.9x", "calibration_sha256": "fedcba9876543210",
            "search": {"seed": 7}, "data": {}, **settings,
        },
        "command": ["trex", "search", "--hw", settings.get("chip", CHIP), "--out", str(path)],
        "versions": {"trex": "0.1.0"}, "layout": LAYOUT,
        "calibration": "images", "calibration_images": 1000,
        "space_size": 2048, "feasible": 1024, "baseline": estimate(1.0),
    }  # fmt: skip
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in found))
    (path / "surrogate.json").write_text(json.dumps({"schema": SCHEMA, "forms": [{
        "form": ["output", "linear"],
        "single": [0.0] + [0.01 * i for i in range(1, ENCODERS)],
        "interaction": [[0.001 * (c - r) if c > r > 0 else 0.0 for c in range(ENCODERS)]
                        for r in range(ENCODERS)],
    }]}))  # fmt: skip
    if found:
        best = min(found, key=lambda r: r["selection"]["loss"])
        (path / "candidates").mkdir()
        for each in found:
            (path / "candidates" / f"{each['key']}.safetensors").write_bytes(b"x" * 100)
        (path / "summary.json").write_text(json.dumps({
            "schema": SCHEMA, "run": str(path), "model": manifest["settings"]["model"],
            "chip": manifest["settings"]["chip"], "accounting": "paper",
            "budget": "latency <= 0.9x", "strategy": "exact", "baseline": estimate(1.0),
            "best": {**best, "evaluation": {
                "data": "labelled", "data_sha256": "aa", "top1": 0.75, "top5": 0.9,
                "baseline_top1": 0.8, "baseline_top5": 0.95, "difference": -0.05,
                "ci95": [-0.07, -0.03], "p_value": 1e-5, "agreement": 0.9, "n": 1000,
                "skipped": 0, "images_per_second": 60.0, "baseline_images_per_second": 50.0,
            }},
            "pareto": [best],
            "front": {"points": [best], "hypervolume": 0.25, "knee": None},
            "proof": {"method": "enumeration", "proved": True},
            "candidates": {"space": 2048, "feasible": 1024, "evaluated": len(found)},
            "seconds": 1.0,
        }))  # fmt: skip
    return path
