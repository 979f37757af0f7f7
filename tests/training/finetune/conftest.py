from pathlib import Path

import finetune_cases as cases
import pytest

from trex.models.registry import LoadedModel
from trex.training.data import ImageSet


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.write_images(tmp_path_factory.mktemp("images") / "all")


@pytest.fixture(scope="session")
def loaded() -> LoadedModel:
    return cases.original()


@pytest.fixture(scope="session")
def images(image_folder: Path, loaded: LoadedModel) -> ImageSet:
    return cases.open_images(image_folder, loaded)
