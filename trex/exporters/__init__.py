"""Variants as files: one file here a format, each of which writes and verifies.

    from trex.exporters import exporter

    exporter("onnx").write(folder, [variant])

`trex.exporters.write.export` does all of it: checks, writes, verifies, records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

from trex.errors import ExportError

if TYPE_CHECKING:
    from trex.exporters.variant import Exporter

__all__ = ["FORMATS", "Format", "exporter"]

Format = Literal["bundle", "onnx", "torch-export", "timm", "uniform"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)

#: name -> (module, class); imported on first use, since some need libraries of the extra `onnx`
_EXPORTERS: Final[dict[str, tuple[str, str]]] = {
    "bundle": ("trex.exporters.bundle", "BundleExporter"),
    "onnx": ("trex.exporters.onnx", "OnnxExporter"),
    "torch-export": ("trex.exporters.torch_export", "TorchExporter"),
    "timm": ("trex.exporters.timm", "TimmExporter"),
    "uniform": ("trex.exporters.uniform", "UniformExporter"),
}


def exporter(name: str) -> Exporter:
    """The exporter of a format.

    Raises:
        ExportError: there is no such format.
    """
    import importlib

    if name not in _EXPORTERS:
        raise ExportError(f"{name!r} is not a format", hint=f"one of {', '.join(FORMATS)}")
    module, attribute = _EXPORTERS[name]
    found: Exporter = getattr(importlib.import_module(module), attribute)()
    return found
