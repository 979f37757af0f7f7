"""ONNX: for ONNX Runtime and all that reads its files. Needs the extra `onnx`.

model.onnx        graph and weights, for any number of images; preprocessing, classes, plan and
                  provenance are its metadata
README.md         the model card
tokenizer.json    of a text model

Several plans of one model are several graphs, named by the plans' keys, over one file of weights,
each kept once; `plans.json` says which is which, and `sessions` also keeps them once in memory.
Where all of them have a price, `switch.py` is a loop that takes a plan by budget.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from trex.errors import ExportError
from trex.exporters.card import CARD, model_card, prepare_photo, provenance
from trex.exporters.graph import Counts, program_of
from trex.exporters.variant import Check, Variant, write_tokenizer
from trex.exporters.verify import compare
from trex.files import write_atomic
from trex.text.tokenizer import FILE as TOKENIZER

MODEL: Final = "model.onnx"
WEIGHTS: Final = "weights.bin"
PLANS: Final = "plans.json"
SWITCH: Final = "switch.py"
OUTPUT: Final = "logits"
OPSET: Final = 20

_GRAPH: Final = re.compile(r"(model|model_int8|[0-9a-f]{16})\.onnx")
#: Larger files cannot hold their weights (protobuf's limit is 2 GiB).
_MOST_BYTES: Final = 1_900_000_000
#: Smaller constants stay in the graph: they are shapes and scales, which runtimes fold.
_LEAST_SHARED: Final = 1024
_ALIGNMENT: Final = 64
_INSTALL: Final = 'pip install "trex-vit[onnx]"'

_LOADING: Final = """\
import json
import numpy as np, onnxruntime
{imports}
session = onnxruntime.InferenceSession("{file}")
facts = session.get_modelmeta().custom_metadata_map
{prepare}
logits = session.run(None, {{"{name}": {value}}})[0]
print({answer})"""


_SWITCHING: Final = """\
\"\"\"Switch between the plans of this folder as the budget changes: NumPy and ONNX Runtime alone.

    python switch.py BUDGET_IN_SECONDS ...
\"\"\"

import json
import pathlib
import sys
import time

import numpy as np
import onnxruntime

folder = pathlib.Path(__file__).resolve().parent
listed = json.loads((folder / "plans.json").read_text())
files = sorted(listed, key=lambda file: listed[file]["estimate"]["latency_s"])
sessions = {{file: onnxruntime.InferenceSession(str(folder / file)) for file in files}}


def within(budget_s):
    \"\"\"The dearest plan within a budget; the cheapest where none is.\"\"\"
    fitting = [file for file in files if listed[file]["estimate"]["latency_s"] <= budget_s]
    return (fitting or files[:1])[-1]


given = np.zeros({shape}, "{dtype}")  # one of yours, prepared as README.md says
costs = [listed[file]["estimate"]["latency_s"] for file in files]
for budget_s in map(float, sys.argv[1:] or reversed(costs)):
    file = within(budget_s)
    started = time.perf_counter()
    (logits,) = sessions[file].run(None, {{"{name}": given}})
    taken = time.perf_counter() - started
    plan = listed[file]
    print(
        f"{{budget_s:.4g}} s: {{plan.get('name') or file}}, {{plan['plan'] or 'as it is'}}; first "
        f"guess {{logits[0].argmax()}}, {{1e3 * taken:.1f}} ms on this machine"
    )
"""


class OnnxExporter:
    """ONNX, by torch's own exporter."""

    name: Final = "onnx"
    main: Final = MODEL
    several: Final = True

    def check(self, variants: Sequence[Variant]) -> None:
        """See that the libraries are there; what can be traced, only tracing tells.

        Raises:
            ExportError: one is not.
        """
        require_onnx()

    def owns(self, file: str) -> bool:
        """Graphs, weights, cards."""
        return file in (WEIGHTS, PLANS, SWITCH, CARD, TOKENIZER) or bool(_GRAPH.fullmatch(file))

    def write(self, folder: Path, variants: Sequence[Variant]) -> None:
        """Trace every variant; graphs are written last.

        Raises:
            ExportError: one cannot be traced, or its operations are not in ONNX.
            StorageError: it cannot be written.
        """
        graphs = {file: graph_of(v) for file, v in zip(files_of(variants), variants, strict=True)}
        if len(variants) > 1 or any(g.ByteSize() > _MOST_BYTES for g in graphs.values()):
            write_atomic(folder / WEIGHTS, _move_weights(graphs.values()))
        first = variants[0]
        write_tokenizer(first, folder)
        write_atomic(folder / CARD, self._card(variants))
        if len(variants) > 1:
            listed = {
                file: {
                    **({"name": v.label} if v.label else {}),
                    "plan": str(v.plan),
                    "estimate": v.estimate,
                    "measured": v.measured,
                }
                for file, v in zip(graphs, variants, strict=True)
            }
            write_atomic(folder / PLANS, json.dumps(listed, indent=2) + "\n")
            if all(v.estimate is not None for v in variants):
                write_atomic(folder / SWITCH, _switching(first))
        for file, graph in graphs.items():
            write_atomic(folder / file, graph.SerializeToString())

    def verify(self, folder: Path, variants: Sequence[Variant], images: Tensor) -> list[Check]:
        """Run every file in ONNX Runtime, and count in its graph."""
        checks = []
        for file, variant in zip(files_of(variants), variants, strict=True):
            run = runner(open_session(folder / file))
            counts = counts_of_file(folder / file)
            checks.append(compare(str(folder / file), run, variant, images, counts))
        return checks

    def loading(self, folder: str) -> str:
        """By ONNX Runtime."""
        return f'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{folder}/{MODEL}")'

    def _card(self, variants: Sequence[Variant]) -> str:
        first, files = variants[0], files_of(variants)
        description = (
            f"`{files[0]}` runs in ONNX Runtime 1.20 or later, and wherever opset {OPSET} does, "
            "for any number of images; neither PyTorch nor TReX is needed."
        )
        if len(variants) > 1:
            names = "; ".join(
                f"`{file}` with `{variant.plan}`"
                for file, variant in zip(files, variants, strict=True)
            )
            description += (
                f" Several plans share `{WEIGHTS}`: {names}. `trex.exporters.onnx.sessions` opens "
                "them with their weights once in memory."
            )
        return model_card(first, files=description, loading=loading(first, files[0]))


def require_onnx() -> None:
    """See that onnx, its script library and its runtime are installed.

    Raises:
        ExportError: one is not; it names the extra.
    """
    import importlib.util

    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise ExportError(f"{name} is not installed, which ONNX files need", hint=_INSTALL)


def files_of(variants: Sequence[Variant]) -> list[str]:
    """The graphs' file names."""
    if len(variants) == 1:
        return [MODEL]
    return [f"{variant.plan.key}.onnx" for variant in variants]


def graph_of(variant: Variant, *, batch: int | None = None) -> Any:
    """A variant as an `onnx.ModelProto`, weights inside.

    Args:
        variant: what to trace.
        batch: for so many images only, which is traced faster; any number by default.

    Raises:
        ExportError: it cannot be traced, or has operations that ONNX has not.
    """
    program = program_of(variant, batch=batch)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries about each other
            made = torch.onnx.export(
                program,
                (),
                dynamo=True,
                input_names=[variant.input_name],
                output_names=[OUTPUT],
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # the exporter raises nearly anything
        raise ExportError(
            f'{variant.name} with "{variant.plan}" cannot be written as ONNX of opset {OPSET}: '
            f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}",
            hint="export it to torch-export or timm instead, and report it",
        ) from error
    assert made is not None
    graph = made.model_proto
    _tidy(graph)
    for name, value in provenance(variant).items():
        entry = graph.metadata_props.add()
        entry.key = name
        entry.value = value if isinstance(value, str) else json.dumps(value)
    return graph


def open_session(file: Path, *, threads: int | None = None, **options: Any) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU.

    Args:
        file: the graph.
        threads: at most; as many as torch uses by default.
        options: attributes of `onnxruntime.SessionOptions`.

    Raises:
        ExportError: the runtime is not installed, lacks an operation, or the file is damaged.
    """
    require_onnx()
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads or torch.get_num_threads()
    settings.log_severity_level = 3
    for name, value in options.items():
        setattr(settings, name, value)
    return _open(file, settings)


def runner(session: Any) -> Callable[[Tensor], Tensor]:
    """A session as a function from inputs to logits."""
    (given,) = session.get_inputs()

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {given.name: images.numpy()})
        return torch.from_numpy(logits)

    return run


def counts_of_file(file: Path) -> Counts:
    """What a file's graph computes.

    Raises:
        ExportError: it is no ONNX file.
    """
    names = [node.op_type for node in _read(file).graph.node]
    return Counts(
        attentions=names.count("Softmax") + names.count("Attention"),
        matchings=names.count("TopK"),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sessions:
    """Open graphs over one copy of the weights; keep it as long as its sessions run.

    Attributes:
        by_plan: a plan in text -> its `onnxruntime.InferenceSession`.
        weights: what they share.
    """

    by_plan: dict[str, Any]
    weights: dict[tuple[int, int], Any]


def sessions(folder: Path, *, threads: int | None = None) -> Sessions:
    """Every plan of a folder that holds several, its weights once in memory.

    Raises:
        ExportError: it is no such folder, or a file of it is damaged.
    """
    require_onnx()
    import onnxruntime
    from onnx import TensorProto, helper

    try:
        listed = json.loads((folder / PLANS).read_text(encoding="utf-8"))
        whole = np.memmap(folder / WEIGHTS, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{folder} does not hold several plans over one {WEIGHTS}: {error}",
            hint="export them with --format onnx --plans",
        ) from None
    shared: dict[tuple[int, int], Any] = {}
    opened = {}
    for file, about in listed.items():
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads or torch.get_num_threads()
        settings.log_severity_level = 3
        # prepacked weights would be every session's own
        settings.add_session_config_entry("session.disable_prepacking", "1")
        for constant in _read(folder / file).graph.initializer:
            if constant.data_location != TensorProto.EXTERNAL:
                continue
            place = {entry.key: entry.value for entry in constant.external_data}
            start, length = int(place["offset"]), int(place["length"])
            if start + length > len(whole):
                raise ExportError(f"{folder / WEIGHTS} is cut off", hint="export it again")
            if (start, length) not in shared:
                values = whole[start : start + length].view(
                    helper.tensor_dtype_to_np_dtype(constant.data_type)
                )
                shared[start, length] = onnxruntime.OrtValue.ortvalue_from_numpy(
                    values.reshape(tuple(constant.dims))
                )
            settings.add_initializer(constant.name, shared[start, length])
        opened[about["plan"]] = _open(folder / file, settings)
    return Sessions(by_plan=opened, weights=shared)


def _switching(variant: Variant) -> str:
    """The example loop for inputs like a variant's."""
    example = variant.example(1)
    return _SWITCHING.format(
        shape=tuple(example.shape),
        dtype=str(example.dtype).removeprefix("torch."),
        name=variant.input_name,
    )


def loading(variant: Variant, file: str) -> str:
    """The card's Python: it needs NumPy, Pillow and ONNX Runtime."""
    if variant.reads_texts:
        shape = ", ".join(map(str, variant.example(8).shape))
        return _LOADING.format(
            imports="",
            file=file,
            prepare=f'texts = np.ones(({shape}), "int64")  # token numbers and mask',
            name=variant.input_name,
            value="texts",
            answer="logits.argmax(1)",
        ).replace("import json\n", "")
    named = 'json.loads(facts["classes"])[logits[0].argmax()]'
    return _LOADING.format(
        imports="from PIL import Image, ImageOps\n",
        file=file,
        prepare=prepare_photo(variant, 'json.loads(facts["preprocessing"])'),
        name=variant.input_name,
        value="images",
        answer=named if variant.classes else "logits[0].argmax()",
    )


def _open(file: Path, settings: Any) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(
            str(file), settings, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the runtime's own errors have no common base
        if not file.is_file():
            raise ExportError(f"{file}: no such file", hint="export it again") from None
        raise ExportError(
            f"ONNX Runtime {onnxruntime.__version__} cannot run {file}: "
            f"{(str(error).strip().splitlines() or [''])[0]}",
            hint="use a newer runtime where it lacks an operation; export a damaged file again",
        ) from error


def _read(file: Path) -> Any:
    """A file's graph, without weights that lie elsewhere."""
    import onnx

    try:
        return onnx.load(str(file), load_external_data=False)
    except Exception as error:  # protobuf's errors and others
        raise ExportError(f"{file} is no ONNX file, or is damaged", hint="export it again") from (
            error
        )


def _tidy(graph: Any) -> None:
    """Leave out what only the exporter's authors read: paths of this machine among others."""
    graph.doc_string = ""
    parts = (graph.graph.node, graph.graph.initializer, graph.graph.input, graph.graph.output)
    for part in (graph, graph.graph, *(item for items in parts for item in items)):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.graph.value_info[:]
    for value in (*graph.graph.input, *graph.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if first.dim_param:
            first.dim_param = "batch"


def _move_weights(graphs: Iterator[Any] | Any) -> bytes:
    """Take the weights out of graphs, each content once; the graphs then say where it lies."""
    from onnx import TensorProto

    whole = bytearray()
    places: dict[bytes, int] = {}
    for graph in graphs:
        for constant in graph.graph.initializer:
            data = constant.raw_data
            if len(data) < _LEAST_SHARED:
                continue
            content = hashlib.sha256(data).digest()
            if content not in places:
                whole.extend(bytes(-len(whole) % _ALIGNMENT))
                places[content] = len(whole)
                whole.extend(data)
            length = len(data)
            constant.ClearField("raw_data")
            constant.data_location = TensorProto.EXTERNAL
            for key, value in (
                ("location", WEIGHTS), ("offset", places[content]), ("length", length)
            ):  # fmt: skip
                entry = constant.external_data.add()
                entry.key, entry.value = key, str(value)
    return bytes(whole)
