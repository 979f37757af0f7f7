"""Measured devices: a real machine, whose latencies of whole models were fitted. No torch.

`trex profile` runs designed plans of one model in one runtime and fits seconds to what their
encoders do. Such a device prices latency alone: energy and area of a machine that nobody measured
are refused by name, and stand as NaN where a table needs a number.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.optimize import nnls

from trex.architecture import Architecture, Operation
from trex.errors import BudgetError, ChipError
from trex.hardware.chip import Options
from trex.hardware.prices import Busy, Densities, OperationPrice
from trex.hardware.workload import EncoderWork, Workload, workload
from trex.plan import Plan

#: the file of a measured device's folder
DEVICE_FILE: Final = "device.json"
SCHEMA: Final = 1

#: What seconds are fitted to, summed over encoders. In order: products with weights; products of
#: an encoder's own attention; products with a reused map; values of mixed maps; comparisons of
#: tokens; rounds of them, and merges; encoders that share rows; encoders with attention of their
#: own. Beside them stands the time outside the encoders.
FEATURES: Final = (
    "linear", "attention", "map", "mixing", "matching", "rounds", "shared", "own",
)  # fmt: skip
OUTSIDE: Final = "outside"

_MATCHING: Final = ("matching",)
_MIXING: Final = ("mixing", "own_rows")


class _Interval(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    median: float = Field(gt=0)
    low: float = Field(gt=0)
    high: float = Field(gt=0)


class _Run(BaseModel):
    """One plan as it was timed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    plan: str
    #: whether coefficients were fitted to it; the others tell how good they are
    fitted: bool
    #: seconds of one forward of a whole batch
    latency_s: _Interval
    #: its seconds over the original's, of the same rounds
    ratio: _Interval
    predicted_s: float = Field(gt=0)


class Profile(BaseModel):
    """A machine running one model in one way, at one batch size; `device.json` holds several."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str
    #: what decides its operations: 16 digits of them
    architecture_sha256: str
    runtime: Literal["eager", "compile", "ort"]
    device: str
    threads: int = Field(ge=1)
    dtype: Literal["fp32", "bf16", "int8"]
    batch: int = Field(ge=1)
    clock: Literal["cpu", "wall"]
    rounds: int = Field(ge=1)
    #: seconds a unit of every feature, and outside the encoders, of one forward of the batch
    coefficients: dict[str, float]
    original_s: float = Field(gt=0)
    #: relative: how far predictions lie from what was measured, at least the noise of that
    spread: float = Field(gt=0)
    runs: tuple[_Run, ...]
    machine: dict[str, Any]
    versions: dict[str, str]


class _DeviceFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["measured"]
    schema_: int = Field(alias="schema")
    profiles: tuple[Profile, ...] = Field(min_length=1)


def architecture_hash(model: Architecture) -> str:
    """16 hexadecimal digits that change with any operation of a model."""
    text = "\n".join(
        f"{op.kind} {op.part} {op.vectors} {op.in_features} {op.out_features} {op.groups}"
        for op in model.operations
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredDevice:
    """A machine as `--hw` takes it; everywhere a chip stands, with latency alone.

    Attributes:
        name: of its folder, and the batch size where it holds several.
        profile: what was measured.
        forced: price models that it was not measured with too.
    """

    name: str
    profile: Profile
    forced: bool = False

    @property
    def basis(self) -> Literal["measured"]:
        """Where its numbers come from; a chip's are an `estimate`."""
        return "measured"

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with anything that was measured."""
        return hashlib.sha256(self.profile.model_dump_json().encode()).hexdigest()[:16]

    @property
    def depends_on_density(self) -> Literal[False]:
        """Whether input-bit densities change any price: a machine's latency knows none."""
        return False

    @property
    def spread(self) -> float:
        """How much closer, relatively, latencies cannot be told apart."""
        return self.profile.spread

    def check(self, model: Architecture) -> None:
        """See that the device was measured with this very model.

        Raises:
            ChipError: it was not, and is not `forced`.
        """
        if not self.forced and architecture_hash(model) != self.profile.architecture_sha256:
            raise ChipError(
                f"{self.name} was measured with {self.profile.model}, not with {model.model} as "
                "it is here (model, image size, classes)",
                hint=f"profile it: trex profile --model {model.model}; --force goes on",
            )

    def refuse(self, quantities: Sequence[str]) -> None:
        """Refuse what nobody measured.

        Raises:
            BudgetError: any of `energy`, `area`, `edap` is among the quantities.
        """
        for quantity in quantities:
            if quantity in ("energy", "area", "edap"):
                raise BudgetError(
                    f"{self.name} is a measured machine: its latency is known, its {quantity} "
                    "is not",
                    hint=f"leave --max-{quantity} out, or give a chip with --hw",
                )

    def tells_apart(self, first_s: float, second_s: float) -> bool:
        """Whether two predicted latencies differ by more than the spread."""
        return abs(first_s - second_s) > self.spread * min(first_s, second_s)

    def latency_s(self, work: Workload) -> float:
        """Predicted seconds of one forward of a batch.

        Raises:
            ChipError: it is another model's work.
        """
        self.check(work.architecture)
        found = features_of(work)
        per = self.profile.coefficients
        return per[OUTSIDE] + sum(per[name] * found[name] for name in FEATURES)

    def pricer(self) -> MeasuredPricer:
        """What cost tables price encoders with."""
        return MeasuredPricer(device=self)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredPricer:
    """A measured device with the interface of `trex.hardware.system.Pricer`.

    Every price is one operation's with seconds, and NaN for energy and area.
    """

    device: MeasuredDevice
    accounting: Literal["measured"] = "measured"
    options: Options = field(default_factory=Options)
    densities: Densities | None = None
    leaks_over_interval: Literal[False] = False

    def encoder(self, work: EncoderWork) -> tuple[OperationPrice, ...]:
        """One price that holds the encoder's whole time."""
        found = encoder_features(work)
        per = self.device.profile.coefficients
        seconds = sum(per[name] * found[name] for name in FEATURES)
        return (_price(work.operations[0], seconds),)

    def outside(self, op: Operation) -> tuple[OperationPrice, ...]:
        """Nothing: the time outside the encoders is the device's own, whatever the plan."""
        return ()

    def once(self, heads: int) -> tuple[float, float, float]:
        """Seconds outside the encoders; area (m²) and leakage (W) that nobody measured."""
        return self.device.profile.coefficients[OUTSIDE], math.nan, math.nan


def _price(op: Operation, seconds: float) -> OperationPrice:
    return OperationPrice(
        operation=op,
        energy_j=(("unmeasured", math.nan),),
        busy=(Busy(component="machine", total_s=seconds, fill_s=seconds),),
        area_m2=(("unmeasured", math.nan),),
    )


def encoder_features(work: EncoderWork) -> dict[str, float]:
    """What one encoder does, by `FEATURES`."""
    found = dict.fromkeys(FEATURES, 0.0)
    reuse = work.plan.reuse
    for op in work.operations:
        if op.part in _MATCHING:
            found["matching"] += op.macs
            found["rounds"] += 1 if op.macs else 0
        elif op.part in _MIXING:
            found["mixing"] += op.elements * max(op.in_features, 1)
        elif op.kind == "static_matmul":
            found["linear"] += op.macs
        elif op.kind == "dynamic_matmul":
            found["map" if reuse is not None else "attention"] += op.macs
    found["rounds"] += bool(work.plan.pairs)
    found["shared"] += bool(work.plan.shared)
    found["own"] += reuse is None
    return found


def features_of(work: Workload) -> dict[str, float]:
    """What all encoders do, by `FEATURES`."""
    whole = dict.fromkeys(FEATURES, 0.0)
    for item in work.body:
        if isinstance(item, EncoderWork):
            for name, value in encoder_features(item).items():
                whole[name] += value
    return whole


def fit_coefficients(model: Architecture, latencies_s: Mapping[Plan, float]) -> dict[str, float]:
    """Seconds a unit of every feature, none below zero, that explain whole-model latencies.

    Relative errors are made least. What no plan has is given no time.

    Args:
        model: whose plans.
        latencies_s: of one forward of a batch.
    """
    rows = [features_of(workload(model, plan)) for plan in latencies_s]
    table = np.array([[1.0, *(row[name] for name in FEATURES)] for row in rows])
    seconds = np.array(list(latencies_s.values()))
    scale = np.where(table.max(axis=0) > 0, table.max(axis=0), 1.0)
    solution, _ = nnls(table / scale / seconds[:, None], np.ones(len(seconds)))
    per: NDArray[np.float64] = solution / scale
    return dict(zip((OUTSIDE, *FEATURES), map(float, per), strict=True))


def write_device(folder: Path, profiles: Sequence[Profile]) -> None:
    """Write `device.json`.

    Raises:
        StorageError: it cannot be written.
    """
    from trex.files import write_atomic

    content = {
        "kind": "measured",
        "schema": SCHEMA,
        "profiles": [profile.model_dump(mode="json") for profile in profiles],
    }
    write_atomic(folder / DEVICE_FILE, json.dumps(content, indent=2) + "\n")


def read_device(folder: Path, batch: int | None = None) -> MeasuredDevice:
    """A measured device of a folder.

    Args:
        folder: that `trex profile` wrote.
        batch: which of several batch sizes.

    Raises:
        ChipError: it is missing, damaged, of another version, or the batch size is not there, or
            not said where there are several.
    """
    by_batch = {profile.batch: profile for profile in read_profiles(folder)}
    name = folder.resolve().name
    if batch is None and len(by_batch) == 1:
        (batch,) = by_batch
    elif batch is not None:
        name = f"{name}@{batch}"
    if batch not in by_batch:
        names = " or ".join(f"{folder}@{number}" for number in sorted(by_batch))
        raise ChipError(
            f"{folder} was measured with batches of {', '.join(map(str, sorted(by_batch)))}",
            hint=f"name one: --hw {names}",
        )
    return MeasuredDevice(name=name, profile=by_batch[batch])


def read_profiles(folder: Path) -> tuple[Profile, ...]:
    """All profiles of a measured device's folder.

    Raises:
        ChipError: the file is missing, damaged or of another version.
    """
    file = folder / DEVICE_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        found = _DeviceFile.model_validate(content)
    except (OSError, ValueError) as error:
        where = ""
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            where = f": {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ChipError(
            f"{file} is no measured device, or is damaged{where or f': {error}'}",
            hint="measure it again with trex profile",
        ) from None
    if found.schema_ != SCHEMA:
        raise ChipError(
            f"{file} is of schema {found.schema_}, this TReX reads {SCHEMA}",
            hint="measure it again with trex profile",
        )
    return found.profiles
