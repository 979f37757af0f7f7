"""Writing variants as files that run anywhere, and seeing that they do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import nn

from trex.api.data import Data, DataOptions, open_calibration, open_unlabelled
from trex.api.models import classes_of as head_size
from trex.api.runs import RunGiven, config_of, folder_of, object_of, original_of
from trex.errors import DataError, ExportError
from trex.exporters import Format, exporter
from trex.exporters.bundle import CONFIG, load_bundle, load_config
from trex.exporters.card import classes_of
from trex.exporters.folder import check_folder
from trex.exporters.variant import Exporter, Variant
from trex.exporters.write import Probe
from trex.exporters.write import export as write
from trex.progress import Callback, told_to
from trex.runtime.bundle import is_dynamic, load_dynamic, load_dynamic_config
from trex.search.pick import load_original_of_bundle, pick_record, pick_variant
from trex.store.run import Run
from trex.training.data import batches
from trex.training.transforms import InputConfig, input_config_from_json

_logger = logging.getLogger(__name__)

#: a plan's place among several for the original
ORIGINAL: Final = "original"

#: how the linear layers' inputs come by their ranges: as it runs, or of the verification images
Int8 = Literal["dynamic", "static"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Eighth:
    """A second ONNX file, linear layers in 8 bits.

    Attributes:
        mode: where ranges come from.
        data: images on which it is compared with the float file.
        reading: of these.
    """

    mode: Int8
    data: Data
    reading: DataOptions = field(default_factory=DataOptions)


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is to be written, and how.

    Attributes:
        source: a run, a fine-tuning, a bundle or a dynamic bundle.
        out: a new folder.
        format: of the files.
        pick: which plan.
        plans: several, and `original`; none takes `pick`.
        model: the object that a run was made with.
        weights: the original's, where they have moved.
        classes: names of the head's classes; none takes the model's.
        images: what files are verified with; None takes the run's calibration images.
        verify: images to verify with; 0 leaves it out.
        eighth: a second file in 8 bits.
    """

    source: RunGiven
    out: Path
    format: str = "bundle"
    pick: str = "best"
    plans: Sequence[str] = ()
    model: nn.Module | None = None
    weights: str | Path | None = None
    classes: Path | Sequence[str] = ()
    images: Data | None = None
    verify: int = 8
    eighth: Eighth | None = None


class Exported(NamedTuple):
    """What was written.

    Attributes:
        path: the folder.
        record: what `export.json` holds: the plans, and what verification found.
        loading: Python that loads it.
    """

    path: Path
    record: dict[str, Any]
    loading: str


def run(question: Question) -> Exported:
    """Write the variants and read them back.

    Raises:
        TrexError: anything the caller gave is missing or does not fit, or a file answers unlike
            its variant.
    """
    if question.verify and question.verify < 2:
        raise ExportError("--verify-images: at least 2", hint="or leave it out: --no-verify")
    chosen = exporter(question.format)
    check_folder(question.out, chosen)
    variants, images = _variants(question)
    if question.eighth and len(variants) > 1:
        raise ExportError("--int8 is of one plan", hint="name it with --pick")
    chosen.check(variants)
    probe = _probe(question, variants[0], images) if question.verify else None
    more = None
    if question.eighth is not None:
        more = _int8(question.eighth, question.out, variants[0], probe)
    return Exported(
        question.out,
        write(variants, question.out, chosen, probe, more),
        _loading(chosen, question.out),
    )


def export(
    run_or_bundle: RunGiven,
    out: str | Path,
    *,
    format: Format = "bundle",
    pick: str = "best",
    plans: Sequence[str] = (),
    images: Data | None = None,
    verify: int = 8,
    classes: str | Path | Sequence[str] = (),
    int8: Int8 | None = None,
    int8_data: Data | None = None,
    class_map: str | Path | None = None,
    model: nn.Module | None = None,
    weights: str | Path | None = None,
    progress: Callback | None = None,
) -> Exported:
    """Write variants as files that run anywhere, read them back, and compare.

    Args:
        run_or_bundle: a result; the folder of a run, a fine-tuning, a bundle or a dynamic bundle.
        out: a new folder.
        format: `bundle`, which `trex.load` reads; `onnx`; `torch-export`; `timm`; `uniform`.
        pick: of a run: `best`, `finetuned`, `knee`, a number of consumers, or a measured plan.
        plans: several of these, and `original`; in the place of `pick`.
        images: what files are verified with; None takes the run's calibration images.
        verify: how many of them; 0 leaves verification out.
        classes: names of the head's classes in order, or a file of them, one a line.
        int8: also an ONNX file of 8 bits.
        int8_data: images on which that is compared with the float file.
        class_map: a file of class folders in the head's order, of `int8_data`.
        model: the model object that a run was made with, where no name builds it.
        weights: the original's checkpoint, where it has moved.
        progress: called with every step forward.

    Raises:
        TrexError: anything given is missing or does not fit, or a file answers unlike its variant.
    """
    eighth = None
    if int8 is not None:
        check_int8(format, several=bool(plans), data=int8_data, verify=verify, mode=int8)
        assert int8_data is not None
        eighth = Eighth(mode=int8, data=int8_data, reading=DataOptions.of(class_map, False))
    question = Question(
        source=run_or_bundle,
        out=Path(out),
        format=format,
        pick=pick,
        plans=tuple(plans),
        model=object_of(run_or_bundle, model),
        weights=weights,
        classes=Path(classes) if isinstance(classes, str | Path) else tuple(classes),
        images=images,
        verify=verify,
        eighth=eighth,
    )
    with told_to(progress):
        return run(question)


def check_int8(format: str, *, several: bool, data: Data | None, verify: int, mode: Int8) -> None:
    """See that a file in 8 bits can be written and measured.

    Raises:
        ExportError: it cannot.
    """
    if format != "onnx" or several:
        raise ExportError("--int8 is of one ONNX file", hint="add --format onnx, and no --plans")
    if data is None:
        raise ExportError(
            "--int8 needs --data: what 8 bits lose is always measured",
            hint="give images of your own; labelled ones also tell the accuracy",
        )
    if not verify and mode == "static":
        raise ExportError(
            "--int8 static takes its ranges of the verification images",
            hint="leave --no-verify out, and give --images",
        )


def _loading(chosen: Exporter, folder: Path) -> str:
    return chosen.loading(str(folder))


def _int8(
    eighth: Eighth, out: Path, variant: Variant, probe: Probe | None
) -> Callable[[], dict[str, Any]]:
    """What writes and measures the file in 8 bits."""
    from trex.exporters.int8 import measure_int8, write_int8

    if variant.reads_texts:
        raise ExportError("--int8 is of image models", hint="leave it out")
    if eighth.mode == "static" and (probe is None or not probe.real):
        raise ExportError(
            "--int8 static would take its ranges of noise", hint="give images with --images"
        )
    classes = head_size(variant.model)
    images = open_calibration(eighth.data, variant.data_config, classes, eighth.reading)

    def make() -> dict[str, Any]:
        write_int8(out, eighth.mode, None if probe is None else probe.images)
        return {"int8": {"mode": eighth.mode, **measure_int8(out, images)}}

    return make


def _variants(question: Question) -> tuple[list[Variant], str | None]:
    """What is exported, and the images it was fitted on, where that is known."""
    names, source = _class_names(question.classes), folder_of(question.source)
    known = None
    if is_dynamic(source):
        found = _of_dynamic(question, source)
    else:
        bundles = [f for f in (source, source / "bundle") if (f / CONFIG).is_file()]
        if bundles:
            found = [_of_bundle(question, bundles[0])]
        else:
            found, known = _of_run(question, source)
    return [_with_classes(v, names or classes_of(v.model)) for v in found], known


def _of_bundle(question: Question, folder: Path) -> Variant:
    if question.pick != "best" or question.plans:
        raise ExportError(
            f"{folder_of(question.source)} holds one variant with its weights",
            hint="leave --pick and --plans out",
        )
    stored = load_config(folder)
    if question.weights is not None:  # not needed, but what was given has to be the right file
        load_original_of_bundle(folder, Path(question.weights))
    return Variant(
        name=stored["model"],
        arguments=stored["model_args"],
        model=load_bundle(folder, None if question.model is None else deepcopy(question.model)),
        data_config=input_config_from_json(stored["data"]),
        base_weights_sha256=stored["base_weights_sha256"],
        estimate=stored.get("estimate"),
        measured=stored.get("measured"),
    )


def _of_dynamic(question: Question, folder: Path) -> list[Variant]:
    """Plans of a dynamic bundle, by their names."""
    stored, model = load_dynamic_config(folder), load_dynamic(folder)
    names = question.plans or (model.plans if question.pick == "best" else [question.pick])
    points = [model.point(name) for name in names]
    return [
        Variant(
            name=stored["model"],
            arguments=stored["model_args"],
            model=model.variant(point.name),
            data_config=input_config_from_json(stored["data"]),
            base_weights_sha256=stored["base_weights_sha256"],
            estimate=dict(point.estimate),
            measured=None if point.measured is None else dict(point.measured),
            label=point.name,
        )
        for point in points
    ]


def _of_run(question: Question, folder: Path) -> tuple[list[Variant], str | None]:
    run = Run.open(folder)
    picks: Sequence[str] = question.plans or [question.pick]
    records = {pick: pick_record(run, pick) for pick in picks if pick != ORIGINAL}
    original = original_of(run, question.model, question.weights)
    config, manifest = config_of(run), run.manifest()
    variants = []
    for pick in picks:
        record = records.get(pick)
        model = pick_variant(run, pick, original)[1] if record else deepcopy(original.model).eval()
        variants.append(
            Variant(
                name=original.name,
                arguments=original.arguments,
                model=model,
                data_config=config,
                base_weights_sha256=original.weights_sha256,
                estimate=(record.estimate if record else manifest.baseline).as_json(),
                measured=record.selection.as_json() if record else None,
            )
        )
    return variants, manifest.calibration


def _with_classes(variant: Variant, classes: Sequence[str]) -> Variant:
    count = getattr(variant.model, "num_classes", len(classes))
    if classes and len(classes) != count:
        raise ExportError(
            f"--classes names {len(classes)} classes, the head has {count}",
            hint="give a name a line, in the head's order",
        )
    return replace(variant, classes=tuple(classes))


def _class_names(given: Path | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(given, Path):
        return tuple(given)
    try:
        lines = given.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ExportError(f"{given}: cannot be read: {error}", hint="give a text file") from None
    return tuple(line.strip() for line in lines if line.strip())


def _probe(question: Question, variant: Variant, known: str | None) -> Probe:
    """What files are verified with: the caller's images, the run's, else noise."""
    if question.images is not None:
        return _opened(question.images, question.verify, variant.data_config)
    if known is not None:
        try:
            return _opened(known, question.verify, variant.data_config)
        except DataError as error:
            _logger.warning("the run's images cannot be verified with: %s", error.message)
    _logger.warning("verified on noise; give images of your own with --images")
    return Probe(images=variant.example(question.verify), origin="noise", real=False)


def _opened(data: Data, count: int, config: InputConfig) -> Probe:
    images = open_unlabelled(data, config, DataOptions())
    some = images.subset(min(count, len(images)), 0)
    found = torch.cat([batch.images for batch in batches(some, 16)])
    if len(found) < 2:
        raise DataError(
            f"{images.origin}: fewer than 2 images can be read", hint="give more images"
        )
    return Probe(images=found, origin=images.origin, real=True)
