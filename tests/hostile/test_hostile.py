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
from pathlib import Path

import pytest
import torch
from loaders import Loader, loaders
from mutations import mutated

from trex.errors import TrexError

WANTED = int(os.environ.get("TREX_HOSTILE", "400"))
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


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused(known: dict[str, Loader]) -> None:
    logging.getLogger("trex").setLevel(logging.ERROR)
    shares = sum(loader.weight for loader in known.values())
    wrong: list[str] = []
    counts: Counter[str] = Counter()
    slowest, before = (0.0, ""), peak_mb()
    for name, loader in known.items():
        data = loader.file.read_bytes()
        folder = {path.name: path for path in loader.file.parent.iterdir()}
        for seed in range(FIRST, FIRST + max(1, WANTED * loader.weight // shares)):
            loader.file.write_bytes(loader.repair(mutated(data, seed)))
            started = time.perf_counter()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    loader.load()
                counts["read"] += 1
            except TrexError as error:
                counts["refused" if error.hint else "refused without a hint"] += 1
            except Exception:
                wrong.append(f"{name}, seed {seed}:\n{traceback.format_exc(limit=-4)}")
            took = time.perf_counter() - started
            slowest = max(slowest, (took, f"{name}, seed {seed}"))
            if took > MOST_S:
                wrong.append(f"{name}, seed {seed}: {took:.1f} s")
        loader.file.write_bytes(data)
        made = {path.name for path in loader.file.parent.iterdir()} - folder.keys()
        for left in made:
            if left.startswith("."):
                wrong.append(f"{name} left {left}")
    loaded = peak_mb() - before
    print(f"{sum(counts.values()) + len(wrong)} files: {dict(counts)}, wrong {len(wrong)}")
    print(f"slowest {slowest[0]:.2f} s ({slowest[1]}), memory grew by {loaded:.0f} MB")
    assert not wrong, f"{len(wrong)} wrong:\n" + "\n".join(wrong[:12])
    assert counts["refused without a hint"] == 0
    assert loaded < MOST_MB
    assert torch.get_num_threads() >= 1


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
