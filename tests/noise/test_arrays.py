"""Laws of one array: what it computes without noise, and how its noise behaves."""

from dataclasses import replace

import pytest
import torch

from trex.errors import ChipError
from trex.hardware import load_chip
from trex.noise import ENCODINGS, NoiseSettings
from trex.noise.array import Converter, exact_product, reads, store
from trex.noise.coding import InputCode, WeightCode, to_tiles
from trex.noise.moments import estimate, power_of, value_of
from trex.noise.physics import Physics
from trex.noise.source import NoiseSource

IDEAL = Physics(
    rows=64,
    weight_bits=8,
    input_bits=8,
    adc_bits=16,
    cell_bits=2,
    read_sigma=0.0,
    write_sigma=0.0,
    pedestal=0.0,
    encoding="differential",
    adc_range="calibrated",
    map_step="row",
)
WIDE = (-(1 << 15), (1 << 15) - 1)


def integers(*shape: int, limit: int = 127, least: int | None = None) -> torch.Tensor:
    low = -limit if least is None else least
    return torch.randint(low, limit + 1, shape, generator=torch.manual_seed(0)).float()


def multiply(inputs, weights, physics, *, seed=1, steps=1.0, codes=WIDE):
    code = InputCode(physics.input_bits, bool(inputs.min() < 0), physics.encoding)
    weight_code = WeightCode.of(physics)
    normal = NoiseSource(seed)
    cells = store(weights, physics, weight_code, normal)
    return exact_product(
        inputs,
        cells,
        input_code=code,
        weight_code=weight_code,
        physics=physics,
        converter=Converter(torch.full((len(weight_code.weights), 1), steps), codes),
        normal=normal,
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("cell_bits", [1, 2, 3, 4])
@pytest.mark.parametrize("least", [None, 0])
def test_without_noise_an_array_multiplies_integers(encoding, cell_bits, least):
    physics = replace(IDEAL, encoding=encoding, cell_bits=cell_bits)
    inputs, weights = integers(5, 150, least=least), integers(150, 7)
    assert torch.equal(multiply(inputs, weights, physics), inputs @ weights)


def test_a_pair_of_columns_cancels_the_least_conductance_and_offset_subtracts_it():
    inputs, weights = integers(5, 150), integers(150, 7)
    pair = replace(IDEAL, pedestal=0.03)
    torch.testing.assert_close(multiply(inputs, weights, pair), inputs @ weights)
    offset = replace(pair, encoding="offset")
    got = multiply(inputs, weights, offset, steps=1e-3, codes=(0, 1 << 30))
    torch.testing.assert_close(got, inputs @ weights, rtol=1e-3, atol=40)


def test_batches_of_matrices_multiply_like_each_alone():
    inputs, weights = integers(2, 3, 5, 70), integers(2, 3, 70, 4)
    assert torch.equal(multiply(inputs, weights, IDEAL), inputs @ weights)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_slices_and_bits_come_back_together(encoding):
    code = WeightCode(8, 2, encoding)
    everything = code.all_integers(torch.device("cpu"))
    weighted = sum(w * s for w, s in zip(code.weights, code.slices(everything), strict=True))
    assert torch.equal(weighted - code.offset, everything)
    for signed in (True, False):
        inputs = InputCode(8, signed, encoding)
        low, high = inputs.limits
        values = torch.arange(low, high + 1).float()
        planes = [inputs.plane(values, k) for k in range(len(inputs.weights))]
        back = sum(w * p for w, p in zip(inputs.weights, planes, strict=True))
        assert torch.equal(back, values)
        power = sum(w**2 * p**2 for w, p in zip(inputs.weights, planes, strict=True))
        table = inputs.power_table(values.device)
        assert torch.equal(table[inputs.table_index(values).long()], power)


def noise_power(physics, seed=1, **kwargs):
    inputs, weights = integers(64, 64), integers(64, 64)
    ideal = inputs @ weights
    return (multiply(inputs, weights, physics, seed=seed, **kwargs) - ideal).square().mean()


def test_noise_power_grows_with_the_square_of_sigma():
    fine = {"steps": 1e-3, "codes": (-(1 << 30), 1 << 30)}
    for field in ("read_sigma", "write_sigma"):
        small = noise_power(replace(IDEAL, **{field: 0.05}), **fine)
        large = noise_power(replace(IDEAL, **{field: 0.2}), **fine)
        assert (large / small).item() == pytest.approx(16, rel=0.02)


def test_read_noise_of_a_column_is_that_of_its_cells_one_by_one():
    physics = replace(IDEAL, read_sigma=0.1, pedestal=0.03)
    weight_code, code = WeightCode.of(physics), InputCode(8, True, "differential")
    inputs, weights = integers(1, 64), integers(64, 1)
    cells = store(weights, physics, weight_code, None)
    read = next(r for r in reads(inputs, cells, code, physics) if (r.k, r.s) == (3, 1))
    plane, level = code.plane(inputs, 3)[0], cells.levels[1, :, 0]
    active, other = level.abs() + 0.03, torch.full_like(level, 0.03)
    draws = torch.randn(20_000, 2, 64, generator=torch.manual_seed(0)) * 0.1
    currents = active * (1 + draws[:, 0]) - other * (1 + draws[:, 1])
    sums = (currents * level.sign() * plane).sum(1)
    # a zero level has no sign, but both its cells do make noise
    still = (2 * 0.03**2 * (plane**2)[level == 0]).sum() * 0.1**2
    assert read.power.item() * 0.1**2 == pytest.approx((sums.var() + still).item(), rel=0.04)
    assert read.sums.item() == pytest.approx(sums.mean().item(), abs=0.03)


def test_writing_leaves_empty_cells_alone():
    physics = replace(IDEAL, write_sigma=0.2)
    cells = store(torch.zeros(30, 4), physics, WeightCode.of(physics), NoiseSource(0))
    assert not cells.levels.any()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("step", "read_sigma"), [(1.0, 0.1), (2.3, 0.1), (2.3, 0.0), (6.0, 0.1)])
def test_fast_moments_are_those_of_the_exact_array(encoding, step, read_sigma):
    physics = replace(IDEAL, encoding=encoding, read_sigma=read_sigma, pedestal=0.03)
    codes = (0, 1 << 10) if encoding == "offset" else WIDE
    code, weight_code = InputCode(8, True, encoding), WeightCode.of(physics)
    random = torch.manual_seed(0)
    inputs = (torch.randn(800, 130, generator=random) * 25).round().clamp(-127, 127)
    weights = (torch.randn(130, 40, generator=random) * 30).round().clamp(-127, 127)
    cells = store(weights, physics, weight_code, None)
    converter = Converter(torch.full((len(weight_code.weights), 1), step), codes)
    parts = {
        "input_code": code,
        "weight_code": weight_code,
        "physics": physics,
        "converter": converter,
        "normal": NoiseSource(0),
    }
    moments = estimate(inputs[:400], cells, by_column=True, worth=torch.ones(()), **parts)
    unseen = inputs[400:]
    error = exact_product(unseen, cells, **parts) - unseen @ value_of(
        cells, weight_code, physics, moments
    )
    table = code.power_table(inputs.device)[code.table_index(unseen).long()]
    read = read_sigma**2 * table @ power_of(cells, weight_code, moments.passed)
    fed = code.active_bits(to_tiles(unseen, physics.rows))
    variance = read + fed @ moments.floor
    assert variance.mean().item() == pytest.approx(error.square().mean().item(), rel=0.06)


def test_fast_write_noise_is_what_gets_through_the_converters():
    physics = replace(IDEAL, write_sigma=0.2, pedestal=0.03)
    code, weight_code = InputCode(8, False, "differential"), WeightCode.of(physics)
    random = torch.manual_seed(0)
    # few large inputs, as in rows of an attention map: many sums are of a cell or two
    inputs = (torch.randn(600, 64, generator=random) * 2).exp().mul_(4).round_().clamp_(0, 255)
    weights = integers(64, 40)
    cells = store(weights, physics, weight_code, NoiseSource(1))
    parts = {
        "input_code": code,
        "weight_code": weight_code,
        "physics": physics,
        "converter": Converter(torch.ones(len(weight_code.weights), 1), WIDE),
        "normal": NoiseSource(0),
    }
    moments = estimate(inputs[:300], cells, by_column=True, worth=torch.ones(()), **parts)
    unseen = inputs[300:]
    ideal = unseen @ weights
    exact = (exact_product(unseen, cells, **parts) - ideal).square().mean().item()
    shift = unseen @ value_of(cells, weight_code, physics, moments) - ideal
    floor = code.active_bits(to_tiles(unseen, physics.rows)) @ moments.floor
    fast = (shift.square().mean() + floor.mean()).item()
    assert fast == pytest.approx(exact, rel=0.03)
    # not what was written: rounding takes some of it away
    written = (unseen @ value_of(cells, weight_code, physics) - ideal).square().mean().item()
    assert written + floor.mean().item() > 1.05 * exact


def test_sram_bits_of_64_rows_fit_a_6_bit_converter():
    array = load_chip("trex_sram_32nm").static_array
    physics = Physics.of(array, NoiseSettings(adc_range="worst_case"), static=True)
    assert physics.encoding == "offset"
    inputs, weights = integers(20, 192), integers(192, 16)
    assert torch.equal(multiply(inputs, weights, physics, codes=(0, 63)), inputs @ weights)


def test_a_chip_without_device_data_is_refused_by_field():
    array = load_chip("trex_fefet_32nm").static_array
    silent = replace(array, device=replace(array.device, read_variation=None))
    with pytest.raises(ChipError, match=r"arrays\.fefet\.device\.read_variation"):
        Physics.of(silent, NoiseSettings(), static=True)
    blind = replace(array, device=replace(array.device, r_off_ohm=None))
    with pytest.raises(ChipError, match=r"device\.r_off_ohm"):
        Physics.of(blind, NoiseSettings(), static=True)
    with pytest.raises(ChipError, match="adc_bits"):
        Physics.of(replace(array, adc_bits=1), NoiseSettings(), static=True)
    with pytest.raises(ChipError, match="encoding"):
        NoiseSettings(encoding="gray")
    with pytest.raises(ChipError, match="write gain"):
        NoiseSettings(write_gain=float("nan"))
