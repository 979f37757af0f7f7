"""Everything that reads a file a stranger may have written, and a sound file for each."""

from __future__ import annotations

import json
import lzma
import shutil
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from made_up_runs import write_run
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from trex.architecture import Architecture
from trex.config import parse_document
from trex.datafiles import data_folder
from trex.errors import RunError, TrexError
from trex.exporters.bundle import CONFIG, DYNAMIC, _fingerprint, load_bundle
from trex.hardware import load_chip
from trex.models.registry import architecture, create
from trex.models.weights import load_weights, weights_hash
from trex.plan import Plan
from trex.report.facts import read_facts
from trex.report.finetunings import read_finetuning
from trex.report.folders import diff_runs, list_runs, show_lines, show_run
from trex.report.machines import read_bench
from trex.runtime import Point, load_adaptive, load_dynamic, save_dynamic
from trex.runtime.bundle import Contents
from trex.runtime.bundle import _fingerprint as dynamic_fingerprint
from trex.runtime.choose import Chosen
from trex.runtime.dynamic import variant_of
from trex.runtime.ways import save_ways
from trex.search.front import measured_front
from trex.search.pick import pick_record
from trex.search.space import SearchSpace
from trex.search.storage import open_storage
from trex.store.evaluations import stored_evaluations
from trex.store.finetuning import FinetuneFolder, read_curve
from trex.store.operations import stored_architecture
from trex.store.run import Run
from trex.store.sweep import ASKED, CELLS, Cell, SweepFolder
from trex.store.tensors import read_tensors, write_tensors
from trex.text.sources import open_texts
from trex.training.data import batches, open_dataset
from trex.training.finetune.checkpoint import CheckpointFolder
from trex.training.finetune.recipe import Checkpoints, load_recipe
from trex.training.labels import head_classes
from trex.training.transforms import DataConfig

V0_1 = Path(__file__).parents[1] / "data" / "v0_1"
MODEL = "test_vit"


@dataclass(frozen=True, kw_only=True)
class Loader:
    """One file to damage, and what is read of it then.

    Attributes:
        file: the file.
        load: reads it; a `TrexError` is a good answer, everything else that is raised is not.
        weight: how often it is tried, beside others.
        repair: what makes a checksum right again, so that what is behind it is reached.
    """

    file: Path
    load: Callable[[], object]
    weight: int = 1
    repair: Callable[[bytes], bytes] = lambda data: data


def loaders(folder: Path) -> dict[str, Loader]:
    """All of them, in a folder."""
    found: dict[str, Loader] = {}
    for make in (
        _data_files, _benches, _sweeps, _runs, _finetunings, _weights, _dynamic, _images, _texts,
        _journals,
    ):  # fmt: skip
        found |= make(folder)
    return found


def _data_files(folder: Path) -> dict[str, Loader]:
    small: Architecture = architecture(MODEL, num_classes=4, img_size=32)
    chips = data_folder("hw_models")
    found = {}
    for name in ("trex_fefet_32nm", "neurosim_sram_22nm"):
        shutil.copytree(chips / name, folder / name)
        file = folder / name / "chip.yaml"
        found[f"chip {name}"] = Loader(file=file, load=lambda file=file: load_chip(file))
    figures = folder / "neurosim_sram_22nm" / "accuracy.yaml"
    found["accuracy of a chip"] = Loader(
        file=figures, load=lambda: load_chip(folder / "neurosim_sram_22nm")
    )
    space = folder / "space.yaml"
    shutil.copyfile(data_folder("search_spaces") / "any.yaml", space)
    recipe = folder / "recipe.yaml"
    shutil.copyfile(V0_1 / "recipe.yaml", recipe)
    plan = folder / "plan.txt"
    plan.write_text("2<-1:map/mixed 3<-1:output/linear 3~1 5=class")
    plain = folder / "plain.json"
    plain.write_text('{"a": [1, 2.5, {"b": "c"}], "d": null, "e": {"f": -1e-3}}')

    def read_plan() -> object:
        plan_read = Plan.parse(plan.read_text(errors="replace"))
        assert Plan.parse(str(plan_read)) == plan_read
        plan_read.validate(small.layout)
        return plan_read

    found["space"] = Loader(file=space, load=lambda: SearchSpace.load(space, small))
    found["recipe"] = Loader(file=recipe, load=lambda: load_recipe(recipe))
    found["plan"] = Loader(file=plan, load=read_plan, weight=3)
    found["document"] = Loader(
        file=plain,
        load=lambda: parse_document(plain.read_text(errors="replace"), plain, RunError),
    )
    return found


def _benches(folder: Path) -> dict[str, Loader]:
    file = folder / "bench.json"
    interval = {"median": 0.01, "low": 0.009, "high": 0.011}
    row = {
        "variant": "it", "runtime": "eager", "dtype": "fp32", "batch": 8, "latency_s": interval,
        "images_per_second": 800.0, "speedup": interval,
    }  # fmt: skip
    file.write_text(
        json.dumps({
            "basis": "measured", "machine": {"processor": "any"}, "device": "cpu", "threads": 1,
            "clock": "cpu", "rounds": 5, "plans": {"it": "3~1"}, "models": {"it": MODEL},
            "rows": [row],
        })
    )  # fmt: skip
    return {"bench": Loader(file=file, load=lambda: read_bench(file))}


def _sweeps(folder: Path) -> dict[str, Loader]:
    sweep = SweepFolder(folder / "sweep")
    sweep.path.mkdir()
    asked = {
        "title": "made up", "calib": "images", "models": [MODEL, {"name": MODEL, "label": "b"}],
        "devices": ["trex_fefet_32nm"], "budgets": ["0.8x", {"latency": "9ms", "area": "0.9x"}],
        "seeds": [0, 1], "search": {"evaluations": 3},
    }  # fmt: skip
    (sweep.path / ASKED).write_text(json.dumps(asked))
    sweep.add(Cell(name="one", asked="0123", state="infeasible", reason="nothing fits"))
    return {
        "sweep": Loader(
            file=sweep.path / ASKED, load=lambda: sweep.asked().resolved(folder), weight=2
        ),
        "sweep cells": Loader(file=sweep.path / CELLS, load=sweep.cells),
    }


def _runs(folder: Path) -> dict[str, Loader]:
    made_up = write_run(folder / "runs" / "made_up")
    best = json.loads((made_up / "results.jsonl").read_text().splitlines()[1])
    (made_up / "best").mkdir()
    (made_up / "best" / "best.json").write_text(
        json.dumps({"schema": 3, "key": best["key"], "plan": best["plan"], "refinement": []})
    )
    way = {"class_weight": 100.0, "ridge": 0.1, "shrink": 0.4}
    (made_up / "fit.json").write_text(
        json.dumps({
            "schema": 3, "fitted": best["plan"], "chosen": way, "tried": [{**way, "loss": 0.5}]
        })
    )  # fmt: skip
    interval = {"median": 0.01, "low": 0.009, "high": 0.011}
    timed = {
        "key": best["key"], "plan": best["plan"], "predicted_s": 0.01, "predicted_ratio": 0.8,
        "latency_s": interval, "original_s": interval, "ratio": interval, "holds": True,
    }  # fmt: skip
    (made_up / "timings.json").write_text(
        json.dumps({
            "schema": 3, "device": "my_cpu", "runtime": "ort", "threads": 1, "dtype": "fp32",
            "batch": 8, "clock": "cpu", "rounds": 5, "spread": 0.02, "rows": [timed],
        })
    )  # fmt: skip
    old = folder / "runs" / "old"
    shutil.copytree(V0_1 / "run", old)
    found = {}
    for run in (made_up, old):
        names = (
            "manifest.json", "results.jsonl", "summary.json", "best/best.json", "fit.json",
            "surrogate.json", "proof.json", "evaluations.jsonl", "architecture.json",
            "timings.json",
        )  # fmt: skip
        for name in names:
            if (run / name).exists():
                found[f"{run.name} {name}"] = Loader(
                    file=run / name, load=lambda run=run: _read_run(run)
                )
    return found


def _read_run(path: Path) -> None:
    """All that commands read of a run without its model; each part, whatever another says."""
    list_runs(path.parent)
    run = Run.open(path)
    first: Exception | None = None
    for read in (
        run.records, run.layout, run.fitting, run.summary, lambda: pick_record(run, "best"),
        run.timings,
        lambda: run.records() and measured_front(run.records(), run.manifest().baseline),
        lambda: read_facts(path),
        lambda: stored_evaluations(run), lambda: stored_architecture(run),
        lambda: show_lines(show_run(path)), lambda: diff_runs(path, path),
    ):  # fmt: skip
        try:
            read()
        except TrexError as error:
            first = first or error
    if first is not None:
        raise first


def _finetunings(folder: Path) -> dict[str, Loader]:
    path = folder / "runs" / "finetuning"
    shutil.copytree(V0_1 / "finetuning", path)

    def read() -> None:
        list_runs(path.parent)
        FinetuneFolder(path).records()
        read_curve(path / "curve.csv")
        read_finetuning(path)

    return {
        f"finetuning {name}": Loader(file=path / name, load=read)
        for name in ("manifest.json", "results.jsonl", "curve.csv")
    }


def _unpacked(file: Path, to: Path) -> Path:
    to.write_bytes(lzma.decompress(file.read_bytes()))
    return to


def _weights(folder: Path) -> dict[str, Loader]:
    model = create(MODEL, num_classes=4, img_size=32)
    safe = folder / "weights.safetensors"
    safe.write_bytes(save(model.state_dict()))
    pickled = folder / "weights.pth"
    torch.save({"model": model.state_dict(), "epoch": 3}, pickled)
    state: dict[str, Tensor] = {"blocks.1.attn.proj.weight": torch.ones(4, 4)}
    tensors = folder / "abc.safetensors"
    write_tensors(tensors, state, of="abc")
    checkpoints = CheckpointFolder(folder / "checkpoints", Checkpoints())
    for step in (1, 2):
        checkpoints.save(step, {"step": step, "model": state, "selector": {"best": "x"}})
    newest = checkpoints.newest_file
    assert newest is not None
    bundle = folder / "bundle"
    shutil.copytree(V0_1 / "bundle", bundle)
    _unpacked(bundle / "model.safetensors.xz", bundle / "model.safetensors")

    def newest_state() -> None:
        found = checkpoints.newest()
        assert found is not None
        assert torch.equal(found["model"]["blocks.1.attn.proj.weight"], torch.ones(4, 4))

    def read_own() -> None:
        assert torch.equal(read_tensors(tensors, of="abc")[next(iter(state))], torch.ones(4, 4))

    def fingerprinted(data: bytes) -> bytes:
        try:
            config = json.loads(data)
            config["fingerprint"] = _fingerprint(config)
            return json.dumps(config).encode()
        except (KeyError, TypeError, ValueError, RecursionError):
            return data

    return {
        "weights safetensors": Loader(
            file=safe, load=lambda: load_weights(model, safe, model_name=MODEL)
        ),
        "weights pth": Loader(
            file=pickled, load=lambda: load_weights(model, pickled, model_name=MODEL)
        ),
        "candidate": Loader(file=tensors, load=read_own, weight=2),
        "checkpoint": Loader(file=newest, load=newest_state, weight=2),
        "bundle config": Loader(
            file=bundle / CONFIG, load=lambda: load_bundle(bundle), repair=fingerprinted
        ),
        "bundle weights": Loader(
            file=bundle / "model.safetensors", load=lambda: load_bundle(bundle)
        ),
    }


def _dynamic(folder: Path) -> dict[str, Loader]:
    """A dynamic bundle of two plans, and a cascade of these."""
    bundle, original = folder / "dynamic", create(MODEL, num_classes=4, img_size=32)
    costs = {"latency_s": 1.0, "energy_j": 1.0}
    parts = {name: [0.125] * 8 for name in costs}
    save_dynamic(
        bundle,
        Contents(
            name=MODEL,
            arguments={"num_classes": 4, "img_size": 32},
            base=original,
            base_weights_sha256=weights_hash(original),
            data_config=DataConfig.of_model(original),
            baseline=costs,
            variants=[
                (
                    Point(name=plan, plan=plan, estimate=costs, parts=parts),
                    variant_of(original, plan),
                )
                for plan in ("3~1", "2<-1")
            ],
        ),
    )
    way = Chosen(
        kind="cascade", plans=("3~1", "2<-1"), cost=1.0, shares=(0.5, 0.5), loss=0.1,
        agreement=0.9, images=4,
    )  # fmt: skip
    told = {
        "quantity": "latency",
        "limit": 1.0,
        "calibration": "x",
        "exit_cost": {"latency": 0.0, "energy": 0.0},
    }
    save_ways(bundle, {"cascade": way}, {}, entries=told)

    def fingerprinted(data: bytes) -> bytes:
        try:
            config = json.loads(data)
            config["fingerprint"] = dynamic_fingerprint(config)
            return json.dumps(config).encode()
        except (KeyError, TypeError, ValueError, RecursionError):
            return data

    return {
        "dynamic config": Loader(
            file=bundle / DYNAMIC, load=lambda: load_dynamic(bundle), repair=fingerprinted
        ),
        "dynamic weights": Loader(
            file=bundle / "model.safetensors", load=lambda: load_dynamic(bundle)
        ),
        "adaptive": Loader(
            file=bundle / "adaptive.json", load=lambda: load_adaptive(bundle, "cascade")
        ),
    }


def _images(folder: Path) -> dict[str, Loader]:
    found = {}
    pixels = Image.effect_noise((24, 20), 60).convert("RGB")
    for suffix in ("png", "jpg"):
        own = folder / f"images_{suffix}" / "ant"
        own.mkdir(parents=True)
        pixels.save(own / f"0.{suffix}")
        pixels.save(own / f"1.{suffix}")
        found[f"image {suffix}"] = Loader(
            file=own / f"0.{suffix}", load=lambda own=own: _read_images(own.parent)
        )
    tar = folder / "images.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(folder / "images_png", arcname=".")
    classes = folder / "classes.txt"
    classes.write_text("ant\nbee\ncat\n")
    return found | {
        "tar": Loader(file=tar, load=lambda: _read_images(tar)),
        "class map": Loader(
            file=classes, load=lambda: head_classes("images", ("ant", "bee"), classes, 3)
        ),
    }


def _read_images(source: Path) -> None:
    images = open_dataset(
        str(source), transform=lambda picture: torch.zeros(*picture.size), labels=False
    )
    for number in range(len(images)):
        images.picture(number)
    for _ in batches(images.subset(1, 0), 1):
        pass


def _texts(folder: Path) -> dict[str, Loader]:
    cola = folder / "cola.tsv"
    cola.write_text("me\t1\t\tThe cat sees the dog.\nme\t0\t*\tThe sees cat the dog.\n")
    found = {"cola": Loader(file=cola, load=lambda: open_texts(f"cola:{cola}"))}
    try:
        from trex.text.tokenizer import build_tokenizer, encode, load_tokenizer
    except ImportError:
        return found
    try:
        tokenizer = build_tokenizer(["the cat sees the dog", "the dog hears the bird"], 60)
    except Exception:  # the extra `text` is not installed
        return found
    file = folder / "tokenizer.json"
    file.write_text(tokenizer.to_str())

    def read() -> None:
        encode(load_tokenizer(str(file)), ["the cat sees the dog"], 8)

    return found | {"tokenizer": Loader(file=file, load=read)}


def _journals(folder: Path) -> dict[str, Loader]:
    from trex.search.study import Entry, Study

    own = folder / "journal"
    own.mkdir()
    file = own / "study.log"

    def opened() -> Study:
        return Study(open_storage(None, own, "tiny"), "tiny", ["loss"], {"model": "tiny"})

    with closing(opened()) as study:
        entries = [Entry(key=k, choices={"1": ("a", ("a", "b"))}) for k in ("k1", "k2", "k3")]
        study.offer(entries)
        for key in ("k1", "k2"):
            assert study.claim([key]) == key
            study.finish(key, [0.5], {"note": 1})

    def read() -> None:
        with closing(opened()) as again:
            again.revive()
            again.offer([Entry(key="k4", choices={"1": ("a", ("a", "b"))})])
            again.trials()

    return {"journal": Loader(file=file, load=read)}
