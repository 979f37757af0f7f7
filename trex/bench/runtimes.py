"""What runs a model: PyTorch as it is, compiled, or ONNX Runtime."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from trex.errors import BenchError
from trex.exporters.variant import Variant

Runtime = Literal["eager", "compile", "ort"]
RUNTIMES: Final[tuple[Runtime, ...]] = get_args(Runtime)
Dtype = Literal["fp32", "bf16", "int8"]
DTYPES: Final[tuple[Dtype, ...]] = get_args(Dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """How models run.

    Attributes:
        runtime: what runs them.
        device: `cpu` or `cuda`.
        threads: of a CPU.
        dtype: of weights and activations; int8 of linear layers alone, in ONNX Runtime.
    """

    runtime: Runtime = "eager"
    device: str = "cpu"
    threads: int = 1
    dtype: Dtype = "fp32"

    def check(self) -> None:
        """See that it can be had here, before any work.

        Raises:
            BenchError: the runtime has not this type or device, or is not installed.
            ExportError: ONNX Runtime is not installed; it names the extra.
        """
        if self.threads < 1:
            raise BenchError(f"--threads {self.threads} is too small", hint="at least 1")
        if self.runtime == "ort":
            if self.device != "cpu" or self.dtype == "bf16":
                raise BenchError(
                    f"ONNX Runtime is timed on the CPU in fp32 and int8, not {self.device} "
                    f"{self.dtype}",
                    hint="give --runtime eager or compile",
                )
            from trex.exporters.onnx import require_onnx

            require_onnx()
        elif self.dtype == "int8":
            raise BenchError(
                f"int8 is ONNX Runtime's, not {self.runtime}'s", hint="give --runtime ort"
            )
        if self.device != "cpu" and not torch.cuda.is_available():
            raise BenchError(f"there is no {self.device} here", hint="leave --device out")


def prepared(variant: Variant, setting: Setting, batch: int) -> Callable[[], object]:
    """A variant ready to run on one batch of noise; calling it is one forward.

    Raises:
        BenchError: the runtime cannot run it.
        ExportError: it cannot be written as ONNX.
    """
    inputs = variant.example(batch)
    if setting.runtime == "ort":
        run = _session(variant, setting, batch)
        return lambda: run(inputs)
    model = deepcopy(variant.model).eval().to(setting.device)
    inputs = inputs.to(setting.device)
    if setting.dtype == "bf16":
        model = model.to(torch.bfloat16)
        inputs = inputs.to(torch.bfloat16) if inputs.is_floating_point() else inputs
    function: Callable[[Tensor], object] = model
    if setting.runtime == "compile":
        function = torch.compile(model)

    def call() -> object:
        with torch.inference_mode():
            return function(inputs)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, while it compiles
            call()
    except Exception as error:  # compilers raise nearly anything
        raise BenchError(
            f"{variant.name} cannot run in {setting.runtime}, {setting.dtype}: "
            f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}",
            hint="compiling needs a C++ compiler; try --runtime eager or ort",
        ) from error
    return call


def _session(variant: Variant, setting: Setting, batch: int) -> Callable[[Tensor], Tensor]:
    from trex.exporters.int8 import INT8_MODEL, write_int8
    from trex.exporters.onnx import MODEL, graph_of, open_session, runner

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # a graph of one number of images: it is traced much faster, and runs as fast
        (folder / MODEL).write_bytes(graph_of(variant, batch=batch).SerializeToString())
        if setting.dtype == "int8":
            write_int8(folder, "dynamic")
        name = INT8_MODEL if setting.dtype == "int8" else MODEL
        return runner(open_session(folder / name, threads=setting.threads))
