"""The plans that a search may choose from, as a caller asks for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trex.architecture import Architecture
from trex.search.space import SearchSpace

_logger = logging.getLogger(__name__)

#: one axis alone
Axis = Literal["reuse", "merging", "rows"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpaceOptions:
    """A space by name, and what is to differ from its file.

    Attributes:
        name: a shipped space, or a path; None takes the joint one, of the paper's strategy and of
            reuse alone the paper's.
        only: one axis alone.
        keep_tokens: whether no tokens merge.
        changes: fields of `trex.search.space.SpaceFile` -> values that replace its file's.
    """

    name: str | Path | None = None
    only: Axis | None = None
    keep_tokens: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)

    def load(self, architecture: Architecture, strategy: str) -> SearchSpace:
        """The space of a model; what the model cannot do is left out, aloud.

        Raises:
            SpaceError: as `SearchSpace.load`.
        """
        paper = strategy == "paper" or self.only == "reuse"
        space = SearchSpace.load(
            str(self.name) if self.name else ("default" if paper else "joint"),
            architecture,
            self.changes,
            only=None if self.only == "reuse" else self.only,
            keep_tokens=self.keep_tokens,
        )
        for what in space.left_out:
            _logger.info("left out of the search space: %s", what)
        return space
