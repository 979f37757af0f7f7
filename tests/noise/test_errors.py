"""Errors a chip file may add: off is today's, one instance is held, more is never better."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch

from trex.errors import ChipError
from trex.hardware import load_chip
from trex.hardware.chip import ArrayErrors
from trex.noise import NoiseSettings, make_non_ideal, remove_non_ideal, set_noise
from trex.noise.array import Converter, exact_product, store
from trex.noise.coding import InputCode, WeightCode
from trex.noise.errors import ConverterErrors, disturb
from trex.noise.physics import Physics
from trex.noise.source import NoiseSource

IDEAL = Physics(
    rows=64, weight_bits=8, input_bits=8, adc_bits=12, cell_bits=2, read_sigma=0.0,
    write_sigma=0.0, pedestal=0.03, encoding="differential", adc_range="calibrated",
    map_step="row", level_siemens=3.3e-6,
)  # fmt: skip
DRIFT = {"drift_exponent": 0.05, "drift_time_s": 86400.0, "drift_start_s": 20.0}
TABLE = ((0.0, 0.01), (0.5, 0.04), (1.0, 0.05))

#: what is switched on, and by how much from little to more
ERRORS = {
    "stuck_on": ({"stuck_on": x} for x in (0.002, 0.02, 0.1)),
    "stuck_off": ({"stuck_off": x} for x in (0.002, 0.02, 0.1)),
    "drift": ({**DRIFT, "drift_exponent": x} for x in (0.01, 0.05, 0.1)),
    "drift of each cell": (
        {**DRIFT, "drift_exponent": 0.1, "drift_exponent_deviation": x, "drift_compensated": True}
        for x in (0.003, 0.01, 0.03)
    ),
    "programming": (
        {"programming_error": tuple((g, s * x) for g, s in TABLE)} for x in (0.2, 1.0, 3.0)
    ),
    "wire": ({"wire_ohm_per_cell": x} for x in (0.5, 2.0, 8.0)),
    "gain": ({"adc_gain": x} for x in (0.002, 0.01, 0.05)),
    "offset": ({"adc_offset_lsb": x} for x in (0.5, 1.5, 5.0)),
    "noise": ({"adc_noise_lsb": x} for x in (0.5, 1.5, 5.0)),
}
ERRORS = {name: list(levels) for name, levels in ERRORS.items()}
CELLS = ("stuck_on", "stuck_off", "drift", "drift of each cell", "programming", "wire")
WIDE = (-(1 << 11), (1 << 11) - 1)


def integers(*shape, seed=0, limit=127):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-limit, limit + 1, shape, generator=generator).float()


def multiply(inputs, weights, physics, seed=0):
    code = InputCode(physics.input_bits, True, physics.encoding)
    weight_code = WeightCode.of(physics)
    cells = store(weights, physics, weight_code, NoiseSource(seed, 1))
    slices, columns = len(weight_code.weights), weights.shape[-1]
    errors = ConverterErrors.draw(
        physics, slices, columns, held=NoiseSource(seed, 2), normal=NoiseSource(seed, 3),
        device=weights.device,
    )  # fmt: skip
    codes = WIDE if physics.encoding == "differential" else (0, (1 << 12) - 1)
    return exact_product(
        inputs, cells, input_code=code, weight_code=weight_code, physics=physics,
        converter=Converter(torch.full((slices, 1), 1.0), codes, errors), normal=NoiseSource(seed),
    )  # fmt: skip


def error_power(physics, seeds=4):
    inputs, weights = integers(20, 100), integers(100, 12, seed=1)
    ideal = multiply(inputs, weights, IDEAL_OF[physics.encoding])
    powers = [
        (multiply(inputs, weights, physics, seed) - ideal).square().mean() for seed in range(seeds)
    ]
    return torch.stack(powers).mean().item()


IDEAL_OF = {"differential": IDEAL, "offset": replace(IDEAL, encoding="offset", pedestal=0.0)}


@pytest.mark.parametrize("encoding", ["differential", "offset"])
@pytest.mark.parametrize("name", ERRORS)
def test_more_of_an_error_is_never_better_in_the_mean(name, encoding):
    ideal = IDEAL_OF[encoding]
    powers = [error_power(replace(ideal, errors=ArrayErrors(**of))) for of in ERRORS[name]]
    assert error_power(ideal) == 0
    assert powers == sorted(powers)
    assert powers[-1] > powers[0]
    assert powers[-1] > 0


def test_zeros_are_as_good_as_nothing():
    inputs, weights = integers(20, 100), integers(100, 12, seed=1)
    zeros = ArrayErrors(
        drift_time_s=86400.0, drift_start_s=20.0, drift_compensated=True, adc_gain=0.0
    )
    noisy = replace(IDEAL, write_sigma=0.1, read_sigma=0.1)
    assert not replace(noisy, errors=zeros).cells_err
    got = multiply(inputs, weights, replace(noisy, errors=zeros))
    assert torch.equal(got, multiply(inputs, weights, noisy))


@pytest.mark.parametrize("pedestal", [0.0, 0.03])
@pytest.mark.parametrize("encoding", ["differential", "offset"])
def test_cells_that_do_not_err_are_stored_as_ever(encoding, pedestal):
    """`disturb` with nothing switched on is `store`."""
    physics = replace(IDEAL, encoding=encoding, pedestal=pedestal)
    code, weights = WeightCode.of(physics), integers(70, 5)
    cells = store(weights, physics, code, None)
    found = disturb(code.slices(weights), physics, NoiseSource(0), NoiseSource(1))
    torch.testing.assert_close(found.levels, cells.levels)
    torch.testing.assert_close(found.power, cells.power)
    assert found.scale == 1


def test_stuck_cells_are_as_many_as_the_file_says_and_stay():
    physics = replace(IDEAL, errors=ArrayErrors(stuck_on=0.1, stuck_off=0.2), encoding="offset")
    code, weights = WeightCode.of(physics), integers(300, 300)
    levels = disturb(code.slices(weights), physics, NoiseSource(0), NoiseSource(5)).levels
    meant = code.slices(weights)
    full, empty = physics.top_level + physics.pedestal, physics.pedestal
    changed = levels != meant + physics.pedestal
    assert (levels[changed] == full).float().sum() / levels.numel() == pytest.approx(
        0.1 * (meant < physics.top_level).float().mean().item(), rel=0.05
    )
    assert (levels[changed] == empty).float().sum() / levels.numel() == pytest.approx(
        0.2 * (meant > 0).float().mean().item(), rel=0.05
    )
    # the same cells, whatever is written
    other = disturb(code.slices(-weights), physics, NoiseSource(7), NoiseSource(5)).levels
    both = (meant != code.slices(-weights)) & changed
    assert torch.equal(levels[both], other[both])


def test_drift_is_a_power_law_and_its_mean_is_made_up_for():
    levels = WeightCode.of(IDEAL).slices(integers(70, 5))
    drift = replace(IDEAL, errors=ArrayErrors(**DRIFT))
    found = disturb(levels, drift, NoiseSource(0), NoiseSource(1))
    factor = (86400 / 20) ** -0.05
    torch.testing.assert_close(found.levels, levels * factor)
    made_up = disturb(
        levels, replace(drift, errors=replace(drift.errors, drift_compensated=True)),
        NoiseSource(0), NoiseSource(1),
    )  # fmt: skip
    assert made_up.scale == pytest.approx(1 / factor, rel=1e-5)
    # rounding aside, a common drift that is made up for costs nothing
    inputs, weights = integers(20, 100), integers(100, 12, seed=1)
    ideal = inputs @ weights
    got = []
    for made_up in (False, True):
        errors = replace(drift.errors, drift_compensated=made_up)
        off = multiply(inputs, weights, replace(IDEAL, errors=errors)) - ideal
        got.append(off.square().mean())
    assert got[1] < got[0] / 20
    # without compensation it is all of the loss that a common factor makes
    assert got[0].sqrt().item() == pytest.approx(
        (1 - factor) * ideal.square().mean().sqrt().item(), rel=0.1
    )


def test_programming_error_follows_the_table():
    physics = replace(
        IDEAL, errors=ArrayErrors(programming_error=TABLE), pedestal=5.0, cell_bits=1
    )
    for level, sigma in ((0.0, 0.01), (1.0, 0.05)):
        found = disturb(torch.full((1, 400, 400), level), replace(physics, encoding="offset"),
                        NoiseSource(0), NoiseSource(1))  # fmt: skip
        assert found.levels.mean().item() == pytest.approx(level + 5.0, abs=1e-3)
        assert found.levels.std().item() == pytest.approx(sigma, rel=0.02)
    four = replace(physics, cell_bits=2, encoding="offset")
    found = disturb(torch.full((1, 400, 400), 1.5), four, NoiseSource(0), NoiseSource(1))
    assert found.levels.std().item() == pytest.approx(0.04 * 3, rel=0.02)


def test_a_wire_lowers_far_cells_more_and_a_thin_one_by_the_first_order():
    physics = replace(IDEAL, encoding="offset", pedestal=0.0, rows=4)
    levels = torch.ones(1, 4, 1)
    thin = replace(physics, errors=ArrayErrors(wire_ohm_per_cell=1.0))
    found = disturb(levels, thin, NoiseSource(0), NoiseSource(1)).levels.flatten()
    unit = 1.0 * physics.level_siemens * physics.line_activity
    by_hand = [1 - unit * sum(min(i, k) for k in range(1, 5)) for i in range(1, 5)]
    torch.testing.assert_close(found, torch.tensor(by_hand), rtol=1e-6, atol=1e-9)
    assert found.tolist() == sorted(found.tolist(), reverse=True)
    # a second tile starts anew
    two = disturb(torch.ones(1, 8, 1), thin, NoiseSource(0), NoiseSource(1)).levels.flatten()
    torch.testing.assert_close(two[:4], two[4:])


# ---------------------------------------------------------------- whole models and chip files


def chip_with(name="trex_fefet_32nm", **errors):
    chip = load_chip(name)
    array = replace(chip.static_array, errors=ArrayErrors(**errors))
    dynamic = replace(chip.dynamic_array, errors=ArrayErrors(**errors))
    return replace(chip, static_array=array, dynamic_array=dynamic)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=4, img_size=32, depth=2).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.manual_seed(1))


def answers(model, chip, images, mode, seeds=(0,)):
    make_non_ideal(model, chip, [images], mode=mode)
    try:
        with torch.no_grad():
            found = []
            for seed in seeds:
                set_noise(model, seed=seed)
                found.append(model(images))
            return found
    finally:
        remove_non_ideal(model)


@pytest.mark.parametrize("mode", ["fast", "exact"])
@pytest.mark.parametrize("name", ["trex_fefet_32nm", "trex_sram_32nm"])
def test_off_equals_no_errors_bit_by_bit(model, images, name, mode):
    (plain,) = answers(model, load_chip(name), images, mode)
    zeros = chip_with(name, drift_time_s=1e6, drift_compensated=True, stuck_on=0.0)
    assert torch.equal(answers(model, zeros, images, mode)[0], plain)


QUIET = {
    "device.read_variation": 0.0, "device.write_variation": 0.0,
    "device.programming_variation": 0.0,
}  # fmt: skip


def quiet_chip(**errors):
    chip = load_chip("trex_fefet_32nm", {f"arrays.fefet.{name}": x for name, x in QUIET.items()})
    chip = replace(
        chip, static_array=replace(chip.static_array, adc_bits=8, errors=ArrayErrors(**errors))
    )
    return replace(chip, dynamic_array=chip.static_array)


@pytest.mark.parametrize(
    ("name", "mode"),
    [*((name, "fast") for name in ERRORS), ("stuck_on", "exact"), ("offset", "exact")],
)
def test_one_instance_is_held_and_another_is_another(model, images, name, mode):
    chip = quiet_chip(**ERRORS[name][-1])
    first, again, other = answers(model, chip, images, mode, seeds=(3, 3, 4))
    assert torch.equal(first, again)
    if name not in ("drift", "wire"):  # these are the same of every instance
        assert not torch.equal(first, other)
    assert first.isfinite().all()


@pytest.mark.parametrize("name", ["stuck_on", "wire", "drift"])
def test_both_modes_err_alike(model, images, name):
    """What is held moves both modes' answers as far, and into the same direction.

    Rounding goes its own way in each.
    """
    of = ERRORS[name][-1]
    with torch.no_grad():
        plain = model(images)
    fast, exact = (
        (answers(model, quiet_chip(**of), images, mode)[0] - plain).flatten()
        for mode in ("fast", "exact")
    )
    assert torch.nn.functional.cosine_similarity(fast, exact, dim=0).item() > 0.5
    assert (fast.norm() / exact.norm()).item() == pytest.approx(1, abs=0.25)


FIELDS = {
    "stuck_on": 0.01, "stuck_off": 0.02, "drift_exponent": 0.05, "drift_exponent_deviation": 0.01,
    "drift_time_s": 3600.0, "drift_start_s": 20.0, "wire_ohm_per_cell": 1.0, "adc_gain": 0.01,
    "adc_offset_lsb": 0.5, "adc_noise_lsb": 0.3,
}  # fmt: skip


def written(folder, lines, name="trex_fefet_32nm"):
    from trex.datafiles import shipped

    text = shipped("hw_models", "chip.yaml")[name].read_text()
    block = "".join(f"      {line}\n" for line in lines)
    path = folder / "chip.yaml"
    path.write_text(text.replace("    device:\n", f"    errors:\n{block}    device:\n", 1))
    return path


def test_a_chip_files_errors_are_read(tmp_path):
    lines = [f'{name}: {{value: {value}, source: "x"}}' for name, value in FIELDS.items()]
    lines += ["drift_compensated: true"]
    lines += ['programming_error: {value: [[0.0, 0.01], [1.0, 0.04]], assumption: "why"}']
    chip = load_chip(written(tmp_path, lines))
    expected = ArrayErrors(
        **FIELDS, drift_compensated=True, programming_error=((0.0, 0.01), (1.0, 0.04))
    )
    assert chip.static_array.errors == expected
    plain = load_chip("trex_fefet_32nm")
    assert plain.static_array.errors == ArrayErrors()
    assert chip.fingerprint != plain.fingerprint
    assert chip.errors_key != plain.errors_key
    assert chip.accuracy == ()
    static = Physics.of(chip.static_array, NoiseSettings(), static=True)
    dynamic = Physics.of(chip.dynamic_array, NoiseSettings(), static=False)
    assert static.errors == expected
    # what is written for every image neither drifts nor is programmed and verified
    assert (dynamic.errors.drift_exponent, dynamic.errors.programming_error) == (0.0, ())
    assert dynamic.errors.stuck_on == 0.01


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['stuck_on: {value: 0.6, source: "x"}', 'stuck_off: {value: 0.6, source: "x"}'],
         "more than all cells"),
        (['drift_exponent: {value: 0.05, source: "x"}'], "drift needs both of its times"),
        (['drift_time_s: {value: 1.0, source: "x"}', 'drift_start_s: {value: 20.0, source: "x"}'],
         "is before drift_start_s"),
        (['programming_error: {value: [[0.0, 0.1], [0.5, 0.1]], source: "x"}'],
         "does not lead from 0 to 1"),
        (["adc_gain: 0.1"], "has no source"),
        (['adc_gian: {value: 0.1, source: "x"}'], "did you mean 'adc_gain'"),
    ],
)  # fmt: skip
def test_errors_that_cannot_be(lines, message, tmp_path):
    with pytest.raises(ChipError, match=message):
        load_chip(written(tmp_path, lines))


def test_a_wire_needs_resistances_and_programming_errs_once(tmp_path):
    wire = ['wire_ohm_per_cell: {value: 1.0, source: "x"}']
    with pytest.raises(ChipError, match=r"needs device\.r_on_ohm"):
        load_chip(written(tmp_path, wire, "trex_sram_32nm"))
    table = ['programming_error: {value: [[0.0, 0.1], [1.0, 0.1]], source: "x"}']
    path = written(tmp_path, table, "neurosim_rram_22nm")
    with pytest.raises(ChipError, match="two errors of one programming"):
        load_chip(path)
