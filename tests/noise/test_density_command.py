"""Measured input densities in `trex cost` and `trex search`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

import trex.noise.densities
from trex.api import question
from trex.cli import build_parser, main
from trex.commands import search
from trex.errors import RunError
from trex.hardware import CostTable, load_chip, price, workload
from trex.models import registry
from trex.models.digits import DIGITS_MODEL
from trex.store.run import Run

SRAM = load_chip("neurosim_sram_22nm")
MODEL = registry.architecture(DIGITS_MODEL)
PRODUCTS = [op.name for op in MODEL.operations if op.macs]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with random weights, and pictures in two classes."""
    folder = tmp_path_factory.mktemp("densities")
    torch.manual_seed(0)
    save_file(registry.create(DIGITS_MODEL).state_dict(), folder / "weights.safetensors")
    random = np.random.default_rng(0)
    for number in range(10):
        path = folder / "images" / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture
def never_measured(monkeypatch):
    def measure(*args, **kwargs):
        raise AssertionError("measured although there is no need")

    monkeypatch.setattr(trex.noise.densities, "measure_densities", measure)


def cost_flags(files, chip, *flags, accounting="full"):
    return [
        "cost", "--model", DIGITS_MODEL, "--weights", str(files / "weights.safetensors"),
        "--hw", chip, "--accounting", accounting, "--calib", str(files / "images"), *flags,
    ]  # fmt: skip


def cost_json(capsys, flags):
    assert main([*flags, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# ---------------------------------------------------------------- what densities do to a price


@given(st.floats(0, 1), st.sampled_from(["paper", "full"]))
def test_prices_are_linear_in_the_density(density, accounting):
    def energy_j(share):
        planes = {name: [share] * 8 for name in PRODUCTS}
        return price(workload(MODEL), SRAM, accounting, densities=planes).energy_j

    none, all_ones = energy_j(0.0), energy_j(1.0)
    assert energy_j(density) == pytest.approx(none + density * (all_ones - none))
    assert energy_j(0.5) == price(workload(MODEL), SRAM, accounting).energy_j
    assert none < all_ones


def test_schedules_and_tables_take_the_same_densities():
    planes = {name: [0.1] * 8 for name in PRODUCTS}
    table = CostTable(MODEL, SRAM, "full", densities=planes)
    row = table.price(np.zeros((1, 12), dtype=int))
    assert row.energy_j[0] == pytest.approx(
        price(workload(MODEL), SRAM, "full", densities=planes).energy_j
    )


def test_chips_that_save_nothing_on_zeros():
    chips = ["trex_fefet_32nm", "trex_sram_32nm", "trex_hybrid_32nm", "isaac_32nm"]
    assert not any(load_chip(name).depends_on_density for name in chips)
    chips = ["neurosim_sram_22nm", "neurosim_rram_22nm", "hybrid_rram_sram_22nm"]
    assert all(load_chip(name).depends_on_density for name in chips)


# ---------------------------------------------------------------- trex cost


@pytest.mark.parametrize("accounting", ["paper", "full"])
def test_cost_measures_and_says_so(capsys, files, accounting):
    result = cost_json(capsys, cost_flags(files, SRAM.name, accounting=accounting))
    told = result["densities"]
    assert (told["source"], told["images"], told["not_measured"]) == ("measured", 10, [])
    assert told["encoding"] == "two's complement"
    assert all(0 < mean < 1 for mean in told["mean"].values())
    # linear, so the means alone give the price
    planes = {name: [mean] * 8 for name, mean in told["mean"].items()}
    again = price(workload(MODEL), SRAM, accounting, densities=planes)
    assert result["energy_j"] == pytest.approx(again.energy_j)
    assumed = price(workload(MODEL), SRAM, accounting)
    assert result["latency_s"] == assumed.latency_s
    dropped = set(assumed.assumptions) - set(result["assumptions"])
    assert [line.partition(" = ")[0] for line in dropped] == ["arrays.sram.input_bit_density"]
    assert result["energy_j"] != assumed.energy_j
    layers = {row["layer"]: row["energy_j"] for row in result["by_layer"]}
    for name, mean in told["mean"].items():
        assert (layers[name] < assumed.by_layer()[name].energy_j) == (mean < 0.5)


def test_cost_in_words(capsys, files):
    flags = cost_flags(files, SRAM.name, "--calib-images", "4", "--plan", "5<-4 6<-4")
    assert main([*flags, "--transform", "block"]) == 0
    out = capsys.readouterr().out
    assert f"input densities: measured on 4 images of {files / 'images'}\n" in out
    assert "two's complement" in out
    assert "not measured, so assumed 0.5: blocks.5.transform.linear and 1 more" in out
    assert main([*cost_flags(files, SRAM.name)[:-2]]) == 0
    captured = capsys.readouterr()
    assert "input densities: assumed 0.5" in captured.out
    assert "without --calib, weights and preprocessing change no price" in captured.err


def test_schedules_side_by_side_are_priced_with_them(capsys, files):
    flags = cost_flags(files, SRAM.name)
    single = cost_json(capsys, flags)
    compared = cost_json(capsys, [*flags, "--schedules"])
    assert compared["densities"] == single["densities"]
    assert compared["schedules"][0]["edap_mj_ms_mm2"] == pytest.approx(single["edap_mj_ms_mm2"])


@pytest.mark.parametrize("chip", ["trex_fefet_32nm", "isaac_32nm"])
@pytest.mark.usefixtures("never_measured")
def test_cost_says_when_densities_do_nothing(capsys, files, chip):
    assert main([*cost_flags(files, chip), "--json"]) == 0
    captured = capsys.readouterr()
    assert f"the constants of {chip} do not depend on input densities" in captured.err
    result = json.loads(captured.out)
    assert result["densities"]["source"] == "not used"
    assert result["energy_j"] == price(workload(MODEL), load_chip(chip), "full").energy_j


def test_unreadable_images_do_not_count(capsys, files, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(
            (files / f"images/0/{2 * number}.png").read_bytes()
        )
    (tmp_path / "9.png").write_bytes(b"no image")
    flags = cost_flags(files, SRAM.name, "--calib", str(tmp_path))
    assert cost_json(capsys, flags)["densities"]["images"] == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--calib-images", "0"], "--calib-images 0 is too small"),
        (["--calib", "nowhere"], "nowhere: no such file"),
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--mean", "0.5", "0.5"], "--mean"),
    ],
)
def test_bad_flags_are_one_clear_error(capsys, files, flags, message):
    assert main([*cost_flags(files, SRAM.name), *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "hint:" in captured.err


# ---------------------------------------------------------------- trex search


def prepare(files, out, chip, *flags):
    words = [
        "search", "--model", DIGITS_MODEL, "--weights", str(files / "weights.safetensors"),
        "--hw", chip, "--accounting", "full", "--max-energy", "0.9x", "--out", str(out),
        "--calib", str(files / "images"), "--only", "reuse", *flags,
    ]  # fmt: skip
    found = question.prepare(search.question_of(build_parser("search").parse_args(words))).search
    Run.start(found.run.path, found._manifest)  # what `execute` does first
    return found


def test_a_search_costs_plans_with_what_it_measured(files, tmp_path):
    found = prepare(files, tmp_path / "run", SRAM.name)
    stored = found.run.read_json("manifest.json")["densities"]
    assert stored["images"] == 10
    assert stored["planes"].keys() == set(PRODUCTS)
    priced = price(workload(MODEL), SRAM, "full", densities=stored["planes"])
    assert found.priced.baseline.energy_j[0] == pytest.approx(priced.energy_j)


def test_a_search_goes_on_with_its_own_densities(files, tmp_path, monkeypatch):
    first = prepare(files, tmp_path / "run", SRAM.name)
    measure = trex.noise.densities.measure_densities
    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        return measure(*args, **kwargs)

    monkeypatch.setattr(trex.noise.densities, "measure_densities", counted)
    again = prepare(files, tmp_path / "run", SRAM.name)
    assert not calls
    assert np.array_equal(again.priced.baseline.energy_j, first.priced.baseline.energy_j)
    with pytest.raises(RunError, match="other settings: search"):
        prepare(files, tmp_path / "run", SRAM.name, "--seed", "1")
    assert len(calls) == 1


@pytest.mark.usefixtures("never_measured")
def test_a_search_on_constants_measures_nothing(files, tmp_path):
    found = prepare(files, tmp_path / "run", "trex_fefet_32nm")
    manifest = found.run.read_json("manifest.json")
    assert manifest["densities"] is None
    assert manifest["settings"]["densities"] is None
