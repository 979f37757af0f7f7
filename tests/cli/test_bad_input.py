"""Whatever is wrong with the input: one line, a hint, the right code, nothing half-made."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_runs import CLASSES, Inputs, write_images

import trex.search.pick  # noqa: F401 (it binds `load`: not first while a test has replaced that)
from trex.cli import main
from trex.datafiles import data_folder
from trex.models.registry import create

COST = ("cost", "--model", "deit_tiny_patch16_224", "--hw", "trex_fefet_32nm")
CHIP = data_folder("hw_models") / "trex_fefet_32nm" / "chip.yaml"


@pytest.fixture(scope="module")
def run_folder(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(inputs.search(out)) == 0
    return out


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail, and return its message and hint."""

    def run(arguments: list[str] | tuple[str, ...], code: int = 2) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        found = re.search(
            rf"^trex {arguments[0]}: error: (.+)\n  hint: (.+)\n\Z", captured.err, re.MULTILINE
        )
        assert found, captured.err
        return f"{found[1]}\n{found[2]}"

    return run


# ---- files that are missing, empty or of something else


@pytest.mark.parametrize(
    "command",
    [
        ("search", "--hw", "trex_fefet_32nm", "--max-latency", "0.9x", "--out", "out", "--calib"),
        ("compare", "--hw", "trex_fefet_32nm", "--max-latency", "0.9x", "--data"),
        ("fit", "--plan", "3<-2", "--out", "out", "--calib"),
        ("cost", "--hw", "neurosim_sram_22nm", "--accounting", "full", "--calib"),
    ],
)
def test_weights_are_not_fetched_for_images_that_are_missing(
    command: tuple[str, ...], tmp_path: Path, refused, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trex.models.registry.load", lambda *_, **__: pytest.fail("loaded"))
    message = refused((command[0], "--model", "deit_tiny_patch16_224", *command[1:], "nowhere"))
    assert "nowhere: no such file or folder" in message


@pytest.mark.parametrize("flag", ["--weights", "--calib", "--eval", "--class-map", "--space"])
def test_a_missing_file(flag: str, inputs: Inputs, tmp_path: Path, refused) -> None:
    missing = str(tmp_path / "missing.yaml")
    message = refused([*inputs.search(tmp_path / "run"), flag, missing])
    assert missing in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["--calib", "--eval"])
def test_an_empty_folder(flag: str, inputs: Inputs, tmp_path: Path, refused) -> None:
    (tmp_path / "empty").mkdir()
    message = refused([*inputs.search(tmp_path / "run"), flag, str(tmp_path / "empty")])
    assert "no readable images" in message
    assert not (tmp_path / "run").exists()


def test_only_corrupt_images(inputs: Inputs, tmp_path: Path, refused) -> None:
    calib = write_images(tmp_path / "calib", each=1)
    for path in calib.rglob("*.png"):
        path.write_bytes(b"not an image")
    message = refused(inputs.search(tmp_path / "run", "--calib", str(calib)))
    assert "can be read" in message


def test_too_few_images_to_split(inputs: Inputs, tmp_path: Path, refused) -> None:
    calib = write_images(tmp_path / "calib", each=1)
    for path in sorted(calib.rglob("*.png"))[1:]:
        path.unlink()
    message = refused(inputs.search(tmp_path / "run", "--calib", str(calib)))
    assert "cannot be split" in message


def test_labels_outside_the_heads_classes(inputs: Inputs, tmp_path: Path, refused) -> None:
    labelled = write_images(tmp_path / "more", each=1)
    shutil.copytree(labelled / "ant", labelled / "elk")
    message = refused([*inputs.search(tmp_path / "run"), "--eval", str(labelled)])
    assert f"class elk is number 4, but the model's head has {len(CLASSES)} classes" in message
    assert not (tmp_path / "run").exists()


def test_evaluation_needs_labels(
    inputs: Inputs, run_folder: Path, tmp_path: Path, refused
) -> None:
    flat = tmp_path / "flat"
    shutil.copytree(inputs.labelled / "ant", flat)
    message = refused(["evaluate", str(run_folder), "--data", str(flat)])
    assert "outside class folders" in message


def test_a_checkpoint_of_another_architecture(inputs: Inputs, tmp_path: Path, refused) -> None:
    other = tmp_path / "other.safetensors"
    save_file(create("test_vit2", num_classes=4, img_size=32).state_dict(), other)
    message = refused([*inputs.search(tmp_path / "run"), "--weights", str(other)])
    assert f"{other} does not fit test_vit" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04"])
def test_a_damaged_checkpoint(content: bytes, inputs: Inputs, tmp_path: Path, refused) -> None:
    for suffix in (".safetensors", ".pth"):
        file = tmp_path / f"weights{suffix}"
        file.write_bytes(content)
        assert str(file) in refused([*inputs.search(tmp_path / "run"), "--weights", str(file)])
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_holds_code(inputs: Inputs, tmp_path: Path, refused) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"model": Path("/tmp")}, file)
    assert str(file) in refused([*inputs.search(tmp_path / "run"), "--weights", str(file)])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "diet_tiny_patch16_224"], "did you mean deit_tiny_patch16_224"),
        (
            ["--model", "xcit_nano_12_p8_224"],
            "a family in which TReX cannot reuse attention",
        ),
        (["--num-classes", "-1"], "-1 classes"),
        (["--num-classes", "7"], "does not fit"),
        (["--mean", "0.5"], "--mean 0.5 is not 3 numbers"),
        (["--std", "0.5", "0", "0.5"], "not positive"),
        (["--evaluations", "0"], "--evaluations 0 is too small"),
        (["--final-views", "-1"], "--final-views -1 is too small"),
        (["--hw", "trex_fefet_23nm"], "'trex_fefet_32nm'"),
        (["--space", "defualt"], "'default'"),
    ],
    ids=str,
)
def test_a_value_that_cannot_be(
    flags: list[str], message: str, inputs: Inputs, tmp_path: Path, refused
) -> None:
    assert message in refused([*inputs.search(tmp_path / "run"), *flags])
    assert not (tmp_path / "run").exists()


# ---- plans


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("3<-5", "encoder 3 reuses encoder 5, which runs later"),
        ("3<-2 4<-3", "encoder 4 reuses encoder 3, which is itself a consumer"),
        ("12<-11", "names encoder 12, but the model has 12 encoders"),
        ("3-2", "is not part of a plan"),
        ("3~120", "encoder 3 merges 120 pairs of 197 tokens; at most 98"),
        ("4=class", "encoder 4 cannot compute its class rows only: encoder 5 reads all of them"),
        ("3<-2:maps", "unknown tensor 'maps'"),
    ],
)
def test_a_plan_that_cannot_run(plan: str, message: str, refused) -> None:
    assert message in refused([*COST, "--plan", plan])
    if plan != "3-2":
        assert message in refused(["check", plan, "--model", "deit_tiny_patch16_224"])


@pytest.mark.parametrize(
    ("plan", "flags", "message"),
    [
        ("3<-5", [], "encoder 3 reuses encoder 5, which runs later"),
        ("3<-2:output/cubic", [], "'cubic' is not a transform"),
        ("6<-2", [], "names encoder 6, but the model has 6 encoders"),
        ("3~4", [], "encoder 3 merges 4 pairs of 5 tokens; at most 2"),
        ("3=class", [], "encoder 3 cannot compute its class rows only"),
        ("", [], "names nothing that is done"),
        ("3<-2", ["--plan", "2~1 3~2"], "encoder 3 merges 2 pairs of 4 tokens; at most 1"),
        ("3<-2", ["--batch-size", "0"], "--batch-size 0 is too small"),
        ("3<-2", ["--hw", "trex_fefet_23nm"], "'trex_fefet_32nm'"),
        ("3<-2", ["--calib", "nowhere"], "nowhere: no such file or folder"),
    ],
    ids=str,
)
def test_what_cannot_be_fitted_is_refused_before_any_weights(
    plan: str, flags: list[str], message: str, inputs: Inputs, tmp_path: Path, refused, monkeypatch
) -> None:
    monkeypatch.setattr("trex.models.registry.load", lambda *_, **__: pytest.fail("loaded"))
    told = refused(inputs.fit(tmp_path / "run", plan, more=tuple(flags)))
    assert message in told.partition("\n")[0] or message in told
    assert not (tmp_path / "run").exists()


def test_a_fit_goes_into_no_other_runs_folder(inputs: Inputs, tmp_path: Path, refused) -> None:
    run = tmp_path / "run"
    assert main(inputs.fit(run, "3~1")) == 0
    before = (run / "results.jsonl").read_bytes()
    message = refused(inputs.fit(run, "3~1", "4~1"))
    assert 'holds a run of other settings: plans was ["3~1"], now it is ["3~1", "4~1"]' in message
    message = refused(inputs.search(run))
    assert "holds a run of other settings" in message
    assert (run / "results.jsonl").read_bytes() == before


def test_a_plan_the_run_has_not_measured(
    inputs: Inputs, run_folder: Path, tmp_path: Path, refused
) -> None:
    flags = ["--pick", "1<-0:map"]
    unmeasured = 'has not measured the plan "1<-0:map"'
    assert unmeasured in refused(
        ["evaluate", str(run_folder), "--data", str(inputs.labelled), *flags]
    )
    assert unmeasured in refused(
        ["export", str(run_folder), "--out", str(tmp_path / "out"), *flags]
    )
    assert not (tmp_path / "out").exists()


# ---- chips and spaces


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("write_energy_j: {value: 118.0e-12", "write_energy_j: {value: 1e-5", "is text, not a"),
        (
            "write_energy_j: {value: 118.0e-12",
            "write_energy_j: {value: -1.0e-12",
            "write_energy_j",
        ),
        ("write_energy_j: {value: 118.0e-12", "write_energy_j: {value: .nan", "not a number"),
        ("    write_energy_j:", "    write_energy_pj:", "did you mean 'write_energy_j'"),
        ("    write_energy_j:", "    # write_energy_j:", "write_energy_j: is missing"),
        ("kind: trex", "kind: trexx", "unknown kind 'trexx'"),
        ("name: trex_fefet_32nm", "name: [", "syntax"),
    ],
    ids=["text", "negative", "nan", "unknown", "missing", "kind", "syntax"],
)
def test_a_chip_that_cannot_be(old: str, new: str, message: str, tmp_path: Path, refused) -> None:
    text = CHIP.read_text(encoding="utf-8")
    assert old in text
    chip = tmp_path / "chip.yaml"
    chip.write_text(text.replace(old, new, 1), encoding="utf-8")
    for arguments in (
        ["cost", "--model", "deit_tiny_patch16_224", "--hw", str(chip)],
        ["check", str(chip)],
    ):
        found = refused(arguments)
        assert message in found
        assert re.search(rf"{re.escape(str(chip))}:\d+: ", found)


def test_a_space_that_cannot_be(inputs: Inputs, tmp_path: Path, refused) -> None:
    space = tmp_path / "mine.yaml"
    space.write_text("description: a test\nmax_runs: 2\n")
    for arguments in (
        inputs.search(tmp_path / "run", "--space", str(space)),
        ["check", str(space)],
    ):
        found = refused(arguments)
        assert f"{space}:2: max_runs: is not a known field\ndid you mean 'max_run'?" in found
    assert not (tmp_path / "run").exists()


# ---- budgets


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-latency", "9"], "--max-latency '9' has no unit"),
        (["--max-latency", "9lightyears"], "unknown unit 'lightyears'"),
        (["--max-energy", "9ms"], "--max-energy '9ms' has the unknown unit 'ms'"),
        (["--max-area", "0mm2"], "--max-area 0mm2 is not above zero"),
        (["--max-latency", "-0.5x"], "unknown unit 'x'"),
    ],
    ids=str,
)
def test_a_budget_that_cannot_be(
    flags: list[str], message: str, inputs: Inputs, tmp_path: Path, refused
) -> None:
    arguments = inputs.search(tmp_path / "run")
    arguments = [*arguments, f"{flags[0]}={flags[1]}"]
    assert message in refused(arguments)
    assert not (tmp_path / "run").exists()


def test_no_budget_at_all(inputs: Inputs, tmp_path: Path, refused) -> None:
    arguments = inputs.search(tmp_path / "run")
    at = arguments.index("--max-latency")
    assert "no budget was given" in refused(arguments[:at] + arguments[at + 2 :])


def test_an_impossible_budget_names_the_nearest_plan_and_the_gap(
    inputs: Inputs, tmp_path: Path, refused
) -> None:
    message = refused([*inputs.search(tmp_path / "run"), "--max-latency", "0.01x"], code=3)
    assert 'none of 32 plans fits the budget; the nearest is "1<-0 2<-0 3<-0 4<-0 5<-0"' in message
    assert re.search(r"latency [\d.]+ \ws \(allowed [\d.]+ \ws, \+[\d.]+%\)", message)
    assert not (tmp_path / "run").exists()


# ---- run folders and bundles


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("flags", "setting"),
    [
        (["--seed", "1"], "search.seed was 0, now it is 1"),
        (["--evaluations", "4"], "search.evaluations was "),
        (["--max-latency", "0.7x"], 'budget was "latency <= 0.8x", now it is "latency <= 0.7x"'),
        (["--hw", "trex_sram_32nm"], 'chip was "trex_fefet_32nm", now it is "trex_sram_32nm"'),
        (["--mean", "0", "0", "0"], "data.mean was ["),
        (["--accounting", "full"], 'accounting was "paper", now it is "full"'),
    ],
    ids=str,
)
def test_a_run_of_other_settings(
    flags: list[str], setting: str, inputs: Inputs, run_folder: Path, refused
) -> None:
    before = contents(run_folder)
    message = refused([*inputs.search(run_folder), *flags])
    assert f"{run_folder} holds a run of other settings: {setting}" in message
    assert "nothing was changed" in message
    assert contents(run_folder) == before


def test_a_run_of_other_images(inputs: Inputs, run_folder: Path, tmp_path: Path, refused) -> None:
    other = write_images(tmp_path / "other", seed=9)
    (other / "ant" / "0.png").unlink()
    message = refused([*inputs.search(run_folder), "--calib", str(other)])
    assert "other settings: calibration_contents_sha256 was" in message


def test_a_folder_that_is_no_run(inputs: Inputs, tmp_path: Path, refused) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    assert "is not a run folder" in refused(inputs.search(tmp_path / "thesis"))
    for verb, flags in (
        ("evaluate", ["--data", str(inputs.labelled)]),
        ("export", ["--out", str(tmp_path / "out")]),
    ):
        assert "has no manifest.json" in refused([verb, str(tmp_path / "thesis"), *flags])
    assert contents(tmp_path / "thesis").keys() == {str(tmp_path / "thesis" / "thesis.tex")}


def test_a_file_where_the_run_should_be(inputs: Inputs, tmp_path: Path, refused) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be created" in refused(inputs.search(tmp_path / "file"), code=1)


def test_a_bundle_is_never_overwritten(run_folder: Path, tmp_path: Path, refused) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "keep.txt"):
        assert "not an empty folder" in refused(["export", str(run_folder), "--out", str(out)])
    assert contents(tmp_path).keys() == {str(tmp_path / "keep.txt")}


def test_the_runs_weights_have_moved(
    inputs: Inputs, run_folder: Path, tmp_path: Path, refused, capsys
) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["weights_source"] = str(tmp_path / "gone.safetensors")
    (run / "manifest.json").write_text(json.dumps(manifest))
    flags = ["evaluate", str(run), "--data", str(inputs.labelled)]
    assert "gone.safetensors" in refused(flags)
    assert main([*flags, "--weights", str(inputs.weights)]) == 0
    other = tmp_path / "other.safetensors"
    save_file(create("test_vit", num_classes=4, img_size=32).state_dict(), other)
    message = refused([*flags, "--weights", str(other)])
    assert "holds other weights than" in message


def test_damage_in_a_run_folder_is_found(run_folder: Path, tmp_path: Path, refused) -> None:
    def damaged(name: str, change: Callable[[Path], object]) -> str:
        run = tmp_path / name
        shutil.copytree(run_folder, run)
        change(run)
        return refused(["check", str(run)])

    def cut(file: Path) -> None:
        file.write_bytes(file.read_bytes()[:-50])

    first = json.loads((run_folder / "results.jsonl").read_text().splitlines()[0])
    assert "fitted parameters" in damaged(
        "a", lambda run: (run / "candidates" / f"{first['key']}.safetensors").unlink()
    )
    assert "cannot be read" in damaged("b", lambda run: cut(run / "best" / "model.safetensors"))
    assert "is not a record" in damaged(
        "c", lambda run: (run / "results.jsonl").write_text("{}\n")
    )
    assert "of schema 9" in damaged(
        "d", lambda run: (run / "manifest.json").write_text('{"schema": 9}')
    )


def test_a_run_that_did_not_finish(
    inputs: Inputs, run_folder: Path, tmp_path: Path, refused
) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    shutil.rmtree(run / "best")
    message = refused(["evaluate", str(run), "--data", str(inputs.labelled)])
    assert "has no best/best.json" in message
    assert "same command again" in message
    assert main(["check", str(run)]) == 0


@pytest.mark.parametrize("thing", ["nothing_like_this", "./nothing/here", "hw_models"])
def test_check_of_nothing(thing: str, refused) -> None:
    assert thing.removeprefix("./") in refused(["check", thing])
