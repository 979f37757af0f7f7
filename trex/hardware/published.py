"""A chip's own published results, recomputed: `published.yaml` beside `chip.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, model_validator

from trex.architecture import Architecture, Operation, vit_encoder
from trex.config import Document, FieldProblem, StrictModel, did_you_mean, read_document
from trex.errors import ChipError
from trex.hardware.chip import Chip
from trex.hardware.cost import Cost, price
from trex.hardware.load import chip_path, load_chip
from trex.hardware.prices import Accounting
from trex.hardware.quantities import Count
from trex.hardware.workload import workload
from trex.plan import Layout, Plan

PUBLISHED_FILE: Final = "published.yaml"

Quantity = Literal[
    "latency_s", "energy_j", "area_m2", "edap_mj_ms_mm2", "tops_per_w", "tops_per_mm2"
]


class EncodersSpec(StrictModel):
    """The encoders of a vision transformer; nothing around them."""

    depth: Count
    tokens: Count
    dim: Count
    heads: Count
    mlp_hidden: Count

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> EncodersSpec:
        if self.dim % self.heads:
            raise FieldProblem(
                ("heads",),
                f"{self.heads} heads do not divide a width of {self.dim}",
                "give a divisor of `dim`",
            )
        return self

    def architecture(self, name: str) -> Architecture:
        """The model these dimensions make."""
        encoders = (
            vit_encoder(
                i,
                tokens=self.tokens,
                dim=self.dim,
                heads=self.heads,
                mlp_hidden=self.mlp_hidden,
            )
            for i in range(self.depth)
        )
        layout = Layout(stages=(0,) * self.depth, tokens=self.tokens)
        return Architecture(model=name, body=tuple(encoders), layout=layout)


class LayerSpec(StrictModel):
    """One weight matrix and the vectors it multiplies."""

    vectors: Count
    in_features: Count
    out_features: Count

    def architecture(self, name: str) -> Architecture:
        """A model of this layer alone."""
        layer = Operation(
            name=name,
            kind="static_matmul",
            part="layer",
            vectors=self.vectors,
            in_features=self.in_features,
            out_features=self.out_features,
        )
        return Architecture(model=name, body=(layer,))


class ResultSpec(StrictModel):
    """One published number. `components` restricts a latency, energy or area to these.

    `tolerance` is relative. `known_difference` says why ours is not within it.
    """

    name: str = Field(min_length=1)
    of: str
    n_reuse: int = Field(default=0, ge=0)
    #: of encoders `paper` unless given; a single layer has `full` only
    accounting: Accounting | None = None
    quantity: Quantity
    components: tuple[str, ...] = ()
    value: float = Field(gt=0)
    tolerance: float = Field(gt=0, lt=1)
    known_difference: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _components_of_a_sum(self) -> ResultSpec:
        if self.components and self.quantity not in ("latency_s", "energy_j", "area_m2"):
            raise FieldProblem(
                ("components",),
                f"{self.quantity} has no components",
                "give components only with latency_s, energy_j or area_m2",
            )
        if len(set(self.components)) < len(self.components):
            raise FieldProblem(("components",), "names one twice", "keep one of them")
        return self


class PublishedSpec(StrictModel):
    """A source's results and what they are of."""

    source: str = Field(min_length=1)
    #: dimensions -> encoders or single layers the results are of
    encoders: dict[str, EncodersSpec] = Field(default_factory=dict)
    layers: dict[str, LayerSpec] = Field(default_factory=dict)
    results: tuple[ResultSpec, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_meaning_a_name(self) -> PublishedSpec:
        for name in self.layers.keys() & self.encoders.keys():
            raise FieldProblem(("layers", name), "is also in `encoders`", "rename one of them")
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A published number beside ours."""

    name: str
    quantity: str
    published: float
    ours: float
    tolerance: float
    known_difference: str | None

    @property
    def deviation(self) -> float:
        """Ours over the published number, minus one."""
        return self.ours / self.published - 1

    @property
    def agrees(self) -> bool:
        """Whether the deviation is within the tolerance."""
        return abs(self.deviation) <= self.tolerance


@dataclass(frozen=True, kw_only=True, slots=True)
class ChipReport:
    """What checking a chip found; `comparisons` is empty where nothing is published beside it."""

    chip: Chip
    source: str | None
    comparisons: tuple[Comparison, ...]

    @property
    def disagreements(self) -> tuple[Comparison, ...]:
        """Numbers out of tolerance for which no reason is given."""
        return tuple(c for c in self.comparisons if not c.agrees and c.known_difference is None)

    @property
    def ok(self) -> bool:
        """Whether every published number is met or its difference explained."""
        return not self.disagreements


def check_chip(name: str | Path, overrides: Mapping[str, Any] | None = None) -> ChipReport:
    """Load a chip and recompute what is published beside it.

    Args:
        name: as in `load_chip`.
        overrides: as in `load_chip`; what is published is of the file's own values, so with any
            nothing is compared.

    Raises:
        ChipError: the chip, its `published.yaml` or its `accuracy.yaml` is not valid.
    """
    chip = load_chip(name, overrides)
    if overrides:
        return ChipReport(chip=chip, source=None, comparisons=())
    path = chip_path(name).parent / PUBLISHED_FILE
    if not path.is_file():
        return ChipReport(chip=chip, source=None, comparisons=())
    document = read_document(path, ChipError)
    spec = document.validate(PublishedSpec)
    return ChipReport(
        chip=chip,
        source=spec.source,
        comparisons=tuple(_compare(document, spec, i, chip) for i in range(len(spec.results))),
    )


def _compare(document: Document, spec: PublishedSpec, index: int, chip: Chip) -> Comparison:
    result = spec.results[index]
    known: dict[str, EncodersSpec | LayerSpec] = {**spec.encoders, **spec.layers}
    if result.of not in known:
        raise document.problem(
            ("results", index, "of"),
            f"{result.of!r} is not described",
            did_you_mean(result.of, list(known)),
        )
    described = known[result.of]
    layer = isinstance(described, LayerSpec)
    if layer and result.accounting not in (None, "full"):
        raise document.problem(
            ("results", index, "accounting"),
            f"{result.accounting} accounting does not price a single layer",
            "leave it out",
        )
    encoders = described.depth if isinstance(described, EncodersSpec) else 1
    if result.n_reuse >= encoders:
        raise document.problem(
            ("results", index, "n_reuse"),
            f"{result.n_reuse} encoders cannot reuse in {result.of!r}",
            f"at most {encoders - 1}: the first has none before it",
        )
    plan = Plan.nearest(range(1, result.n_reuse + 1))
    accounting: Accounting = "full" if layer else result.accounting or "paper"
    cost = price(workload(described.architecture(result.of), plan), chip, accounting)
    return Comparison(
        name=result.name,
        quantity=" ".join((" + ".join(result.components), result.quantity)).strip(),
        published=result.value,
        ours=_ours(document, index, result, cost),
        tolerance=result.tolerance,
        known_difference=result.known_difference,
    )


def _ours(document: Document, index: int, result: ResultSpec, cost: Cost) -> float:
    if not result.components:
        return float(getattr(cost, result.quantity))
    parts = cost.by_component()
    for name in result.components:
        if name not in parts:
            raise document.problem(
                ("results", index, "components"),
                f"no component {name!r}",
                did_you_mean(name, list(parts)),
            )
    return sum(float(getattr(parts[name], result.quantity)) for name in result.components)
