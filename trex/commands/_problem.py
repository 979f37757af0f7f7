"""What searches and fits of given plans have in common: flags."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trex.commands import _arguments

if TYPE_CHECKING:
    from trex.api.problem import Given


def add_data(parser: argparse.ArgumentParser) -> None:
    """Which images, and where results go."""
    parser.add_argument("--calib", required=True, metavar="DATASET", help="images to fit with")
    parser.add_argument("--eval", metavar="DATASET", help="labelled images to measure on")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the run folder")
    parser.add_argument("--seed", type=int, default=0)


def add_work(group: argparse._ArgumentGroup) -> None:
    """How plans are fitted."""
    group.add_argument(
        "--final-views",
        type=int,
        metavar="N",
        help="augmented views of every image in the best plan's last fit (2; 0 for joint plans)",
    )
    group.add_argument("--batch-size", type=int, default=50, metavar="N", help="images at a time")
    group.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="of forward passes while fitting; auto: bfloat16 where the processor has it",
    )
    group.add_argument(
        "--scratch", type=Path, metavar="DIR", help="folder for activations; else --out"
    )


def add_many(parser: argparse.ArgumentParser) -> None:
    """Who shares the work."""
    many = parser.add_argument_group(
        "many workers (the same command elsewhere joins, by --out or by --storage)"
    )
    many.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes, one thread each; 1: one process with all cores",
    )
    many.add_argument(
        "--storage", metavar="URL", help="postgresql://user@host/database; else a file in --out"
    )
    many.add_argument(
        "--study",
        metavar="NAME",
        help="name of the study in the storage; else made of model, chip and budget",
    )


def given_of(args: argparse.Namespace) -> Given:
    """Model, data, device, run folder, and how the work is done."""
    from trex.api.problem import Given, WorkOptions, command_line

    return Given(
        model=args.model,
        data=args.calib,
        device=args.hw,
        out=args.out,
        evaluated=args.eval,
        options=_arguments.model_options(args),
        reading=_arguments.data_options(args),
        work=WorkOptions(
            seed=args.seed,
            final_views=args.final_views,
            batch_size=args.batch_size,
            precision=args.precision,
            scratch=args.scratch,
            workers=args.workers,
            storage=args.storage,
            study=args.study,
            like=getattr(args, "like", None),
        ),
        command=command_line(),
    )
