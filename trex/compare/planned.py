"""Methods that are plans: tokens merged by published rules, dead rows left out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise

from trex.architecture import Architecture
from trex.compare.methods import Method
from trex.compare.published import DIFFRATE_TOKENS, diffrate_counts
from trex.hardware import Workload, without_dead_rows, workload
from trex.plan import Merge, Plan, Rows


class Planned(Method):
    """A method whose every setting is a plan, the same for all weights."""

    @abstractmethod
    def plan(self, model: Architecture, setting: float) -> Plan:
        """What is done to a model that is not refused."""

    def work(self, model: Architecture, setting: float) -> Workload:
        """What the plan leaves to do, and what it takes."""
        return workload(model, self.plan(model, setting))


class TomeMerging(Planned):
    """Pairs of like tokens become one, as many in every encoder.

    As in ToMe's code: in each encoder `r` pairs, at most half of the tokens that can merge.
    """

    name = "tome"
    title = "ToMe merging"
    source = "ToMe (arXiv 2210.09461), with proportional attention"

    def refusal(self, model: Architecture) -> str:
        """Why tokens cannot merge."""
        return model.layout.no_merging

    def settings(self, model: Architecture) -> Sequence[float]:
        """Pairs an encoder."""
        return range(1, model.layout.tokens // 2 + 1)

    def label(self, setting: float) -> str:
        """How many pairs."""
        return f"r {setting:.0f}"

    def plan(self, model: Architecture, setting: float) -> Plan:
        """So many pairs in every encoder, as long as there are tokens."""
        layout, tokens = model.layout, model.layout.tokens
        merges = []
        for encoder in range(len(layout.stages)):
            pairs = min(int(setting), layout.most_pairs(tokens))
            merges.append(Merge(encoder, pairs))
            tokens -= pairs
        return Plan(merges=tuple(merges))


class DiffRate(Planned):
    """Token counts that were learned, encoder by encoder, on a model's own weights.

    DiffRate prunes and merges; here tokens only merge, as many as it removes in either way, with
    ToMe's matching. Behind the last encoder it leaves three tokens, of which the head reads the
    class token: the last encoder computes its class row alone where that is legal, and merges as
    many pairs as it can elsewhere.
    """

    name = "diffrate"
    title = "DiffRate counts"
    source = "DiffRate (arXiv 2305.17997), its published token counts"

    def refusal(self, model: Architecture) -> str:
        """Counts were published for few models, of one image size."""
        if model.layout.no_merging or self.settings(model):
            return model.layout.no_merging
        at = f" of {model.layout.tokens} tokens" if diffrate_counts(model.model) else ""
        return f"no published counts for {model.model}{at}"

    def note(self, model: Architecture) -> str:
        """What is made of the published counts."""
        last = len(model.layout.stages) - 1
        end = "merges what it can" if model.layout.no_class_rows else "computes its class row only"
        return (
            "merging alone, with the counts that DiffRate reaches by pruning too; "
            f"encoder {last}, where its count is 3, {end}"
        )

    def settings(self, model: Architecture) -> Sequence[float]:
        """Billions of multiply-accumulates, as published; none where nothing was."""
        if model.layout.tokens != DIFFRATE_TOKENS:
            return []
        return sorted(diffrate_counts(model.model), reverse=True)

    def label(self, setting: float) -> str:
        """The published size."""
        return f"{setting:.1f} G"

    def plan(self, model: Architecture, setting: float) -> Plan:
        """Merges that leave the published counts behind each encoder but the last."""
        layout = model.layout
        *counts, _ = diffrate_counts(model.model)[setting]
        last = len(counts)
        merges = [
            Merge(encoder, before - after)
            for encoder, (before, after) in enumerate(pairwise((layout.tokens, *counts)))
        ]
        if not layout.no_class_rows:
            return Plan(merges=tuple(merges), rows=(Rows(last),))
        merges.append(Merge(last, layout.most_pairs(counts[-1])))
        return Plan(merges=tuple(merges))


class SharedRows(Planned):
    """Similar tokens share one row of attention, and stay: from a quarter of the encoders on.

    Every other encoder matches tokens, and the next one takes its groups. The last encoder
    computes its class rows alone where that is legal.
    """

    name = "shared_rows"
    title = "shared rows"
    source = "tokens stay, rows are shared (docs/plans.md), by ToMe's matching"

    def refusal(self, model: Architecture) -> str:
        """Why no row can be shared."""
        if model.layout.windows:
            return f"{model.model} attends in windows, each of its own size"
        return "" if self.settings(model) else f"{model.model} has too few tokens"

    def settings(self, model: Architecture) -> Sequence[float]:
        """The share of rows left, at every number of rows that tokens can share."""
        tokens = model.layout.tokens
        return [rows / tokens for rows in range(tokens - 1, model.layout.protected, -1)]

    def label(self, setting: float) -> str:
        """The share."""
        return f"rows {setting:.2f}"

    def plan(self, model: Architecture, setting: float) -> Plan:
        """So many rows in every encoder from a quarter on."""
        layout = model.layout
        last, left = len(layout.stages) - 1, round(setting * layout.tokens)
        dead = not layout.no_class_rows
        rows = [
            Rows(encoder, left) if number % 2 == 0 else Rows(encoder, 0, encoder - 1)
            for number, encoder in enumerate(range(len(layout.stages) // 4, last + 1 - dead))
        ]
        return Plan(rows=(*rows, *([Rows(last)] if dead else [])))


class ClassRows(Planned):
    """The last encoder's rows that nobody reads are left out: the original's answers, exactly."""

    name = "class_rows"
    title = "no dead rows"
    source = "the head reads class tokens only; exact"
    accuracy = "exact"

    def refusal(self, model: Architecture) -> str:
        """Why every row is read."""
        return model.layout.no_class_rows

    def settings(self, model: Architecture) -> Sequence[float]:
        """There is nothing to set."""
        return [1]

    def label(self, setting: float) -> str:
        """Nothing."""
        return ""

    def plan(self, model: Architecture, setting: float) -> Plan:
        """Class rows in the last encoder."""
        return without_dead_rows(model) or Plan()
