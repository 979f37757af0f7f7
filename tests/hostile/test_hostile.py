"""Whatever is in a file, it is read, or refused in words: soon, and in little memory.

The short form tries a few damaged files of every kind. `make campaign` tries many: TREX_HOSTILE
says how many in all, TREX_HOSTILE_SEED where seeds begin.
"""

from __future__ import annotations

import logging
import os
import resource
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from loaders import Loader, loaders
from mutations import mutated

from trex.errors import TrexError

WANTED = int(os.environ.get("TREX_HOSTILE", "120"))
FIRST = int(os.environ.get("TREX_HOSTILE_SEED", "0"))
MOST_S = 20.0
MOST_MB = 600


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Loader]:
    return loaders(tmp_path_factory.mktemp("hostile"))


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_sound_files_are_read(known: dict[str, Loader]) -> None:
    for loader in known.values():
        loader.load()


@dataclass
class Tally:
    """What came of damaged files so far."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")

    def add(self, name: str, loader: Loader) -> None:
        """Read a file that may be damaged."""
        started = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loader.load()
            self.counts["read"] += 1
        except TrexError as error:
            self.counts["refused" if error.hint else "refused without a hint"] += 1
        except Exception:
            self.wrong.append(f"{name}:\n{traceback.format_exc(limit=-4)}")
        took = time.process_time() - started
        self.slowest = max(self.slowest, (took, name))
        if took > MOST_S:
            self.wrong.append(f"{name}: {took:.1f} s")

    def __str__(self) -> str:
        took, name = self.slowest
        return (
            f"{self.counts.total() + len(self.wrong)} files: {dict(self.counts)}, "
            f"{len(self.wrong)} wrong; slowest {took:.2f} s of processor time ({name})"
        )


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused(known: dict[str, Loader]) -> None:
    logging.getLogger("trex").setLevel(logging.ERROR)
    shares = sum(loader.weight for loader in known.values())
    tally, before = Tally(), peak_mb()
    try:
        for name, loader in known.items():
            data = loader.file.read_bytes()
            folder = {path.name for path in loader.file.parent.iterdir()}
            for seed in range(FIRST, FIRST + max(1, WANTED * loader.weight // shares)):
                loader.file.write_bytes(loader.repair(mutated(data, seed)))
                tally.add(f"{name}, seed {seed}", loader)
            loader.file.write_bytes(data)
            made = {path.name for path in loader.file.parent.iterdir()} - folder
            tally.wrong += [f"{name} left {left}" for left in made if left.endswith(".tmp")]
    finally:  # a campaign that is interrupted tells what it has found
        grown = peak_mb() - before
        print(f"{tally}; memory grew by {grown:.0f} MB")
        print("\n".join(tally.wrong[:12]))
    assert not tally.wrong
    assert tally.counts["refused without a hint"] == 0
    assert grown < MOST_MB


def test_no_file_runs_code(tmp_path: Path) -> None:
    """Pickles in every suffix that is read as a checkpoint."""
    import pickle

    from trex.models._checkpoint import read_checkpoint
    from trex.training.finetune.checkpoint import CheckpointFolder
    from trex.training.finetune.recipe import Checkpoints

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    for name in ("a.pth", "a.pt", "a.bin", "a.pth.tar", "a.safetensors", "step-000000001.pt"):
        for written in (pickle.dumps(Evil()), None):
            file = tmp_path / name
            if written is None:
                torch.save({"step": 1, "model": Evil()}, file)
            else:
                file.write_bytes(written)
            with pytest.raises(TrexError):
                read_checkpoint(file)
    assert CheckpointFolder(tmp_path, Checkpoints()).newest() is None
    assert not (tmp_path / "ran").exists()
