"""`trex profile`: this machine as a device, by timing plans of a model on it."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trex.commands import _arguments

if TYPE_CHECKING:
    from trex.hardware.measured import Profile

_logger = logging.getLogger(__name__)

# The same names as in trex.bench.runtimes, which is too heavy to import for `--help`.
RUNTIMES = ("eager", "compile", "ort")
DTYPES = ("fp32", "bf16", "int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--model", required=True, help="timm name, e.g. deit_tiny_patch16_224")
    parser.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        help="classes of the head, 0 for features alone; else the model's",
    )
    parser.add_argument("--img-size", type=int, metavar="PIXELS")
    add_setting(parser)
    parser.add_argument(
        "--batch",
        default="8",
        metavar="N[,N]",
        help="images in a forward pass; one device each (8)",
    )
    parser.add_argument(
        "--rounds", type=int, default=15, metavar="N", help="rounds of timing (15)"
    )
    parser.add_argument(
        "--held-out",
        type=int,
        default=6,
        metavar="N",
        help="random plans that only test the fit (6)",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--force", action="store_true", help="replace the device of another machine or setting"
    )
    _arguments.add_json(parser)


def add_setting(parser: argparse.ArgumentParser) -> None:
    """How models run."""
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads on a CPU (1)")
    parser.add_argument(
        "--dtype",
        default="fp32",
        choices=DTYPES,
        help="number format; int8 only with --runtime ort",
    )
    parser.add_argument(
        "--runtime",
        default="eager",
        choices=RUNTIMES,
        help="PyTorch as it is or compiled, or ONNX Runtime (extra `onnx`)",
    )


def run(args: argparse.Namespace) -> int:
    """Time, fit, write."""
    import torch

    from trex.bench.profile import profile_model
    from trex.bench.runtimes import Setting
    from trex.errors import BenchError
    from trex.hardware.measured import write_device
    from trex.models.registry import create

    setting = Setting(
        runtime=args.runtime, device=args.device, threads=args.threads, dtype=args.dtype
    )
    setting.check()
    sizes = batches_of(args.batch)
    for name, least in (("rounds", 3), ("held_out", 0)):
        if getattr(args, name) < least:
            raise BenchError(
                f"--{name.replace('_', '-')} {getattr(args, name)} is too small",
                hint=f"at least {least}",
            )
    _check_folder(args, setting)
    arguments = {"num_classes": args.num_classes, "img_size": args.img_size}
    model = create(args.model, **arguments)
    torch.set_num_threads(setting.threads)
    profiles = []
    for batch in sizes:
        _logger.info("timing plans of %s in batches of %d", args.model, batch)
        profiles.append(
            profile_model(
                args.model, model, arguments, setting, batch,
                rounds=args.rounds, held_out=args.held_out,
            )
        )  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    write_device(args.out, profiles)
    if args.json:
        answer = [profile.model_dump(mode="json") for profile in profiles]
        print(json.dumps({"device": str(args.out), "profiles": answer}))
    else:
        print("\n".join([f"{args.out}:", *(line for p in profiles for line in _lines(p))]))
    return 0


def batches_of(text: str) -> list[int]:
    """Numbers of images of `1,8`.

    Raises:
        BenchError: it is not of this form.
    """
    from trex.errors import BenchError

    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1 or len(set(found)) < len(found):
        raise BenchError(f"--batch {text!r} is not numbers of images", hint="e.g. --batch 1,8")
    return found


def _check_folder(args: argparse.Namespace, setting: Any) -> None:
    """See that nothing of another machine, model or setting is replaced unasked.

    Raises:
        BenchError: the folder holds something else, or such a device and there is no `--force`.
    """
    from trex.bench.profile import machine
    from trex.errors import BenchError, ChipError
    from trex.hardware.measured import DEVICE_FILE, read_profiles

    names = [path.name for path in args.out.iterdir()] if args.out.is_dir() else []
    if args.out.exists() and (not args.out.is_dir() or set(names) - {DEVICE_FILE}):
        raise BenchError(
            f"{args.out} is not a folder for a device", hint="choose another --out folder"
        )
    if DEVICE_FILE not in names or args.force:
        return
    try:
        profiles = read_profiles(args.out)
    except ChipError as error:
        raise BenchError(error.message, hint="replace it with --force") from None
    here = {
        "model": args.model, "runtime": setting.runtime, "device": setting.device,
        "threads": setting.threads, "dtype": setting.dtype, "machine": machine(setting),
    }  # fmt: skip
    for name, value in here.items():
        was = getattr(profiles[0], name)
        if was != value:
            raise BenchError(
                f"{args.out} holds a device of another {name}: {was}, here it is {value}",
                hint="choose another --out folder, or replace it with --force",
            )


def _lines(profile: Profile) -> list[str]:
    tests = [run for run in profile.runs if not run.fitted]
    lines = [
        f"batches of {profile.batch}: the original takes {profile.original_s * 1e3:.2f} ms "
        f"({profile.clock} time), {len(profile.runs)} plans timed in {profile.rounds} rounds; "
        f"spread {100 * profile.spread:.1f} %",
    ]
    if tests:
        lines.append("  held out:    measured   predicted  plan")
        lines += [
            f"            {run.latency_s.median * 1e3:9.2f} ms {run.predicted_s * 1e3:8.2f} ms  "
            f"{run.plan}"
            for run in tests
        ]
    return lines
