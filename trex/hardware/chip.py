"""A chip as the cost model sees it: plain SI numbers, whatever kind of file they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from trex.hardware.accuracy import AccuracyFigure

Schedule = Literal["sequential", "parallel", "pipelined"]
SCHEDULES: Final[tuple[Schedule, ...]] = get_args(Schedule)
LeakageOver = Literal["latency", "interval"]
Signs = Literal["one column", "pair of columns", "in the cell"]

#: Density of ones at which the component tables give their energies.
REFERENCE_DENSITY: Final = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadTerm:
    """Energy one array takes for one pass of one input vector, in one of its components.

    `energy_j` holds at an input-bit density of one half; `idle_fraction` of it remains when
    every input bit is zero, the rest grows in proportion to the density of ones.
    """

    component: str
    energy_j: float
    idle_fraction: float = 1.0

    def at(self, density: float) -> float:
        """Joules at an input-bit density from 0 to 1."""
        active = (1 - self.idle_fraction) * density / REFERENCE_DENSITY
        return self.energy_j * (self.idle_fraction + active)


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What a memory cell does to the numbers stored in it; nothing here changes a cost.

    Variations are relative standard deviations, None where the file does not say:
    `write_variation` of a cell that is written while the model runs, `programming_variation` of
    one that holds a weight, programmed once.
    """

    bits_per_cell: int
    r_on_ohm: float | None = None
    r_off_ohm: float | None = None
    read_variation: float | None = None
    write_variation: float | None = None
    programming_variation: float | None = None
    #: writes that a cell survives; it decides no price
    endurance_cycles: float | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayErrors:
    """Errors of an array beside its cells' variations, all of them off; they decide no price.

    Attributes:
        stuck_on: share of the cells that stay at their largest conductance.
        stuck_off: share that stays at the least.
        drift_exponent: ν of G(t) = G·(t/t0)^−ν, in arrays of weights.
        drift_exponent_deviation: its standard deviation over cells.
        drift_time_s: t, since the weights were programmed.
        drift_start_s: t0, when they were verified.
        drift_compensated: whether outputs are multiplied by the array's mean loss.
        programming_error: (share of the conductance range, standard deviation as a share of it)
            of programmed weights, from 0 to 1.
        wire_ohm_per_cell: of a column's wire, from cell to cell.
        adc_gain: relative standard deviation over converters.
        adc_offset_lsb: standard deviation over converters, in steps.
        adc_noise_lsb: standard deviation of one conversion, in steps.
    """

    stuck_on: float = 0.0
    stuck_off: float = 0.0
    drift_exponent: float = 0.0
    drift_exponent_deviation: float = 0.0
    drift_time_s: float = 1.0
    drift_start_s: float = 1.0
    drift_compensated: bool = False
    programming_error: tuple[tuple[float, float], ...] = ()
    wire_ohm_per_cell: float = 0.0
    adc_gain: float = 0.0
    adc_offset_lsb: float = 0.0
    adc_noise_lsb: float = 0.0


#: all of them off
NO_ERRORS: Final = ArrayErrors()


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayCorrections:
    """What `full` accounting can know better of an array; by default its prices are those of 0.2.

    Attributes:
        column_write: whether a column can be written while others are not; only then a second set
            of arrays takes Kᵀ token by token. None: all writes hide behind reads, as in 0.2.
        unused_rows_idle: rows that hold no weights take no energy in cells and drivers.
        partial_sum_j_per_bit: of one bit of an adder and its register; partial sums are then added
            once a slice and pass, in place of `accumulate_energy_j`. None: the latter.
        tile_other_m2: area of a tile beside its arrays, its buffers among it. None: tiles have
            arrays and input buffers only.
        signs: of weights: `one column` a slice, as in 0.2, though simulated accuracy takes two of
            cells that are not bits of a memory; a `pair of columns` with one converter; or `in the
            cell`, which holds both signs.
    """

    column_write: bool | None = None
    unused_rows_idle: bool = False
    partial_sum_j_per_bit: float | None = None
    tile_other_m2: float | None = None
    signs: Signs = "one column"


#: as in 0.2
NOT_CORRECTED: Final = ArrayCorrections()


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """How tiles and the global buffer are connected; see `trex.hardware.network`.

    Attributes:
        link_j_per_bit: of a tile's own bus, and of the short way from the buffer to units beside.
        link_bits_per_s: of one tile's bus.
        wire_j_per_bit_m: of the global network's wires.
        channel_bits_per_s: of one of the channels at the buffer, as many as the square root of
            the number of tiles.
    """

    link_j_per_bit: float
    link_bits_per_s: float
    wire_j_per_bit_m: float
    channel_bits_per_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayModel:
    """One type of crossbar array, with its converters.

    A weight takes `weight_slices` cells: as many arrays side by side, or neighbouring columns of
    one array (`slices_share_array`). A vector enters in `passes` passes (input bits fed one after
    another; 1 where the read figures cover them all). `vector_latency_s` is the time between two
    vectors. `copies` arrays hold the same weights and take vectors in turn; it is in the latency
    already. `accumulate_energy_j` joins two partial sums of one output. Writes: energy an array,
    time a matrix. Area is rounded up to whole tiles of `arrays_per_tile`.
    """

    name: str
    cell: str
    rows: int
    columns: int
    weight_slices: int
    slices_share_array: bool
    arrays_per_tile: int
    copies: int
    read: tuple[ReadTerm, ...]
    passes: int
    vector_latency_s: float
    accumulate_energy_j: float
    write_energy_j: float
    write_latency_s: float
    area_m2: Mapping[str, float]
    leakage_w: float
    weight_bits: int
    input_bits: int
    #: None of digital arrays, which compute exactly
    adc_bits: int | None
    device: Device
    #: input-bit density where none is measured
    density: float = REFERENCE_DENSITY
    #: not in its `repr`, so that chips without them keep their fingerprints
    errors: ArrayErrors = field(default=NO_ERRORS, repr=False)
    #: whether inputs and slices are added up before the one conversion of an output, which
    #: simulated accuracy does not know; not in its `repr` either
    one_conversion: bool = field(default=False, repr=False)
    #: what a chip file may correct; neither is this in its `repr`
    corrections: ArrayCorrections = field(default=NOT_CORRECTED, repr=False)

    @property
    def holds_bits_of_a_memory(self) -> bool:
        """Cells that are on or off; others' conductances are analogue, with errors."""
        return self.cell in ("SRAM", "eDRAM")

    @property
    def depends_on_density(self) -> bool:
        """Whether an input bit that is zero saves energy."""
        return self.passes > 1 and any(term.idle_fraction < 1 for term in self.read)


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftmaxModel:
    """Softmax units: each takes one score after another. `units` None means one a head.

    `shared`: the chip has one set of units for all encoders, else every encoder has its own.
    `depth_first`: scores go from the array to the unit and on, and never to the buffer.
    """

    energy_per_element_j: float
    latency_per_element_s: float
    area_per_unit_m2: float
    units: int | None
    shared: bool
    depth_first: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Periphery:
    """What lies around the arrays: a vector unit, buffers, the bus, leakage."""

    name: str
    #: joules an element, by `Operation.function`
    function_energy_j: Mapping[str, float]
    vector_unit_elements_per_s: float
    vector_unit_area_m2: float
    buffer_read_j_per_bit: float
    buffer_write_j_per_bit: float
    buffer_bits: int
    buffer_area_m2: float
    tile_buffer_j_per_bit: float
    tile_buffer_area_m2_per_bit: float
    bus_energy_j_per_bit: float
    bus_bits_per_s: float
    bus_area_m2: float
    leakage_w_per_m2: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Choices of a chip's designer; `paper` accounting ignores them.

    `double_buffered_writes`: a second set of dynamic arrays is written while the first is read.
    `fused_qk`: X·(W_q W_kᵀ)·Xᵀ, one d×d product a head instead of Q and K.
    `leakage_over`: how long an image leaks in a pipeline: its latency, as in 0.2, an upper bound;
    or the interval, which is what several images in a row take each.
    """

    schedule: Schedule = "sequential"
    double_buffered_writes: bool = False
    fused_qk: bool = False
    leakage_over: LeakageOver = field(default="latency", repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chip:
    """Everything the cost model asks of a chip."""

    name: str
    kind: str
    technology_nm: int
    citation: str
    static_array: ArrayModel
    dynamic_array: ArrayModel
    softmax: SoftmaxModel
    periphery: Periphery
    options: Options = field(default_factory=Options)
    #: every value that rests on an assumption: "field = value: why"
    assumptions: tuple[str, ...] = ()
    #: what the figures above include or leave out, in words
    notes: tuple[str, ...] = ()
    #: what is stored of the accuracy that its arrays leave; decides no price
    accuracy: tuple[AccuracyFigure, ...] = field(default=(), repr=False, compare=False)
    #: what a caller changed that asks for other changes
    warnings: tuple[str, ...] = field(default=(), repr=False, compare=False)
    #: None: one bus for the whole chip, as in 0.2
    network: Network | None = field(default=None, repr=False)

    @property
    def basis(self) -> Literal["estimate"]:
        """Where its numbers come from: they are computed from its parts."""
        return "estimate"

    @property
    def depends_on_density(self) -> bool:
        """Whether input-bit densities change any price on this chip."""
        return self.static_array.depends_on_density or self.dynamic_array.depends_on_density

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with any value of the chip."""
        added = f"{self._added_errors}{self._corrections}"
        return hashlib.sha256(f"{self!r}{added}".encode()).hexdigest()[:16]

    @property
    def _corrections(self) -> str:
        """What prices differ in from those of 0.2; empty where they do not."""
        found = (
            self.static_array.corrections,
            self.dynamic_array.corrections,
            self.network,
            self.options.leakage_over,
        )
        return repr(found) if found != (NOT_CORRECTED, NOT_CORRECTED, None, "latency") else ""

    @property
    def _added_errors(self) -> str:
        """The arrays' `ArrayErrors`, and what converts once an output; empty without either."""
        errors = (self.static_array.errors, self.dynamic_array.errors)
        once = (self.static_array.one_conversion, self.dynamic_array.one_conversion)
        told = repr(errors) if errors != (NO_ERRORS, NO_ERRORS) else ""
        return f"{told}{once}" if any(once) else told

    @property
    def converters(self) -> str:
        """Its arrays' converters and cells, in words: `SRAM 128x128, 1 bit a cell, 7-bit ADC`."""
        arrays = {a.name: a for a in (self.static_array, self.dynamic_array)}
        return "; ".join(
            f"{a.cell} {a.rows}x{a.columns}, {a.device.bits_per_cell} bit a cell, "
            f"{'no ADC' if a.adc_bits is None else f'{a.adc_bits}-bit ADC'}"
            for a in arrays.values()
        )

    @property
    def errors_key(self) -> str:
        """Sixteen hexadecimal digits that change with all that decides the accuracy it leaves."""
        arrays = tuple(
            (a.rows, a.weight_bits, a.input_bits, a.adc_bits, a.holds_bits_of_a_memory, a.device)
            for a in (self.static_array, self.dynamic_array)
        )
        return hashlib.sha256(f"{arrays!r}{self._added_errors}".encode()).hexdigest()[:16]


def warning_of(chip: Chip) -> str | None:
    """What a price of this chip has to be told with; None where nothing is known against it."""
    failing = [figure for figure in chip.accuracy if figure.fails]
    if not failing:
        return None
    return (
        f"{chip.name} is known to fail: {failing[0]}; its price is not of a chip that computes "
        "this model"
    )
