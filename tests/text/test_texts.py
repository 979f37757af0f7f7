"""Texts as the data pipeline has them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tiny_texts import SENTENCES, tiny_folder, write_cola

from trex.errors import DataError
from trex.models.registry import load
from trex.text.config import TextConfig
from trex.text.sources import COLA_CLASSES, open_texts
from trex.text.tokenizer import SPECIAL, build_tokenizer, encode, load_tokenizer
from trex.training.data import batches, dataset_fingerprint, open_dataset
from trex.training.transforms import DataConfig, eval_transform, input_config_from_json

pytest.importorskip("tokenizers", reason="the extra `text` is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def config(folder: Path) -> TextConfig:
    return TextConfig.of_model(load(str(folder), tokens=8).model)


def test_cola_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    file.write_text("gj04\t1\t\tOne  is\u2028good.\n\ncj99\t0\t*\tGood one.\r\n", encoding="utf-8")
    found = open_texts(f"cola:{file}")
    assert found.texts == ("One  is\u2028good.", "Good one.")
    assert [found.classes[label] for label in found.class_numbers()] == [*reversed(COLA_CLASSES)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no text"),
        ("a\t1\tno mark\n", "line 1 is not CoLA's"),
        ("a\t1\t\tgood\na\t2\t\tbad\n", "line 2 is not CoLA's"),
        ("a\t1\t\t \n", "line 1 is not CoLA's"),
        ("\n\na\t1\t\tgood\n\nbad\n", "line 5 is not CoLA's"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.tsv").write_text(content)
    with pytest.raises(DataError, match=message):
        open_texts(f"cola:{tmp_path / 'x.tsv'}")
    with pytest.raises(DataError, match="No such file"):
        open_texts(f"text:{tmp_path / 'y.tsv'}")


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("First.\nSecond.\n", encoding="utf-8-sig")
    assert open_texts(f"text:{tmp_path / 't.txt'}").texts == ("First.", "Second.")


def test_real_cola(shared_data: Path) -> None:
    found = open_texts(f"cola:{shared_data / 'cola' / 'in_domain_train.tsv'}")
    assert len(found) == 8551  # Warstadt et al., Table 2
    assert sum(found.labels) / len(found) == pytest.approx(0.704, abs=1e-3)


def test_texts_pass_through_the_pipeline(tmp_path: Path, config: TextConfig) -> None:
    file = write_cola(tmp_path / "c.tsv")
    texts = open_dataset(f"cola:{file}", transform=eval_transform(config), num_classes=2)
    (batch,) = batches(texts, batch_size=100)
    assert batch.images.shape == (len(SENTENCES), 2, 8)
    assert not batch.images.is_floating_point()
    assert set(batch.labels.tolist()) == {0, 1}
    unlabelled = tmp_path / "t.txt"
    unlabelled.write_text("\n".join(SENTENCES))
    same = open_dataset(f"text:{unlabelled}", transform=eval_transform(config), labels=False)
    assert torch.equal(next(iter(batches(same, 100))).images, batch.images)
    with pytest.raises(DataError, match="have no label"):
        open_dataset(f"text:{unlabelled}", transform=eval_transform(config))


def test_the_fingerprint_changes_with_any_text_or_label(tmp_path: Path, config) -> None:
    prints = set()
    for number, change in enumerate((str, str, lambda t: t.replace("cat", "dog"),
                                     lambda t: t.replace("\t1\t", "\t0\t", 1))):  # fmt: skip
        file = write_cola(tmp_path / f"{number}.tsv")
        file.write_text(change(file.read_text()))
        texts = open_dataset(f"cola:{file}", transform=eval_transform(config))
        prints.add(dataset_fingerprint(texts))
    assert len(prints) == 3


def test_texts_and_images_are_not_confused(tmp_path: Path, config: TextConfig) -> None:
    file = write_cola(tmp_path / "c.tsv")
    of_images = eval_transform(DataConfig.of_model(load_image_model()))
    with pytest.raises(DataError, match="holds texts, the model reads images"):
        open_dataset(f"cola:{file}", transform=of_images)
    pictures = tmp_path / "pictures" / "a"
    pictures.mkdir(parents=True)
    from PIL import Image

    Image.new("RGB", (4, 4)).save(pictures / "1.png")
    with pytest.raises(DataError, match="holds images, the model reads texts"):
        open_dataset(str(pictures.parent), transform=eval_transform(config))


def load_image_model():
    from trex.models.registry import create

    return create("test_vit")


def test_cutting_and_padding() -> None:
    tokenizer = build_tokenizer(SENTENCES, 200)
    short, long = encode(tokenizer, ["the cat", " ".join(["the cat"] * 20)], 6)
    begin, end = (tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    assert short[1].tolist() == [1, 1, 1, 1, 0, 0]
    assert short[0, 4:].tolist() == [0, 0]
    for ids, last in ((short[0], 3), (long[0], 5)):
        assert (ids[0], ids[last]) == (begin, end)
    assert long[1].all()
    assert [tokenizer.token_to_id(name) for name in SPECIAL] == [0, 1, 2, 3, 4]


def test_a_tokeniser_is_known_by_its_contents(folder: Path, config: TextConfig) -> None:
    assert input_config_from_json(asdict(config)) == config
    encode(load_tokenizer(str(folder)), ["the cat"], 99)
    assert TextConfig.of_model(load(str(folder), tokens=8).model) == config
    assert TextConfig.of_model(load(str(folder), tokens=8).model, str(folder)) == config
    file = folder / "tokenizer.json"
    text = file.read_text()
    try:
        build_tokenizer(["other words"], 50).save(str(file))
        with pytest.raises(DataError, match="another one than before"):
            config.load()
        build_tokenizer(SENTENCES, 5000).save(str(file))
        model = load(str(folder), tokens=8).model
        model.config.vocab_size = 40
        with pytest.raises(DataError, match="words, the model 40"):
            TextConfig.of_model(model)
        file.write_text("{}")
        with pytest.raises(DataError, match=r"tokeniser of .* cannot be had") as caught:
            config.load()
        assert "--tokenizer" in caught.value.hint
    finally:
        file.write_text(text)


def test_a_tokeniser_without_words_is_refused(folder: Path, tmp_path: Path) -> None:
    """For a folder without one, transformers makes a tokeniser to which every word is unknown."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in ("config.json", "model.safetensors"):
        (bare / file).write_bytes((folder / file).read_bytes())
    model = load(str(bare), tokens=8).model
    with pytest.raises(DataError, match="bare has no tokeniser") as caught:
        TextConfig.of_model(model)
    assert "--tokenizer" in caught.value.hint
    assert TextConfig.of_model(model, str(folder)).tokenizer == str(folder)
    words = load_tokenizer(str(folder)).get_vocab()
    (bare / "vocab.txt").write_text("\n".join(sorted(words, key=words.__getitem__)))
    old = TextConfig.of_model(model).load()
    assert old.encode("the cat").ids == load_tokenizer(str(folder)).encode("the cat").ids


@pytest.mark.parametrize("where", ["nowhere/tokenizer.json", "/no/such/folder", "./nowhere"])
def test_a_missing_tokeniser_file_is_not_looked_for_on_the_hub(where: str) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        load_tokenizer(where)


def test_a_tokeniser_that_pads_otherwise_is_of_another_model(folder: Path) -> None:
    model = load(str(folder), tokens=8).model
    model.config.pad_token_id = 1
    with pytest.raises(DataError, match="pads with token 0, the model with 1"):
        TextConfig.of_model(model)
