"""How matrices lie on arrays, by hand and by law."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trex.architecture import Architecture, Operation
from trex.hardware import load_chip, price, price_layers, workload
from trex.hardware.mapping import map_matmul

FEFET = load_chip("trex_fefet_32nm").static_array
SRAM22 = load_chip("neurosim_sram_22nm").static_array


def matmul(height, width, groups=1, vectors=10, kind="static_matmul", part="layer"):
    return Operation(
        name="m", kind=kind, part=part,
        vectors=vectors, in_features=height, out_features=width, groups=groups,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("array", "op", "arrays", "row_blocks"),
    [
        # TReX, Table II: ceil(in/64) ceil(out/64) crossbars, four slices
        (FEFET, matmul(384, 384), 6 * 6 * 4, 6),
        (FEFET, matmul(384, 1536), 6 * 24 * 4, 6),
        (FEFET, matmul(65, 1), 2 * 1 * 4, 2),
        # eight one-bit slices in neighbouring columns of 128
        (SRAM22, matmul(384, 1536), 3 * 96, 3),
        (SRAM22, matmul(128, 16), 1, 1),
        (SRAM22, matmul(128, 17), 2, 1),
        # depth-wise 3×3: seven kernels of 9 rows and one column along the diagonal
        (FEFET, matmul(9, 1, groups=384), 55 * 4, 1),
        (SRAM22, matmul(9, 1, groups=384), 28, 1),
        # groups too large to share an array
        (FEFET, matmul(40, 40, groups=3), 3 * 4, 1),
    ],
)
def test_by_hand(array, op, arrays, row_blocks):
    mapping = map_matmul(op, array, packed_heads=False)
    assert (mapping.arrays, mapping.row_blocks) == (arrays, row_blocks)
    assert 0 < mapping.used <= 1


def test_heads_share_a_matrix_only_in_the_papers_equations():
    """Heads of 40: six of them are a 240-wide Kᵀ in the paper, six matrices in a crossbar."""
    scores = matmul(40, 197, groups=6, kind="dynamic_matmul", part="scores")
    assert map_matmul(scores, FEFET, packed_heads=True).arrays == 4 * 4 * 4
    assert map_matmul(scores, FEFET, packed_heads=False).arrays == 6 * 4 * 4
    context = matmul(197, 40, groups=6, kind="dynamic_matmul", part="context")
    assert map_matmul(context, FEFET, packed_heads=True).arrays == 4 * 4 * 4


sizes = st.integers(1, 700)


@given(sizes, sizes, st.integers(1, 40), st.sampled_from([FEFET, SRAM22]))
@settings(max_examples=200, deadline=None)
def test_smaller_crossbars_never_waste_more(height, width, groups, array):
    op = matmul(height, width, groups)
    used = [
        map_matmul(op, replace(array, rows=n, columns=n), packed_heads=False).used
        for n in (256, 128, 64, 32, 16)
    ]
    assert used == sorted(used)
    assert all(0 < share <= 1 for share in used)


@given(sizes, sizes, st.integers(1, 40), st.sampled_from([FEFET, SRAM22]))
@settings(max_examples=100, deadline=None)
def test_area_is_whole_tiles_and_holds_every_array(height, width, groups, array):
    mapping = map_matmul(matmul(height, width, groups), array, packed_heads=False)
    assert mapping.placed_arrays % array.arrays_per_tile == 0
    assert 0 <= mapping.placed_arrays - mapping.arrays * array.copies < array.arrays_per_tile


@given(st.lists(st.tuples(sizes, sizes, sizes, st.integers(1, 40)), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("name", ["trex_fefet_32nm", "neurosim_rram_22nm"])
def test_many_layers_at_once_cost_what_each_costs(name, shapes):
    chip = load_chip(name)
    vectors, heights, widths, groups = map(np.array, zip(*shapes, strict=True))
    costs = price_layers(
        chip, vectors=vectors, in_features=heights, out_features=widths, groups=groups
    )
    for i, (v, h, w, g) in enumerate(shapes):
        model = Architecture(model="m", body=(matmul(h, w, g, v),))
        one = price(workload(model), chip, "full", schedule="sequential")
        assert costs.latency_s[i] == pytest.approx(one.latency_s)
        layer = [s for s in one.shares if s.layer == "m" and s.component != "leakage"]
        assert costs.energy_j[i] == pytest.approx(sum(s.energy_j for s in layer))
        assert costs.area_m2[i] == pytest.approx(sum(s.area_m2 for s in layer))


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        price_layers(load_chip("trex_fefet_32nm"), vectors=1, in_features=[3, 0], out_features=4)
