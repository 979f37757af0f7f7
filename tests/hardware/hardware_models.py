"""Architectures for tests: the dimensions the paper evaluates, and random ones."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from trex.architecture import Architecture, Operation, vit_encoder
from trex.datafiles import shipped
from trex.hardware import SCHEDULES, Chip, load_chip
from trex.hardware.chip import ArrayCorrections, ArrayModel, Network, Options
from trex.plan import MAP_TRANSFORMS, TRANSFORMS, Layout, Merge, Plan, Reuse, Rows

#: every form of a consumer
FORMS = [("output", name) for name in TRANSFORMS] + [("map", name) for name in MAP_TRANSFORMS]
SHIPPED = {name: load_chip(name) for name in shipped("hw_models", "chip.yaml")}


def vit(
    name: str = "vit",
    depth: int = 3,
    dim: int = 64,
    heads: int = 4,
    tokens: int = 17,
    mlp: int = 256,
    class_rows: int = 1,
) -> Architecture:
    """A vision transformer with one class token; `class_rows` 0: its head reads all tokens."""
    stem = Operation(
        name="patch_embed.proj", kind="static_matmul", part="stem",
        vectors=tokens - 1, in_features=768, out_features=dim, bias=True,
    )  # fmt: skip
    norm = Operation(
        name="norm", kind="elementwise", part="norm",
        vectors=tokens, out_features=dim, function="layer_norm",
    )  # fmt: skip
    head = Operation(
        name="head", kind="static_matmul", part="head",
        vectors=1, in_features=dim, out_features=1000, bias=True,
    )  # fmt: skip
    encoders = (
        vit_encoder(i, tokens=tokens, dim=dim, heads=heads, mlp_hidden=mlp) for i in range(depth)
    )
    layout = Layout(
        stages=(0,) * depth,
        tokens=tokens,
        protected=1,
        class_tokens=1,
        class_rows=class_rows,
        no_class_rows="" if class_rows else "the head pools the patches too",
    )
    return Architecture(model=name, body=(stem, *encoders, norm, head), layout=layout)


DEIT_S = vit("deit_small_patch16_224", depth=12, dim=384, heads=6, tokens=197, mlp=1536)
LVVIT_S = vit("lvvit_s", depth=16, dim=384, heads=6, tokens=197, mlp=1152)


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    heads = draw(st.integers(1, 6))
    return vit(
        depth=draw(st.integers(1, 5)),
        dim=heads * draw(st.sampled_from([8, 20, 32, 64, 80])),
        heads=heads,
        tokens=draw(st.integers(2, 90)),
        mlp=draw(st.integers(1, 300)),
        class_rows=draw(st.integers(0, 1)),
    )


@st.composite
def plans(draw: st.DrawFn, depth: int) -> Plan:
    """Any valid plan of reuse, not only those that reuse the nearest producer."""
    reuses, producers = [], []
    for encoder in range(depth):
        form = draw(st.none() | st.sampled_from(FORMS))
        if form == ("map", "average"):
            reuses.append(Reuse(encoder, encoder, *form))
        elif form and producers:
            reuses.append(Reuse(encoder, draw(st.sampled_from(producers)), *form))
        else:
            producers.append(encoder)
    return Plan(tuple(reuses))


@st.composite
def joint_plans(draw: st.DrawFn, layout: Layout) -> Plan:
    """Any plan that a model can run: reuse, merges, rows of every kind."""
    last = len(layout.stages) - 1
    plan = draw(plans(last + 1))
    rows, merges, left = [], [], layout.tokens
    grouped: list[int] = []  # encoders whose groups can be taken
    for encoder in range(last + 1):
        reuse = plan.reuse_of(encoder)
        if encoder == last and layout.class_rows:
            if (reuse is None or reuse.tensor == "output") and draw(st.booleans()):
                rows.append(Rows(last))
                continue
        elif reuse is not None and reuse.tensor == "map" and draw(st.booleans()):
            rows.append(Rows(encoder))  # its own
        if reuse is None and draw(st.booleans()):
            if grouped and draw(st.booleans()):
                rows.append(Rows(encoder, 0, draw(st.sampled_from(grouped))))
            else:
                least = min(layout.protected + 1, left)
                rows.append(Rows(encoder, draw(st.integers(least, left))))
                grouped.append(encoder)
        pairs = draw(st.integers(0, layout.most_pairs(left)) | st.just(0))
        merges.append(Merge(encoder, pairs))
        left -= pairs
        grouped = grouped if not pairs else []
    return Plan(plan.reuses, tuple(merges), tuple(rows))


@st.composite
def _arrays(draw: st.DrawFn, array: ArrayModel) -> ArrayModel:
    """Another array of the same kind: any size, any speed, any price."""
    size = draw(st.sampled_from([8, 32, 64, 100, 256]))
    return replace(
        array,
        rows=size,
        columns=draw(st.sampled_from([size, 2 * size])),
        weight_slices=draw(st.integers(1, 8)),
        arrays_per_tile=draw(st.integers(1, 100)),
        copies=draw(st.integers(1, 4)),
        vector_latency_s=array.vector_latency_s * draw(_scales),
        accumulate_energy_j=array.accumulate_energy_j * draw(_scales),
        write_energy_j=array.write_energy_j * draw(_scales),
        write_latency_s=array.write_latency_s * draw(_scales),
        leakage_w=array.leakage_w * draw(_scales),
        density=draw(st.floats(0, 1)),
        corrections=draw(CORRECTIONS),
    )


CORRECTIONS = st.builds(
    ArrayCorrections,
    column_write=st.sampled_from([None, False, True]),
    unused_rows_idle=st.booleans(),
    partial_sum_j_per_bit=st.none() | st.just(3.6e-15),
    tile_other_m2=st.none() | st.just(2.5e-7),
    signs=st.sampled_from(["one column", "pair of columns", "in the cell"]),
)
NETWORK = Network(
    link_j_per_bit=0.054e-12,
    link_bits_per_s=256e9,
    wire_j_per_bit_m=40.4e-12,
    channel_bits_per_s=256e9,
)


_scales = st.sampled_from([1e-3, 0.1, 1.0, 7.0, 1e3])


@st.composite
def any_chips(draw: st.DrawFn) -> Chip:
    """A shipped chip, or one like it with other arrays, softmax units, bus and options."""
    chip = draw(st.sampled_from(list(SHIPPED.values())))
    if draw(st.booleans()):
        return chip
    softmax, around = chip.softmax, chip.periphery
    return replace(
        chip,
        static_array=draw(_arrays(chip.static_array)),
        dynamic_array=draw(_arrays(chip.dynamic_array)),
        softmax=replace(
            softmax,
            latency_per_element_s=softmax.latency_per_element_s * draw(_scales),
            units=draw(st.none() | st.integers(1, 20)),
            shared=draw(st.booleans()),
            depth_first=draw(st.booleans()),
        ),
        periphery=replace(
            around,
            bus_bits_per_s=around.bus_bits_per_s * draw(_scales),
            vector_unit_elements_per_s=around.vector_unit_elements_per_s * draw(_scales),
            leakage_w_per_m2=around.leakage_w_per_m2 * draw(_scales),
        ),
        options=Options(
            schedule=draw(st.sampled_from(SCHEDULES)),
            double_buffered_writes=draw(st.booleans()),
            fused_qk=draw(st.booleans()),
            leakage_over=draw(st.sampled_from(["latency", "interval"])),
        ),
        network=draw(
            st.none()
            | st.builds(
                replace,
                st.just(NETWORK),
                link_bits_per_s=_scales.map(lambda by: 256e9 * by),
                channel_bits_per_s=_scales.map(lambda by: 256e9 * by),
            )
        ),
    )
