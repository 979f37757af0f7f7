"""The command line: `trex VERB ...`. One file a verb under `trex/commands/`.

Results go to stdout, logs and progress bars to stderr. Exit codes: 0 done, 1 failure, 2 bad
usage or file, 3 nothing fits the budget.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Final

from trex.errors import TrexError
from trex.versions import VERSION

#: verb -> its one-line help, in the order of a user's work
VERBS: Final = {
    "demo": "the whole job, offline, on small real data, in a minute or two",
    "cost": "price a model and a plan on a chip",
    "search": "find the best plan under a budget",
    "sweep": "search many models, devices, budgets, seeds; one table, one page",
    "fit": "fit and measure plans of your own",
    "finetune": "win back what a found variant lost",
    "evaluate": "measure a found variant against its original",
    "export": "write files that run anywhere: bundle, ONNX, torch.export, timm, UniForm",
    "dynamic": "one bundle of several plans, switched as it runs, and what chooses among them",
    "bench": "time variants, their original and other models side by side on this machine",
    "profile": "make a device of this machine, for budgets in real milliseconds",
    "report": "one page, figures and tables of what runs found",
    "compare": "TReX beside token pruning, skipping, other models, on the same chip",
    "runs": "list, show, compare and prune run folders",
    "chip": "start a chip of your own from another; the schema of chip files",
    "check": "validate a chip, measured device, space, plan, bundle or run folder",
}


_OS_HINT = "check the path, its permissions and the room on the disk"


class _TqdmHandler(logging.Handler):
    """Log lines that do not tear the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The parser; only `verb`'s module is imported, all of them where it is None."""
    parser = argparse.ArgumentParser(
        prog="trex",
        description="attention reuse for pretrained vision transformers, under a hardware budget",
    )
    parser.add_argument("--version", action="version", version=f"trex {VERSION}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in VERBS.items():
        subparser = subparsers.add_parser(name, help=text, description=text)
        if verb in (None, name):
            module = importlib.import_module(f"trex.commands.{name}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def _be_a_good_neighbour() -> None:
    """Let idle worker threads sleep instead of spin.

    OpenMP's spinning threads starve each other where another process keeps a core busy; measured
    on two cores, a forward pass then took many times as long. Must be set before torch is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = next((a for a in arguments if not a.startswith("-")), "")
    args = build_parser(verb).parse_args(arguments)
    _configure_logging()
    _be_a_good_neighbour()
    try:
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except TrexError as error:
        if args.debug:
            raise
        print(f"trex {args.verb}: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"trex {args.verb}: interrupted; the same command goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe went away: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if args.debug:
            raise
        print(f"trex {args.verb}: error: {error}\n  hint: {_OS_HINT}", file=sys.stderr)
        return 1


def _configure_logging() -> None:
    handler = _TqdmHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("trex")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


if __name__ == "__main__":
    sys.exit(main())
