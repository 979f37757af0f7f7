"""Which of timm's pretrained attention models TReX prices, reuses and merges: docs/models.md.

    python benchmarks/coverage.py [--filter NAME] [--json FILE] [--again FILE]

Every architecture with pretrained weights is built on the meta device, without weights, and asked.
A model attends if its traced operations multiply two computed matrices and take a softmax: maps
over tokens, windows or channels alike, linear attention not. A pretrained model is one set of
weights: an architecture counts as often as timm has weights of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import timm
from tqdm import tqdm

from trex.architecture import Architecture
from trex.errors import ModelError
from trex.models.registry import adapter_of, create
from trex.models.trace import trace_architecture


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What TReX says of one architecture.

    Attributes:
        name: timm's.
        weights: how many sets of pretrained weights timm has.
        family: the class.
        prices: whether its operations are known.
        attends: whether it has attention maps; False where it cannot be priced.
        reuses: whether an adapter takes it.
        merges: whether its tokens can merge.
        why_not: the adapter's first words.
    """

    name: str
    weights: int
    family: str
    prices: bool
    attends: bool
    reuses: bool
    merges: bool
    why_not: str


def pretrained() -> dict[str, int]:
    """Timm's architectures with pretrained weights, and how many sets of them."""
    found = Counter(name.split(".")[0] for name in timm.list_models(pretrained=True))
    own = {"lvvit", "uniform"}
    return {name: n for name, n in found.items() if name.split("_")[0] not in own}


def attends(architecture: Architecture) -> bool:
    """Whether there are attention maps."""
    kinds = {op.kind for op in architecture.operations}
    return {"dynamic_matmul", "softmax"} <= kinds


def asked(name: str, weights: int, before: Asked | None = None) -> Asked:
    """Build, trace unless it was traced before, and ask for an adapter."""
    if before is not None and before.prices and not before.attends:
        return before
    model = create(name, device="meta")
    size = timm.data.resolve_model_data_config(model)["input_size"]
    if before is not None:
        prices, attending = before.prices, before.attends
    else:
        try:
            prices, attending = True, attends(trace_architecture(model, size, name))
        except ModelError as error:
            print(f"{name}: {error}", file=sys.stderr)
            prices = attending = False
    why_not, merges = "", False
    try:
        merges = not adapter_of(model, name).layout(model).no_merging
    except ModelError as error:
        why_not = str(error).split("\n")[0].removeprefix(name)
    return Asked(
        name=name, weights=weights, family=type(model).__name__, prices=prices,
        attends=attending, reuses=not why_not, merges=merges, why_not=why_not,
    )  # fmt: skip


def table(found: Iterable[Asked]) -> str:
    """A line a class, most weights first; the sum below."""
    families: dict[str, list[Asked]] = defaultdict(list)
    for one in found:
        families[one.family].append(one)
        families["all"].append(one)
    lines = [
        "| timm's class | architectures | weights | price | reuse | merge |",
        "|---|---|---|---|---|---|",
    ]
    order = sorted(families, key=lambda name: (name == "all", -_weights(families[name]), name))
    for family in order:
        of = families[family]
        counts = [
            _weights(of),
            *(
                _weights([one for one in of if getattr(one, what)])
                for what in ("prices", "reuses", "merges")
            ),
        ]
        shares = [str(n) for n in counts]
        if family == "all":
            shares[2:] = [f"{n} ({n / counts[0]:.0%})" for n in counts[2:]]
        name = "**all**" if family == "all" else f"`{family}`"
        lines.append(f"| {name} | {len(of)} | {' | '.join(shares)} |")
    return "\n".join(lines)


def _weights(of: Iterable[Asked]) -> int:
    return sum(one.weights for one in of)


def main() -> None:
    """Ask all, print the table of those that attend."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--filter", default="", help="only names with this in them")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    parser.add_argument(
        "--again", type=Path, help="such a file of the same timm: ask adapters only"
    )
    args = parser.parse_args()
    known = json.loads(args.again.read_text()) if args.again else []
    before = {one["name"]: Asked(**one) for one in known}
    names = {name: n for name, n in pretrained().items() if args.filter in name}
    found = [asked(name, n, before.get(name)) for name, n in tqdm(sorted(names.items()))]
    if args.json:
        args.json.write_text(json.dumps([asdict(one) for one in found], indent=1))
    print(table(one for one in found if one.attends or not one.prices))


if __name__ == "__main__":
    main()
