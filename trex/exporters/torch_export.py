"""`.pt2`: the variant's graph as `torch.export` saves it; needs torch alone.

model.pt2         graph and weights, for any number of images; trex.json inside says the rest
README.md         the model card
tokenizer.json    of a text model
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from trex.errors import ExportError
from trex.exporters.card import CARD, model_card, prepare_photo, provenance
from trex.exporters.graph import counts_of_program, program_of
from trex.exporters.variant import Check, Variant, write_tokenizer
from trex.exporters.verify import compare
from trex.files import write_atomic
from trex.text.tokenizer import FILE as TOKENIZER

MODEL: Final = "model.pt2"
#: of the file within the file that holds what `provenance` says
EXTRA: Final = "trex.json"

_LOADING: Final = """\
import json
import numpy as np, torch
{imports}
extra = {{"trex.json": ""}}
model = torch.export.load("model.pt2", extra_files=extra).module()
facts = json.loads(extra["trex.json"])
{prepare}
with torch.no_grad():
    logits = model({value})
print({answer})"""


class TorchExporter:
    """`torch.export`'s format."""

    name: Final = "torch-export"
    main: Final = MODEL
    several: Final = False

    def check(self, variants: Sequence[Variant]) -> None:
        """Every variant that torch can trace, which only tracing tells."""

    def owns(self, file: str) -> bool:
        """Graph, card, tokeniser."""
        return file in (MODEL, CARD, TOKENIZER)

    def write(self, folder: Path, variants: Sequence[Variant]) -> None:
        """Trace it, and write the graph last.

        Raises:
            ExportError: torch cannot trace it.
            StorageError: it cannot be written.
        """
        (variant,) = variants
        buffer = io.BytesIO()
        program = program_of(variant)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own serialisation
            torch.export.save(
                program, buffer, extra_files={EXTRA: json.dumps(provenance(variant))}
            )
        write_tokenizer(variant, folder)
        card = model_card(
            variant,
            files=f"`{MODEL}` runs wherever PyTorch {torch.__version__.partition('+')[0]} or a "
            "later one does, for any number of images; neither timm nor TReX is needed.",
            loading=loading(variant),
        )
        write_atomic(folder / CARD, card)
        write_atomic(folder / MODEL, buffer.getvalue())

    def verify(self, folder: Path, variants: Sequence[Variant], images: Tensor) -> list[Check]:
        """Load the graph, run it, count in it."""
        (variant,) = variants
        program = load_program(folder / MODEL)
        counts = counts_of_program(program)
        return [compare(str(folder / MODEL), program.module(), variant, images, counts)]

    def loading(self, folder: str) -> str:
        """By `torch.export.load`."""
        return f'import torch\n\nmodel = torch.export.load("{folder}/{MODEL}").module()'


def load_program(file: Path) -> torch.export.ExportedProgram:
    """A `.pt2` file's graph.

    Raises:
        ExportError: it is missing, damaged or something else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(file)
    except Exception as error:  # of a damaged file torch raises nearly anything
        raise ExportError(
            f"{file} is not a file that torch.export wrote, or is damaged: {type(error).__name__}",
            hint="export it again",
        ) from error


def loading(variant: Variant) -> str:
    """The card's Python: it needs PyTorch, and Pillow for photos."""
    if variant.reads_texts:
        shape = ", ".join(map(str, variant.example(8).shape))
        return _LOADING.format(
            imports="",
            prepare=f"texts = torch.ones(({shape}), dtype=torch.int64)  # token numbers and mask",
            value="texts",
            answer="logits.argmax(1)",
        ).replace("numpy as np, ", "")
    named = 'facts["classes"][logits[0].argmax()]'
    return _LOADING.format(
        imports="from PIL import Image, ImageOps\n",
        prepare=prepare_photo(variant, 'facts["preprocessing"]'),
        value="torch.from_numpy(images)",
        answer=named if variant.classes else "logits[0].argmax()",
    )
