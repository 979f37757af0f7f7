"""Export folders: whole ones are never touched, unfinished ones are finished."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_variants import JOINT, images, variant
from tiny_models import logits_of

import trex
from trex.errors import ExportError
from trex.exporters import FORMATS, exporter
from trex.exporters.folder import check_folder
from trex.exporters.write import Probe, export

PROBE = Probe(images=images(), origin="noise", real=False)


def test_every_format_has_its_exporter_and_owns_its_main_file() -> None:
    for name in FORMATS:
        found = exporter(name)
        assert found.name == name
        assert found.owns(found.main)
        assert not found.owns("thesis.tex")
    with pytest.raises(ExportError, match="'hdf5' is not a format"):
        exporter("hdf5")


def test_a_finished_export_says_what_was_verified(tmp_path: Path) -> None:
    record = export([variant()], tmp_path / "out", exporter("bundle"), PROBE)
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == record
    (check,) = record["verified"]
    assert record["finished"]
    assert record["plans"] == [check["plan"]] == [JOINT]
    assert check["difference"] <= check["tolerance"]
    assert (check["images"], check["same_top1"], check["batch_sizes"]) == (4, 4, [1, 3])
    with pytest.raises(ExportError, match="not an empty folder, it holds a finished export"):
        export([variant()], tmp_path / "out", exporter("bundle"), PROBE)


@pytest.mark.parametrize("killed_at", ["begin", "weights", "verify"])
def test_an_unfinished_export_is_finished(
    killed_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise KilledError

    chosen, out = exporter("bundle"), tmp_path / "out"
    wrote: list[Path] = []

    def second(path: Path, content: bytes) -> None:
        if wrote:
            (path.parent / f".{path.name}.0123abcd.tmp").write_bytes(b"half")
            raise KilledError
        wrote.append(path)
        path.write_bytes(content)

    name, instead = {
        "begin": ("save_bundle", kill),
        "weights": ("write_atomic", second),
        "verify": ("load_bundle", kill),
    }[killed_at]
    with monkeypatch.context() as patch:
        patch.setattr(f"trex.exporters.bundle.{name}", instead)
        with pytest.raises(KilledError):
            export([variant()], out, chosen, PROBE)
    assert not json.loads((out / "export.json").read_text())["finished"]
    with pytest.raises(ExportError, match="holds an unfinished export to bundle"):
        check_folder(out, exporter("timm"))
    export([variant()], out, chosen, PROBE)
    names = sorted(path.name for path in out.iterdir())
    assert names == ["config.json", "export.json", "model.safetensors"]
    assert torch.equal(logits_of(trex.load(out), images()), logits_of(variant().model, images()))


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")
    for folder, told in (
        (tmp_path, "it holds old"),
        (tmp_path / "thesis.tex", "not an empty folder"),
        (tmp_path / "old", "it holds a config.json"),
    ):
        with pytest.raises(ExportError, match=told):
            export([variant()], folder, exporter("bundle"), PROBE)
    assert (tmp_path / "thesis.tex").read_text() == "mine"
    assert not (tmp_path / "export.json").exists()


def test_weights_without_their_configuration_are_of_a_killed_export(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".config.json.0123abcd.tmp").write_bytes(b"half")
    export([variant()], tmp_path, exporter("bundle"), PROBE)
    assert trex.load(tmp_path) is not None
    assert not (tmp_path / ".config.json.0123abcd.tmp").exists()


def test_an_answer_unlike_the_variant_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = variant().model
    with torch.no_grad():
        other.head.bias += 1e-2  # type: ignore[operator, union-attr]
    monkeypatch.setattr("trex.exporters.bundle.load_bundle", lambda folder: other)
    with pytest.raises(ExportError, match="answers unlike the running variant"):
        export([variant()], tmp_path / "out", exporter("bundle"), PROBE)
    # so the folder is not taken for a good one
    assert not json.loads((tmp_path / "out" / "export.json").read_text())["finished"]


def test_several_plans_go_into_folders_of_their_own(tmp_path: Path) -> None:
    both = [variant(), variant("")]
    record = export(both, tmp_path / "out", exporter("bundle"), PROBE)
    assert record["folders"] == [v.plan.key for v in both]
    for each in both:
        loaded = trex.load(tmp_path / "out" / each.plan.key)
        assert torch.equal(logits_of(loaded, images()), logits_of(each.model, images()))
    with pytest.raises(ExportError, match="two of the plans are the same"):
        export([variant(), variant()], tmp_path / "again", exporter("bundle"), PROBE)
