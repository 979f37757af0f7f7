"""What the global buffer holds at its fullest moment: live tensors of every image in flight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from trex.architecture import Operation
from trex.hardware.system import Pricer
from trex.hardware.workload import EncoderWork, Workload

#: parts that put out scores, or probabilities, and the one that reads them
_SCORES: Final = ("scores", "proportional", "softmax")
_READS_SCORES: Final = "context"


@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """The fullest moment of one image.

    Attributes:
        bits: what the running operation reads and puts out, the residual stream, and outputs and
            maps that a later encoder reuses.
        operation: that runs.
        kept_for: encoders whose reused tensors are among them.
    """

    bits: int
    operation: str
    kept_for: tuple[int, ...]


def fullest(work: Workload, pricer: Pricer) -> Live:
    """The moment at which one image fills the buffer most.

    A depth-first softmax leaves scores and probabilities outside, unless the map is reused.
    Tensors that are reused count as large as their source put them out.
    """
    word = pricer.chip.static_array.input_bits
    kept = _kept(work)
    found: list[Live] = []
    for item in work.body:
        if isinstance(item, Operation):
            values = _values(item, depth_first=False)
            found.append(Live(bits=values * word, operation=item.name, kept_for=()))
            continue
        here = item.encoder.index
        alive = [(values, last) for source, last, values in kept if source < here <= last]
        waiting = sum(values for values, _ in alive)
        stream = item.tokens[0] * item.encoder.dim
        for op in item.operations:
            values = _values(op, depth_first=pricer.chip.softmax.depth_first)
            bits = (values + stream + waiting) * word
            users = tuple(last for _, last in alive)
            found.append(Live(bits=bits, operation=op.name, kept_for=users))
    return max(found, key=lambda live: live.bits)


def _values(op: Operation, *, depth_first: bool) -> int:
    """Values an operation reads and puts out."""
    combined = max(op.in_features, 1)
    inputs = op.groups * op.vectors * op.in_features if op.macs else op.elements * combined
    outputs = op.elements
    if depth_first:
        outputs = 0 if op.part in _SCORES else outputs
        inputs = 0 if op.part in (*_SCORES[1:], _READS_SCORES) else inputs
    return inputs + outputs


def _kept(work: Workload) -> list[tuple[int, int, int]]:
    """Source, last consumer and values of every tensor that is reused."""
    encoders = {w.encoder.index: w for w in work.body if isinstance(w, EncoderWork)}
    last: dict[tuple[int, str], int] = {}
    for reuse in work.plan.reuses:
        if reuse.source != reuse.consumer:
            key = reuse.source, reuse.tensor
            last[key] = max(last.get(key, 0), reuse.consumer)
    return [
        (source, consumer, _reused_values(encoders[source], tensor))
        for (source, tensor), consumer in last.items()
    ]


def _reused_values(work: EncoderWork, tensor: str) -> int:
    tokens = work.tokens[0]
    if tensor == "output":
        return tokens * work.encoder.dim
    windows, heads, whole, _ = work.encoder.attention
    attending = whole - work.encoder.tokens + tokens
    return windows * heads * attending**2
