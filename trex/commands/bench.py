"""`trex bench`: original, variants and other models, timed side by side on this machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trex.commands import _arguments
from trex.commands.profile import DTYPES, RUNTIMES, batches_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trex.exporters.variant import Variant


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "variants",
        nargs="+",
        metavar="VARIANT",
        help="run folders (their best plan), bundles, fine-tunings, and names of timm models",
    )
    parser.add_argument(
        "--runtime",
        nargs="+",
        default=["eager"],
        choices=RUNTIMES,
        help="PyTorch as it is (default) or compiled, ONNX Runtime (extra `onnx`)",
    )
    parser.add_argument("--batch", default="1,8", metavar="N[,N]", help="images in a forward pass")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads on a CPU (1)")
    parser.add_argument(
        "--dtype",
        nargs="+",
        default=["fp32"],
        choices=DTYPES,
        help="number formats; int8 only with ONNX Runtime",
    )
    parser.add_argument(
        "--rounds", type=int, default=20, metavar="N", help="rounds of timing (20)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result as JSON too")
    _arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Time and print."""
    import torch

    from trex.bench.compare import bench
    from trex.bench.runtimes import Setting
    from trex.errors import BenchError
    from trex.files import write_atomic

    settings = [
        Setting(runtime=runtime, device=args.device, threads=args.threads, dtype=dtype)
        for runtime in args.runtime
        for dtype in args.dtype
        if dtype != "int8" or runtime == "ort" or args.runtime == [runtime]
    ]
    for setting in settings:
        setting.check()
    if args.rounds < 3:
        raise BenchError(f"--rounds {args.rounds} is too small", hint="at least 3")
    sizes = batches_of(args.batch)
    subjects = _subjects(args.variants)
    torch.set_num_threads(args.threads)
    result = bench(subjects, settings, sizes, args.rounds)
    if args.out is not None:
        write_atomic(args.out, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result) if args.json else "\n".join(_table(result)))
    return 0


def _subjects(given: Sequence[str]) -> dict[str, Variant]:
    """What is timed, by the names of the table's rows; the first variant's original leads.

    Raises:
        TrexError: there is no such folder or model.
    """
    from trex.errors import BenchError

    found: dict[str, Variant] = {}
    named: dict[str, Variant] = {}
    for text in given:
        folder = _bundle_in(Path(text))
        made = _of_timm(text) if folder is None else _of_bundle(folder)
        name = text if folder is None else Path(text).resolve().name
        if name in named:
            raise BenchError(f"two variants are called {name}", hint="rename one of the folders")
        named[name] = made
        if folder is not None and not found:
            found[f"{made.name} (original)"] = _of_timm(made.name, made.arguments)
    return {**found, **named}


def _bundle_in(path: Path) -> Path | None:
    from trex.errors import BenchError
    from trex.exporters.bundle import CONFIG

    for folder in (path, path / "bundle", path / "best"):
        if (folder / CONFIG).is_file():
            return folder
    if path.exists():
        raise BenchError(
            f"{path} is no bundle, fine-tuning or finished run",
            hint="give a folder that trex search, fit, finetune or export wrote",
        )
    return None


def _of_bundle(folder: Path) -> Variant:
    from trex.exporters.bundle import load_bundle, load_config
    from trex.exporters.variant import Variant
    from trex.training.transforms import input_config_from_json

    stored = load_config(folder)
    return Variant(
        name=stored["model"],
        arguments=stored["model_args"],
        model=load_bundle(folder),
        data_config=input_config_from_json(stored["data"]),
        base_weights_sha256=stored["base_weights_sha256"],
    )


def _of_timm(name: str, arguments: dict[str, Any] | None = None) -> Variant:
    """A model by name, with random weights, which take as long."""
    from trex.exporters.variant import Variant
    from trex.models.registry import create
    from trex.training.transforms import DataConfig

    model = create(name, **(arguments or {}))
    return Variant(
        name=name,
        arguments=arguments or {},
        model=model,
        data_config=DataConfig.of_model(model),
        base_weights_sha256="",
    )


def _table(result: dict[str, Any]) -> list[str]:
    rows = result["rows"]
    width = max(len(row["variant"]) for row in rows)
    lines = [
        f"{result['machine']['processor']}, {result['device']}, {result['threads']} thread(s), "
        f"{result['clock']} time; medians of {result['rounds']} rounds, 95 % intervals",
        "",
        f"{'batch':>5} {'runtime':<8} {'type':<5} {'variant':<{width}} {'ms':>9} {'images/s':>9} "
        f"{'faster':>7} {'interval':>13}",
    ]
    lines += [
        f"{row['batch']:>5} {row['runtime']:<8} {row['dtype']:<5} {row['variant']:<{width}} "
        f"{row['latency_s']['median'] * 1e3:9.2f} {row['images_per_second']:9.1f} "
        f"{row['speedup']['median']:6.2f}x {row['speedup']['low']:6.2f}-"
        f"{row['speedup']['high']:.2f}"
        for row in rows
    ]
    first = rows[0]
    return [
        *lines, "",
        f"faster: than {first['variant']} in {first['runtime']}, {first['dtype']}, at the same "
        "batch",
    ]  # fmt: skip
