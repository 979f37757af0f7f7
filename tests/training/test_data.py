"""Data sets: every way to open one, every way it can be wrong, and the same images every time."""

import io
import logging
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import timm.data
import torch
from PIL import Image
from torch import Tensor

from trex.errors import DataError
from trex.training.data import (
    CorruptImage,
    Example,
    ImageSet,
    batches,
    dataset_fingerprint,
    open_dataset,
)
from trex.training.transforms import DataConfig, eval_transform, fitting_views

CONFIG = DataConfig(
    input_size=(3, 16, 16),
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    interpolation="bicubic",
    crop_pct=1.0,
    crop_mode="center",
)


def png(value: int, size: tuple[int, int] = (20, 24)) -> bytes:
    pixels = np.random.default_rng(value).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images, four each of the classes a, b and c."""
    for number in range(12):
        path = tmp_path / "images" / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return tmp_path / "images"


def tarred(folder: Path, *, order: int = 1) -> Path:
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder.rglob("*.png"))[::order]:
            tar.add(file, file.relative_to(folder))
    return path


def opened(source: Path | str, **options: Any) -> ImageSet:
    return open_dataset(str(source), **{"transform": eval_transform(CONFIG), **options})


def content(images: ImageSet, workers: int = 0) -> dict[str, tuple[int, Tensor]]:
    return {
        images.name(int(index)): (int(label), image)
        for batch in batches(images, 5, workers)
        for image, label, index in zip(*batch, strict=True)
    }


def assert_same(a: dict[str, tuple[int, Tensor]], b: dict[str, tuple[int, Tensor]]) -> None:
    assert list(a) == list(b)
    for name, (label, image) in a.items():
        assert label == b[name][0]
        assert torch.equal(image, b[name][1])


def test_folders_are_classes_in_order(folder: Path) -> None:
    images = opened(folder, num_classes=3)
    assert len(images) == 12
    assert [images.name(i) for i in range(4)] == ["a/0.png", "a/3.png", "a/6.png", "a/9.png"]
    assert images.labels == (0,) * 4 + (1,) * 4 + (2,) * 4
    example = images[5]
    assert isinstance(example, Example)
    assert (example.label, example.index, example.image.shape) == (1, 5, (3, 16, 16))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # timm leaves its files open
def test_images_are_timms_own(folder: Path) -> None:
    theirs = timm.data.create_dataset("", root=str(folder), transform=eval_transform(CONFIG))
    ours = opened(folder)
    for i in range(12):
        image, label = theirs[i]
        example = ours[i]
        assert isinstance(example, Example)
        assert torch.equal(example.image, image)
        assert example.label == label


@pytest.mark.parametrize("order", [1, -1])
def test_a_tar_is_its_folder(order: int, folder: Path) -> None:
    tar = tarred(folder, order=order)
    assert_same(content(opened(tar)), content(opened(folder)))
    assert dataset_fingerprint(opened(tar)) == dataset_fingerprint(opened(folder))


def test_a_tar_of_tars_is_read_by_position(folder: Path) -> None:
    outer = folder.parent / "outer.tar"
    for name in "abc":
        tarred(folder / name)
    with tarfile.open(outer, "w") as tar:
        for name in "abc":
            tar.add(folder / f"{name}.tar", f"{name}.tar")
    nested, flat = opened(outer), opened(folder)
    assert nested.labels == flat.labels
    for i in range(12):
        ours, theirs = nested[i], flat[i]
        assert isinstance(ours, Example)
        assert isinstance(theirs, Example)
        assert torch.equal(ours.image, theirs.image)


@pytest.mark.parametrize("source", ["folder", "tar"])
def test_worker_processes_change_nothing(source: str, folder: Path) -> None:
    images = opened(folder if source == "folder" else tarred(folder))
    alone = content(images)
    assert_same(content(images, workers=2), alone)


def test_a_class_map_numbers_the_folders(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "map.txt").write_text("x\nc\ny\na\n")
    with caplog.at_level(logging.WARNING, "trex"):
        images = opened(folder, class_map=tmp_path / "map.txt", num_classes=4)
    assert images.labels == (3,) * 4 + (1,) * 4
    assert "left out 4 of 12 images" in caplog.text
    theirs = timm.data.create_dataset(
        "", root=str(folder), class_map=str(tmp_path / "map.txt")
    ).reader
    assert [label for _, label in theirs.samples] == list(images.labels)


@pytest.mark.parametrize(
    ("names", "num_classes", "message"),
    [
        (None, 2, "class c is number 2, but the model's head has 2 classes"),
        (None, 1000, "3 classes, but the model's head has 1000, and nothing says which"),
        ("a\nb\nx\nx2\nx3\nc", 5, "class c is number 5, but the model's head has 5 classes"),
        ("x\ny", 2, "none of its 3 classes, such as a, is in"),
    ],
)
def test_labels_outside_the_head_are_refused(
    names: str | None, num_classes: int, message: str, folder: Path, tmp_path: Path
) -> None:
    class_map = None if names is None else tmp_path / "map.txt"
    if class_map is not None and names is not None:
        class_map.write_text(names)
    with pytest.raises(DataError, match=message) as caught:
        opened(folder, class_map=class_map, num_classes=num_classes)
    assert "--class-map" in caught.value.hint
    assert opened(folder, num_classes=num_classes, labels=False).labels is None


def test_labels_are_optional(folder: Path) -> None:
    flat = folder.parent / "flat"
    (flat / "deeper").mkdir(parents=True)
    shutil.copy(folder / "a" / "0.png", flat / "x.png")
    shutil.copy(folder / "a" / "3.png", flat / "deeper" / "y.png")
    images = opened(flat, labels=False)
    assert [images.name(i) for i in range(2)] == ["deeper/y.png", "x.png"]
    assert next(iter(batches(images, 2))).labels.tolist() == [-1, -1]
    with pytest.raises(DataError, match="images outside class folders"):
        opened(flat)


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty" / "a").mkdir(parents=True)
    (tmp_path / "text.tar").write_text("hello")
    (tmp_path / "image.png").write_bytes(png(0))
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    for source, message in (
        (tmp_path / "none", "no such file or folder"),
        (tmp_path / "empty", "no readable images in it"),
        (tmp_path / "text.tar", "no readable images in it"),
        (tmp_path / "empty.tar", "no readable images in it"),
        (tmp_path / "image.png", "neither a folder nor a .tar"),
        ("wds/shards", "only streams its images"),
        ("torch/nonsense", "cannot be opened"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            opened(source)
        assert caught.value.hint
        assert "\n" not in caught.value.message
    with pytest.raises(DataError, match="no such file"):
        opened(tmp_path, class_map=tmp_path / "none.txt", labels=True)


def test_a_hub_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, **options: Any) -> None:
        print("please install")
        raise ImportError("no module", name="datasets")

    monkeypatch.setattr(timm.data, "create_dataset", create)
    with pytest.raises(DataError, match="needs the package datasets") as caught:
        opened("hfds/someone/pictures")
    assert caught.value.hint == "pip install datasets"


class Hub:
    """As torchvision's data sets: pictures, targets and names."""

    class_to_idx = {"cat": 0, "dog": 1}  # noqa: RUF012
    targets = (1, 0, 1)

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        return Image.open(io.BytesIO(png(number))).convert("L"), self.targets[number]


def test_a_hub_is_read_by_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {}

    def create(name: str, **options: Any) -> Hub:
        asked.update(options, name=name)
        print("downloading")
        return Hub()

    monkeypatch.setattr(timm.data, "create_dataset", create)
    images = opened("torch/pictures:train", num_classes=2)
    assert (asked["name"], asked["split"]) == ("torch/pictures", "train")
    assert images.labels == (1, 0, 1)
    assert next(iter(batches(images, 3))).images.shape == (3, 3, 16, 16)
    assert capsys.readouterr().out == ""


def spoil(folder: Path) -> None:
    cut = folder / "a" / "3.png"
    cut.write_bytes(cut.read_bytes()[:200])
    (folder / "b" / "4.png").write_text("not an image")
    (folder / "c" / "2.png").write_bytes(b"")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("source", ["folder", "tar"])
def test_unreadable_images_are_left_out_and_nothing_moves(
    workers: int, source: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = content(opened(folder))
    spoil(folder)
    images = opened(folder if source == "folder" else tarred(folder))
    with caplog.at_level(logging.WARNING, "trex.training.data"):
        loader = batches(images, 4, workers)
        indices = torch.cat([batch.indices for batch in loader]).tolist()
    spoiled = ["a/3.png", "b/4.png", "c/2.png"]
    assert loader.skipped == spoiled
    assert "skipped 3 of 12 images" in caplog.text
    assert all(f"skipped {name}: " in caplog.text for name in spoiled)
    assert indices == [0, 2, 3, 4, 6, 7, 9, 10, 11]
    kept = {name: value for name, value in whole.items() if name not in spoiled}
    assert_same(content(images, workers), kept)
    assert isinstance(images[1], CorruptImage)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_an_error_where_asked(workers: int, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(DataError, match=r"images: a/3\.png cannot be read: ") as caught:
        list(batches(opened(folder, strict=True), 4, workers))
    assert "--strict" in caught.value.hint


def test_only_unreadable_images_are_an_error(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.write_text("not an image")
    with pytest.raises(DataError, match="none of its 12 images can be read"):
        list(batches(opened(folder), 4))


def test_a_fingerprint_is_of_names_sizes_and_labels(folder: Path, tmp_path: Path) -> None:
    first = dataset_fingerprint(opened(folder))
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    assert dataset_fingerprint(opened(copy)) == first
    assert dataset_fingerprint(opened(folder).subset(11, 0)) != first
    assert dataset_fingerprint(opened(folder, labels=False)) != first
    (copy / "a" / "0.png").write_bytes(png(0) + b" ")
    changed = dataset_fingerprint(opened(copy))
    (copy / "a" / "0.png").write_bytes(png(0))
    (copy / "a" / "0.png").rename(copy / "a" / "1.png")
    assert len({first, changed, dataset_fingerprint(opened(copy))}) == 3


def test_subsets_are_nested_and_keep_their_labels(folder: Path) -> None:
    images = opened(folder)
    small, large = images.subset(4, 7), images.subset(9, 7)
    assert set(small.positions) < set(large.positions)
    assert small.positions == images.subset(4, 7).positions != images.subset(4, 8).positions
    for part in (small, large):
        assert part.labels == tuple(images.labels[p] for p in part.positions)  # type: ignore[index]
    for n in (0, 13):
        with pytest.raises(DataError, match=f"cannot take {n} of 12"):
            images.subset(n, 0)


def test_splits_share_no_image_and_lose_none(folder: Path) -> None:
    images = opened(folder)
    parts = images.split((0.5, 0.25, 0.25), 3)
    assert [len(part) for part in parts] == [6, 3, 3]
    assert sorted(p for part in parts for p in part.positions) == list(range(12))
    assert len(images.split((1 / 3,), 3)[0]) == 4
    for fractions in ((0.5, 0.6), (0.01, 0.5), (-0.5, 0.5), (0.5, 0.0)):
        with pytest.raises(DataError, match="cannot be split"):
            images.split(fractions, 3)


def test_reading_leaves_the_random_state_alone(folder: Path) -> None:
    images = opened(folder)
    before = torch.get_rng_state()
    list(batches(images, 4))
    list(batches(images.with_views(fitting_views(CONFIG, 2, 0)), 4))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_mixed_view_holds_a_part_of_another_picture() -> None:
    views = fitting_views(CONFIG, 4, 3)
    assert [views.mixes(view) for view in range(8)] == [False, True, True, True] * 2
    zeros, ones = torch.zeros(3, 16, 16), torch.ones(3, 16, 16)
    for view in (1, 2, 5):
        pasted = views.mix(zeros, ones, "x", view)
        assert set(pasted.unique().tolist()) == {0.0, 1.0}
        assert 0.2 < pasted.mean() < 0.76
    assert torch.equal(views.mix(zeros, ones, "x", 3), torch.full((3, 16, 16), 0.5))
    assert {views.partner("x", view, 3) for view in range(40)} == {0, 1, 2}


def test_crops_depend_on_seed_picture_and_view_alone(folder: Path) -> None:
    images = opened(folder)
    views = images.with_views(fitting_views(CONFIG, 3, 5))
    assert len(views) == 36
    all_views = torch.cat([batch.images for batch in batches(views, 7)])
    in_workers = torch.cat([batch.images for batch in batches(views, 5, workers=2)])
    assert torch.equal(in_workers, all_views)
    assert len({view.numpy().tobytes() for view in all_views}) == 36
    part = images.subset(5, 1)
    of_part = torch.cat(
        [b.images for b in batches(part.with_views(fitting_views(CONFIG, 2, 5)), 9)]
    )
    for i, position in enumerate(part.positions):
        assert torch.equal(of_part[2 * i], all_views[3 * position])
    other_seed = torch.cat(
        [b.images for b in batches(images.with_views(fitting_views(CONFIG, 3, 6)), 9)]
    )
    assert not torch.equal(other_seed, all_views)


def test_views_keep_numbers_and_only_unmixed_ones_a_label(folder: Path) -> None:
    images = opened(folder)
    (batch,) = batches(images.with_views(fitting_views(CONFIG, 2, 0)), 24)
    assert batch.indices.tolist() == list(range(24))
    assert batch.labels.tolist() == [each for label in images.labels or () for each in (label, -1)]


def test_half_of_the_views_are_mirrored() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], (64, 64, 3))
    image = Image.fromarray(np.ascontiguousarray(ramp))
    views = fitting_views(CONFIG, 200, 0)
    rising = [
        bool(view[0, 8, 15] > view[0, 8, 0]) for v in range(200) for view in [views(image, "x", v)]
    ]
    assert 80 < sum(rising) < 120  # 100 ± 2.8 standard deviations


def test_a_models_own_preprocessing() -> None:
    model = timm.create_model("deit_tiny_patch16_224", depth=1)
    config = DataConfig.of_model(model)
    assert config.input_size == (3, 224, 224)
    assert config.mean == timm.data.IMAGENET_DEFAULT_MEAN
    assert (config.interpolation, config.crop_pct) == ("bicubic", 0.9)
    mine = DataConfig.of_model(model, mean=(0.5, 0.5, 0.5), std=[1, 1, 1])
    assert (mine.mean, mine.std, mine.crop_pct) == ((0.5, 0.5, 0.5), (1, 1, 1), 0.9)


def test_the_size_and_channels_a_model_was_built_for() -> None:
    model = timm.create_model("deit_tiny_patch16_224", depth=1, img_size=(32, 48), in_chans=1)
    with pytest.raises(DataError, match="is not 1 numbers"):
        DataConfig.of_model(model)
    config = DataConfig.of_model(model, mean=[0.1], std=[0.3])
    assert config.input_size == (1, 32, 48)
    image = Image.open(io.BytesIO(png(0)))
    grey = np.asarray(image.convert("L").resize((48, 32)))
    assert eval_transform(config)(image).shape == (1, *grey.shape)
    assert fitting_views(config, 1, 0)(image, "x", 0).shape == (1, 32, 48)
    assert model(eval_transform(config)(image)[None]).shape == (1, 1000)


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.5, 0.5), None), (None, (1.0,)), (None, (1, 0, 1)), ((float("nan"), 0, 0), None)],
)
def test_impossible_normalisations_are_refused(mean: Any, std: Any) -> None:
    model = timm.create_model("deit_tiny_patch16_224", depth=1)
    with pytest.raises(DataError, match=r"--(mean|std)"):
        DataConfig.of_model(model, mean=mean, std=std)


def test_values_are_normalised_as_written() -> None:
    white = Image.new("RGB", (20, 20), (255, 255, 255))
    expected = torch.full((3, 16, 16), 1.0)  # (1 - 0.5) / 0.5
    torch.testing.assert_close(eval_transform(CONFIG)(white), expected)
    torch.testing.assert_close(fitting_views(CONFIG, 1, 0)(white, "x", 0), expected)


def test_real_folders_and_tars_open(shared_data: Path) -> None:
    synsets = shared_data / "imagenet_synsets.txt"
    sizes = {"imagenet_calib": 1000, "imagenet_dev": 1000, "tiny_imagenet_20k.tar": 20_000}
    for name, size in sizes.items():
        images = opened(shared_data / name, class_map=synsets, num_classes=1000)
        assert len(images) == size
        example = images[size // 2]
        assert isinstance(example, Example)
        assert images.name(size // 2).split("/")[0] == synsets.read_text().split()[example.label]
    with pytest.raises(DataError, match="430 classes, but the model's head has 1000"):
        opened(shared_data / "imagenet_dev", num_classes=1000)
