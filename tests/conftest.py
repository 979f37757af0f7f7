"""What every test shares: one thread, and the way to the real data."""

import os
from pathlib import Path

import pytest

# Before torch is imported anywhere: results and timings then do not depend on the machine's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data and weights; a test that asks for it skips where there is none."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TREX_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set TREX_TEST_DATA")
    return folder
