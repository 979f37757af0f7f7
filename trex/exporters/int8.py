"""ONNX in 8 bits: linear layers, weights by channel; everything else stays in float.

`dynamic` finds the ranges of a layer's inputs anew in every forward. `static` takes those of
calibration images and keeps them in the file, for targets that need ranges (arXiv 2004.09602).
Only products with weights are quantised: residual sums, norms, softmax and attention's own
products stay in float, without which vision transformers fall apart.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor

from trex.errors import ExportError
from trex.exporters.onnx import MODEL, open_session, runner
from trex.files import write_atomic
from trex.training.data import ImageSet, batches
from trex.training.evaluate import compare_paired

Mode = Literal["dynamic", "static"]
INT8_MODEL: Final = "model_int8.onnx"

#: products with weights are these; `MatMul` of two activations is left out by `MatMulConstBOnly`
_LINEAR: Final = ["MatMul", "Gemm"]
_OPTIONS: Final = {"MatMulConstBOnly": True}


def write_int8(folder: Path, mode: Mode, images: Tensor | None = None) -> Path:
    """Quantise an export's `model.onnx` into `model_int8.onnx` beside it.

    Args:
        folder: of the export.
        mode: see above.
        images: inputs whose ranges `static` takes.

    Raises:
        ExportError: the file cannot be quantised.
        StorageError: it cannot be written.
    """
    from onnxruntime.quantization import (
        QuantFormat,
        QuantType,
        quant_pre_process,
        quantize_dynamic,
        quantize_static,
    )

    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries about each other
        prepared, made = Path(scratch) / "prepared.onnx", Path(scratch) / INT8_MODEL
        try:
            quant_pre_process(str(folder / MODEL), str(prepared), skip_symbolic_shape=True)
            if mode == "dynamic":
                quantize_dynamic(
                    prepared, made, op_types_to_quantize=_LINEAR, per_channel=True,
                    weight_type=QuantType.QInt8, extra_options=_OPTIONS,
                )  # fmt: skip
            else:
                assert images is not None
                quantize_static(
                    prepared, made, _reader(images), quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=_LINEAR, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                    extra_options=_OPTIONS,
                )  # fmt: skip
        except Exception as error:  # the quantiser raises nearly anything
            raise ExportError(
                f"{folder / MODEL} cannot be quantised: {type(error).__name__}: {error}",
                hint="report it; leave --int8 out for a file in float",
            ) from error
        write_atomic(folder / INT8_MODEL, made.read_bytes())
    return folder / INT8_MODEL


def measure_int8(folder: Path, images: ImageSet, *, batch_size: int = 16) -> dict[str, Any]:
    """The file in 8 bits beside the one in float, on the user's images, as plain values.

    Agreement is of first guesses; accuracies, where there are labels, are paired. Fractions all.

    Raises:
        DataError: no image can be read.
    """
    names = (INT8_MODEL, MODEL)
    runs = [runner(open_session(folder / name)) for name in names]
    logits: list[list[Tensor]] = [[], []]
    labels = []
    for batch in batches(images, batch_size):
        for run, kept in zip(runs, logits, strict=True):
            kept.append(run(batch.images))
        labels.append(batch.labels)
    ours, floats = (torch.cat(kept) for kept in logits)
    of_images = torch.cat(labels)
    sizes = [(folder / name).stat().st_size for name in names]
    found: dict[str, Any] = {
        "data": images.origin,
        "n": len(of_images),
        "agreement": float((ours.argmax(1) == floats.argmax(1)).double().mean()),
        "bytes": sizes[0],
        "float_bytes": sizes[1],
    }
    if bool((of_images >= 0).all()):
        paired = compare_paired(ours, floats, of_images)
        found |= {
            "top1": paired.top1,
            "float_top1": paired.baseline_top1,
            "difference": paired.difference,
            "ci95": list(paired.ci95),
        }
    return found


def _reader(images: Tensor) -> Any:
    """Images one by one, as the quantiser asks for them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[Tensor] = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self._left, None)
            return None if image is None else {"images": image[None].numpy()}

    return Reader()
