"""What is exported, and what every format can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trex.files import write_atomic
from trex.plan import Plan
from trex.reuse import plan_of
from trex.text.config import TextConfig
from trex.text.tokenizer import FILE as TOKENIZER
from trex.training.transforms import DataConfig, InputConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A running variant, or an original, with all that its files have to say.

    Attributes:
        name: its base model's, as `trex.models.registry.create` takes it.
        arguments: what else builds the base (num_classes, img_size; of texts tokens, config).
        model: it runs the plan, in evaluation mode.
        data_config: the preprocessing.
        base_weights_sha256: `weights_hash` of the original.
        estimate: what it costs, as a record has it; None where nobody priced it.
        measured: what it loses, as a record's `selection` or an evaluation has it; None where
            nobody measured it.
        classes: names of the head's classes in order; empty where unknown.
        label: what its plan is called among several; empty where it has no other name.
    """

    name: str
    arguments: dict[str, Any]
    model: nn.Module
    data_config: InputConfig
    base_weights_sha256: str
    estimate: dict[str, Any] | None = None
    measured: dict[str, Any] | None = None
    classes: tuple[str, ...] = field(default=())
    label: str = ""

    @property
    def plan(self) -> Plan:
        """What it runs; empty for an original."""
        return plan_of(self.model) or Plan()

    @property
    def reads_texts(self) -> bool:
        """Whether it reads texts, not images."""
        return isinstance(self.data_config, TextConfig)

    @property
    def input_name(self) -> str:
        """What files call the model's input."""
        return "texts" if self.reads_texts else "images"

    def example(self, batch: int) -> Tensor:
        """Inputs of the right shape and type, noise or one text: for tracing, not for measuring.

        (batch, channels, height, width), or (batch, 2, tokens) of token numbers and mask.
        """
        if isinstance(self.data_config, DataConfig):
            generator = torch.Generator().manual_seed(0)
            return torch.randn(batch, *self.data_config.input_size, generator=generator)
        return torch.ones(batch, 2, self.data_config.tokens, dtype=torch.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One file beside its variant.

    Attributes:
        plan: of the variant.
        images: compared.
        batch_sizes: images in a forward.
        difference: the largest of any logit, but of images at a tie.
        ties: images of which two tokens are so alike that rounding decides who merges with whom:
            the file answers like the variant does after noise of rounding's size.
        tolerance: what it may be at most.
        same_top1: images of the same first guess.
        attentions: in the file's graph, softmaxed maps; None where it has no graph.
        matchings: in the file's graph, of tokens; None where it has no graph.
    """

    plan: str
    images: int
    batch_sizes: tuple[int, ...]
    difference: float
    tolerance: float
    same_top1: int
    ties: int = 0
    attentions: int | None = None
    matchings: int | None = None

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "batch_sizes": list(self.batch_sizes)}


class Exporter(Protocol):
    """One format.

    Attributes:
        name: as `--format` has it.
        main: the file that makes a folder one of this format; it is written last.
        several: whether one folder holds several variants; other formats take a folder for each.
    """

    name: str
    main: str
    several: bool

    def check(self, variants: Sequence[Variant]) -> None:
        """Refuse what the format cannot hold, and what is not installed, before any work.

        Raises:
            TrexError: it cannot be written.
        """

    def owns(self, file: str) -> bool:
        """Whether the format writes a file of this name."""

    def write(self, folder: Path, variants: Sequence[Variant]) -> None:
        """Write all files; those of an unfinished export are replaced.

        Args:
            folder: exists.
            variants: of one base model; one, but for formats that hold several.

        Raises:
            TrexError: something cannot be written.
        """

    def verify(self, folder: Path, variants: Sequence[Variant], images: Tensor) -> list[Check]:
        """Read the files back, run them, and compare with the running variants, one a check.

        Args:
            folder: as `write` left it.
            variants: as `write` was given.
            images: inputs of the models, two at least.

        Raises:
            ExportError: a file answers unlike its variant, or its graph does other work.
        """

    def loading(self, folder: str) -> str:
        """Python that loads what was written, for people."""


def write_tokenizer(variant: Variant, folder: Path) -> None:
    """A text model's tokeniser beside its files; of an image model nothing.

    Raises:
        StorageError: it cannot be written.
    """
    if isinstance(variant.data_config, TextConfig):
        write_atomic(folder / TOKENIZER, variant.data_config.load().to_str().encode())
