"""`--model package.module:factory`: called where it is named, never because a file names it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import SIDE, write_images

import trex
from trex.api.factories import is_factory, made_by
from trex.cli import main
from trex.errors import ModelError, TrexError

CHIP = "trex_fefet_32nm"
CODE = '''
import torch
from torch import nn
from timm.models.vision_transformer import VisionTransformer

class Own(VisionTransformer):
    """No name of timm's builds it."""

def vit(num_classes=4):
    torch.manual_seed(0)
    return Own(img_size=32, patch_size=8, embed_dim=48, depth=6, num_heads=3,
               num_classes=num_classes).eval()

def convolutions():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, 4))

def number():
    return 3

def broken():
    raise ValueError("no luck")

class Holder:
    vit = staticmethod(vit)
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the working folder, which nothing has imported."""
    (tmp_path / "mine_for_tests").mkdir()
    (tmp_path / "mine_for_tests" / "__init__.py").write_text("")
    (tmp_path / "mine_for_tests" / "models.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    forget()
    yield "mine_for_tests.models"
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.startswith("mine_for_tests")]:
        del sys.modules[name]


def imported() -> bool:
    return "mine_for_tests" in sys.modules


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.b:c", True), ("a:c.d", True), ("deit_tiny_patch16_224", False),
        ("object:MyViT", False), ("object:a.b:c", False), ("timm/deit:", False), ("a b:c", False),
        ("hf-hub:timm/vit", False), ("runs/a:b", False),
    ],
)  # fmt: skip
def test_what_is_a_factory(name: str, expected: bool) -> None:
    assert is_factory(name) is expected


def test_a_factory_s_model_is_priced_with_its_plan(package: str) -> None:
    whole = trex.price(f"{package}:vit", CHIP)
    less = trex.price(f"{package}:vit", CHIP, plan="2<-1 5=class")
    assert less.latency_s < whole.latency_s
    assert trex.price(f"{package}:Holder.vit", CHIP).latency_s == whole.latency_s


def test_one_that_no_adapter_fits_is_priced_too(package: str) -> None:
    assert trex.price(f"{package}:convolutions", CHIP).latency_s > 0
    with pytest.raises(TrexError, match="no encoders"):
        trex.price(f"{package}:convolutions", CHIP, plan="2<-1")


@pytest.mark.parametrize(
    ("factory", "sizes", "message"),
    [
        ("nothing", {}, "has no function nothing"),
        ("number", {}, "makes a int, no torch.nn.Module"),
        ("broken", {}, "failed: ValueError: no luck"),
        ("vit", {"img_size": 64}, "takes no img_size"),
    ],
)
def test_what_cannot_be_made_is_told(package: str, factory: str, sizes, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        made_by(f"{package}:{factory}", sizes)
    assert caught.value.hint


def test_a_module_that_is_not_there(package: str) -> None:
    with pytest.raises(ModelError, match="cannot be imported: ModuleNotFoundError"):
        made_by("mine_for_tests.other:vit", {})


def test_a_run_never_imports_what_it_names(
    package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, run, factory = write_images(tmp_path / "images"), tmp_path / "run", f"{package}:vit"
    asked = ["search", "--model", factory, "--num-classes", "4", "--hw", CHIP]
    asked += ["--max-latency", "0.8x", "--space", "default", "--calib", str(images)]
    asked += ["--out", str(run), "--evaluations", "2", "--refine-rounds", "0"]
    assert main([*asked, "--final-views", "1"]) == 0
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["settings"]["model"] == f"object:{factory}"
    assert manifest["settings"]["model_args"] == {"num_classes": 4}
    measure = ["evaluate", str(run), "--data", str(images)]
    forget()
    capsys.readouterr()
    assert main(measure) != 0
    told = capsys.readouterr().err
    assert f"--model {factory}" in told
    assert main(["report", str(run)]) == 0
    assert not imported()
    assert main([*measure, "--model", factory]) == 0
    assert imported()
    with pytest.raises(ModelError, match="no factory"):
        raise_from([*measure, "--model", "deit_tiny_patch16_224"])


def raise_from(arguments: list[str]) -> None:
    """The error of a command line."""
    from trex.cli import build_parser

    args = build_parser().parse_args(arguments)
    args.run(args)


@pytest.mark.parametrize(
    "named", ["mine_for_tests.models:vit", "object:mine_for_tests.models:vit"]
)
def test_a_file_that_was_changed_to_name_a_factory_is_refused(
    package: str, tmp_path: Path, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    trex.fit(made_by(f"{package}:vit", {}), ["2<-1"], images_of_noise(), out=run)
    forget()
    changed = 0
    for path in run.rglob("*.json"):
        text = path.read_text()
        assert "mine_for_tests" not in text
        path.write_text(text.replace('"object:Own"', f'"{named}"'))
        changed += path.read_text() != text
    assert changed >= 2
    images = write_images(tmp_path / "images")
    assert main(["evaluate", str(run), "--data", str(images)]) != 0
    with pytest.raises(TrexError):
        trex.load(run / "best")
    assert not imported()


def images_of_noise():
    import torch

    return torch.randn(24, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
