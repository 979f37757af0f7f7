"""What a chip's source reports beside what is recomputed, and component files of one's own."""

from __future__ import annotations

import re

import pytest

from trex.datafiles import data_folder, shipped
from trex.errors import ChipError
from trex.hardware import check_chip, load_chip


@pytest.mark.parametrize("name", shipped("hw_models", "chip.yaml"))
def test_published_results_are_met_or_explained(name):
    report = check_chip(name)
    assert report.ok, [(c.name, c.quantity, c.deviation) for c in report.disagreements]


def test_some_published_results_are_met():
    assert all(c.agrees for c in check_chip("trex_fefet_32nm").comparisons)
    report = check_chip("neurosim_sram_22nm_5bit")
    assert sum(c.agrees for c in report.comparisons) >= 15
    assert all(c.known_difference for c in report.comparisons if not c.agrees)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("of: qkv", "of: qkw", r"published\.yaml:\d+: results\.0\.of: 'qkw'.*\n.*'qkv'"),
        ("[cells, adc]", "[cell, adc]", r"no component 'cell'\n.*did you mean 'cells'"),
        ("value: 6.4523e-6", "value: 6e-6", r"'6e-6' is text"),
        ("quantity: energy_j", "quantity: energy_mj", r"results\.0\.quantity"),
        (
            "[cells, adc]",
            "[adc, adc]",
            r"published\.yaml:\d+: results\.0\.components: names one twice",
        ),
        ("value: 6.4523e-6", "value: 0.0", r"results\.0\.value: 0\.0 is not allowed"),
        ("tolerance: 0.01", "tolerance: 1.0", r"results\.0\.tolerance: 1\.0 is not allowed"),
        (
            "vectors: 197",
            "vectors: 9999999999",
            r"layers\.qkv\.vectors: 9999999999 is not allowed",
        ),
        ("of: qkv", "of: qkv\n    n_reuse: 1", r"results\.0\.n_reuse: 1 encoders cannot reuse"),
        ("of: qkv", "of: qkv\n    accounting: paper", r"\.accounting: .* a single layer"),
        (
            "layers:",
            "encoders:\n  fc1: {depth: 1, tokens: 2, dim: 4, heads: 2, mlp_hidden: 8}\nlayers:",
            r"layers\.fc1: is also in `encoders`",
        ),
        (
            "layers:",
            "encoders:\n  vit: {depth: 1, tokens: 2, dim: 4, heads: 3, mlp_hidden: 8}\nlayers:",
            r"encoders\.vit\.heads: 3 heads do not divide a width of 4",
        ),
    ],
)
def test_a_wrong_published_file(tmp_path, old, new, message):
    folder = shipped("hw_models", "chip.yaml")["neurosim_sram_22nm_5bit"].parent
    (tmp_path / "chip.yaml").write_text((folder / "chip.yaml").read_text())
    text = (folder / "published.yaml").read_text()
    assert old in text
    (tmp_path / "published.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(ChipError, match=message):
        check_chip(tmp_path)


def test_a_disagreement_without_a_reason_fails(tmp_path):
    folder = shipped("hw_models", "chip.yaml")["trex_fefet_32nm"].parent
    (tmp_path / "chip.yaml").write_text((folder / "chip.yaml").read_text())
    text = re.sub(r"value: 10.92e-3", "value: 11.92e-3", (folder / "published.yaml").read_text())
    (tmp_path / "published.yaml").write_text(text)
    report = check_chip(tmp_path)
    assert not report.ok
    assert [c.quantity for c in report.disagreements] == ["latency_s"]


def own_components(folder, old, new):
    """The 22 nm SRAM chip with a changed copy of its component file beside it."""
    components = (data_folder("hw_models") / "components" / "digital_22nm.yaml").read_text()
    assert old in components
    (folder / "mine.yaml").write_text(components.replace(old, new, 1))
    chip = shipped("hw_models", "chip.yaml")["neurosim_sram_22nm"].read_text()
    (folder / "chip.yaml").write_text(
        chip.replace("periphery: digital_22nm", "periphery: mine.yaml")
    )
    return folder


def test_own_components_are_found_beside_the_chip(tmp_path):
    chip = load_chip(own_components(tmp_path, "lanes: {value: 64", "lanes: {value: 32"))
    shipped_chip = load_chip("neurosim_sram_22nm")
    assert chip.periphery.vector_unit_area_m2 == shipped_chip.periphery.vector_unit_area_m2 / 2
    assert chip.static_array == shipped_chip.static_array


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lanes: {value: 64", "lanes: {value: 0", r"vector_unit\.lanes\.value: 0 is not allowed"),
        (
            "{value: 1.0e+9",
            "{value: 1.0e-9",
            r"clock_hz\.value: 1e-09 is not allowed\n.*least 1000",
        ),
        ("{value: 1.0e+9", "{value: 1.0e+19", r"clock_hz\.value: 1e\+19 is not allowed"),
        ("clock_hz:", "clock_ghz:", r"vector_unit\.clock_ghz: .*\n.*did you mean 'clock_hz'"),
        ("value: 8", "value: 8.0e+9", r"adders_per_multiplier\.value: 8000000000\.0"),
        ("gelu: {adds: 2", "gelu: {adds: -2", r"functions\.value\.gelu\.adds: -2"),
        ("gelu: {adds: 2, multiplies: 3}", "gelu: {adds: 0, multiplies: 0}", r"gelu: is free"),
        ("{value: 256.0e+9", "{value: 256.0", r"bus\.bits_per_s\.value: 256\.0 is not allowed"),
        ("value: 24.9", "value: 24.9e+9", r"leakage_w_per_m2\.value: 24900000000\.0"),
        (
            '{value: 53.2e-15, source: "CACTI, 64 KB SRAM bank at 22 nm"}',
            "{value: 53.2e-15}",
            r"read_energy_j_per_bit: has no source",
        ),
    ],
)
def test_wrong_components(tmp_path, old, new, message):
    with pytest.raises(ChipError, match=r"mine\.yaml:\d+: .*" + message):
        load_chip(own_components(tmp_path, old, new))
