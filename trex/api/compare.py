"""TReX beside other methods and models, on one chip and accounting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trex.api.data import Data, DataOptions, check_sources, open_calibration, open_labelled
from trex.api.devices import DeviceGiven, accounting_of, open_device
from trex.api.models import (
    Model,
    ModelOptions,
    classes_of,
    data_config,
    load_model,
    name_shown,
    structure_given,
)
from trex.api.plans import PlanGiven, plan_of
from trex.api.runs import RunGiven, folder_of
from trex.compare import comparison
from trex.compare.measure import Kept
from trex.compare.options import CompareOptions, Row
from trex.compare.registry import NAMES, check_names
from trex.compare.saved import read_saved
from trex.compare.tables import legend, text_table
from trex.compare.target import target
from trex.compare.variants import has_class_token
from trex.errors import DataError
from trex.files import make_folder
from trex.hardware import DeviceAccounting, MeasuredDevice
from trex.models.registry import architecture_of
from trex.progress import Callback, told_to
from trex.search.budget import Limit

#: of latency, where nobody gives one
LIMIT = "0.6x"
#: calibration images that encoders are chosen with
IMAGES = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is compared, as a caller asks it.

    Attributes:
        max_latency: every method gets the setting that comes closest from below.
        methods: names; none takes all, and other models.
        runs: TReX variants: run folders, fine-tunings, bundles.
        plans: by hand.
        data: labelled images to measure on; None only prices.
        calibration: images to choose encoders with; never those of `data`.
        calibration_images: how many of them; fits use all.
        amp: measure and choose in mixed precision.
        seed: which calibration images.
        out: tables, and what is measured, so that the same call goes on where it stopped.
    """

    model: Model
    device: DeviceGiven
    options: ModelOptions = field(default_factory=ModelOptions)
    reading: DataOptions = field(default_factory=DataOptions)
    accounting: DeviceAccounting | None = None
    force: bool = False
    max_latency: str = LIMIT
    methods: Sequence[str] = ()
    runs: Sequence[Path] = ()
    plans: Sequence[PlanGiven] = ()
    data: Data | None = None
    calibration: Data | None = None
    calibration_images: int = IMAGES
    amp: bool = False
    seed: int = 0
    out: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """A comparison's rows, and what was asked.

    Attributes:
        rows: the original, methods within the limit, beyond it, published ones, other models.
        options: what was compared, and with what.
    """

    rows: list[Row]
    options: CompareOptions

    @property
    def spread(self) -> float | None:
        """Of a measured machine's latencies; None on a chip."""
        device = self.options.target.device
        return device.spread if isinstance(device, MeasuredDevice) else None

    def __str__(self) -> str:
        images = self.options.images
        data = "" if images is None else images.origin
        told = legend(self.rows, self.options.target.accounting, data, self.spread)
        return "\n".join([*text_table(self.rows), "", *told])


def prepare(asked: Asked) -> CompareOptions:
    """Check everything a comparison needs, before any work.

    Raises:
        TrexError: anything the caller gave is missing, malformed or does not fit.
    """
    methods = check_names(asked.methods or NAMES)
    limit = Limit.parse("latency", asked.max_latency)
    plans = tuple(dict.fromkeys(map(plan_of, asked.plans)))
    device = open_device(asked.device, force=asked.force)
    accounting = accounting_of(asked.accounting, device, "full")
    loaded = images = calibration = fitting = None
    if asked.data is None:
        given = {
            "calib": asked.calibration,
            "class_map": asked.reading.class_map,
            "weights": asked.options.weights,
        }
        for flag, value in given.items():
            if value is not None:
                raise DataError(
                    f"--{flag.replace('_', '-')} is for measuring, and there is no --data",
                    hint="add --data with labelled images, or leave it out",
                )
        model, name = structure_given(asked.model, asked.options), name_shown(asked.model)
    else:
        check_sources(asked.data, asked.calibration)
        loaded = load_model(asked.model, asked.options)
        model, name = loaded.model, loaded.name
        config, classes = data_config(loaded, asked.options), classes_of(model)
        images = open_labelled(asked.data, config, classes, asked.reading)
        if asked.calibration is not None:
            fitting = open_calibration(asked.calibration, config, classes, asked.reading)
            few = fitting.subset(min(asked.calibration_images, len(fitting)), asked.seed)
            # a class's images lie side by side, and a part of them is only compared on
            calibration = few.shuffled(asked.seed)
    compared = target(
        architecture_of(model, name),
        sum(parameter.numel() for parameter in model.parameters()),
        device,
        accounting,
    )
    for plan in plans:
        plan.validate(compared.model.layout)
    limit_s = limit.absolute(compared.original().latency_s)
    weights_sha256 = loaded.weights_sha256 if loaded else None
    runs = tuple(read_saved(path, compared, weights_sha256, limit_s) for path in asked.runs)
    if asked.out is not None:
        make_folder(asked.out)
    return CompareOptions(
        target=compared,
        class_token=has_class_token(model),
        limit_s=limit_s,
        methods=methods,
        saved=runs,
        plans=plans,
        loaded=loaded,
        images=images,
        calibration=calibration,
        fitting=fitting,
        amp=asked.amp,
        kept=Kept(asked.out / "measured.jsonl" if asked.out else None),
    )


def run(asked: Asked) -> Compared:
    """Compare.

    Raises:
        TrexError: as `prepare`; or something cannot be priced or measured at all.
    """
    options = prepare(asked)
    return Compared(rows=comparison.compare(options), options=options)


def compare(
    model: Model,
    device: DeviceGiven,
    *,
    max_latency: str = LIMIT,
    methods: Sequence[str] = (),
    runs: Sequence[RunGiven] = (),
    plans: Sequence[PlanGiven] = (),
    data: Data | None = None,
    calibration: Data | None = None,
    calibration_images: int = IMAGES,
    accounting: DeviceAccounting | None = None,
    amp: bool = False,
    out: str | Path | None = None,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    img_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_map: str | Path | None = None,
    strict: bool = False,
    seed: int = 0,
    force: bool = False,
    progress: Callback | None = None,
) -> Compared:
    """TReX's variants beside other methods and other models; `print` shows the table.

    Args:
        model: a name, or a model object.
        device: as in `trex.search`.
        max_latency: every method gets the setting that comes closest from below.
        methods: only these; none takes all, and other models.
        runs: results, or folders of runs, fine-tunings and bundles.
        plans: plans by hand.
        data: labelled images to measure on; None only prices.
        calibration: images to choose encoders with; never those of `data`.
        calibration_images: how many of them; fits use all.
        accounting: of a chip; None is `full`.
        amp: measure and choose in mixed precision.
        out: keeps what is measured, so that the same call goes on where it stopped.
        weights: as in `trex.search`.
        num_classes: as in `trex.search`.
        img_size: as in `trex.search`.
        mean: as in `trex.search`.
        std: as in `trex.search`.
        class_map: as in `trex.search`.
        strict: as in `trex.search`.
        seed: which calibration images.
        force: as in `trex.search`.
        progress: called with every step forward.

    Raises:
        TrexError: anything given is missing, malformed or does not fit; before any work.
    """
    asked = Asked(
        model=model,
        device=device,
        options=ModelOptions(
            weights=weights,
            num_classes=num_classes,
            img_size=img_size,
            mean=None if mean is None else tuple(mean),
            std=None if std is None else tuple(std),
        ),
        reading=DataOptions.of(class_map, strict),
        accounting=accounting,
        force=force,
        max_latency=max_latency,
        methods=tuple(methods),
        runs=tuple(map(folder_of, runs)),
        plans=tuple(plans),
        data=data,
        calibration=calibration,
        calibration_images=calibration_images,
        amp=amp,
        seed=seed,
        out=None if out is None else Path(out),
    )
    with told_to(progress):
        return run(asked)
