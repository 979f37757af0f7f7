"""What every test shares: one thread, and the way to the real data."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from small_runs import Inputs

# Before torch is imported anywhere: results and timings then do not depend on the machine's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


settings.register_profile("trex", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("trex")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs an accelerator or the internet, unless it is asked for by its marker."""
    asked = config.getoption("-m")
    for item in items:
        for name in ("gpu", "network"):
            if name in item.keywords and name not in asked:
                item.add_marker(pytest.mark.skip(reason=f"ask for it: pytest -m {name}"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data and weights; a test that asks for it skips where there is none."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TREX_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set TREX_TEST_DATA")
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> "Inputs":
    """A model's weights and images, small, for a module's commands."""
    from small_runs import write_inputs  # torch, which few tests need

    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(autouse=True)
def _untouched_logging() -> Iterator[None]:
    """A command sets up logging for its process; the next test has it as it was."""
    yield
    logger = logging.getLogger("trex")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)
