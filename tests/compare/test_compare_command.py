"""`trex compare` on a small model: its table, what it keeps, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import Inputs, write_images

from trex.cli import main
from trex.compare import comparison, measure, measurements
from trex.compare.published import BACKBONES
from trex.plan import Plan

#: of the other models, those that the tests ask for
FEW = tuple(b for b in BACKBONES if b.model in ("deit_small_patch16_224", "shvit_s1"))
#: something to fit, something to merge, and dead rows
BY_HAND = "1<-0:map/linear 2<-0 3<-0 4~1 5=class"
V0_1 = Path(__file__).parents[1] / "data" / "v0_1"
CHEAP = ["compare", "--model", "deit_tiny_patch16_224", "--hw", "trex_fefet_32nm"]


@pytest.fixture(scope="module", autouse=True)
def few_models() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "BACKBONES", FEW)
        yield


@pytest.fixture(scope="module")
def run(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a run"
    assert main(inputs.search(out)) == 0
    return out


def measured(inputs: Inputs, run: Path, out: Path, *more: str) -> list[str]:
    return [
        "compare", *inputs.model_flags(), "--hw", "trex_fefet_32nm", "--max-latency", "0.8x",
        "--data", str(inputs.labelled), "--calib", str(inputs.calib), "--calib-images", "8",
        "--amp", "--run", str(run), "--plan", BY_HAND, "--out", str(out), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def compared(inputs: Inputs, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "compared"
    assert main(measured(inputs, run, out, "--json")) == 0
    return out


def rows(out: Path) -> dict[str, dict]:
    found = json.loads((out / "compare.json").read_text())["rows"]
    return {row["title"]: row for row in found if row["group"] != "trained"}


def test_every_method_that_can_run_is_measured_beside_the_original(compared: Path) -> None:
    found = rows(compared)
    running = ("TReX (a run)", "TReX plan", "identity reuse", "map reuse", "attention skipping")
    for title in running:
        row = found[title]
        assert row["group"] == "within"
        assert row["estimate"]["latency_ratio"] <= 0.8
        assert row["measured"]["n"] == found["test_vit"]["measured"]["n"]
        assert row["measured"]["baseline_top1"] == found["test_vit"]["measured"]["top1"]
        assert row["published_top1"] is None
    for title in ("ToMe merging", "EViT pruning", "no dead rows"):  # of five tokens
        assert found[title]["group"] == "beyond"
        assert found[title]["note"] == "cannot reach the limit"
        assert found[title]["measured"] is None
    assert found["DiffRate counts"]["note"] == "no published counts for test_vit"
    for title in ("DynamicViT", "weight sharing", "ReTransformer", "shvit_s1"):
        assert found[title]["measured"] is None
    assert found["shvit_s1"]["published_top1"] == 72.8
    assert sum(row["best"] for row in found.values()) == 1


def test_a_run_that_was_searched_under_another_accounting_says_so(compared: Path) -> None:
    assert rows(compared)["TReX (a run)"]["note"] == "a run was searched for accounting paper"


def test_the_same_comparison_repeats_nothing(
    compared: Path, inputs: Inputs, run: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    before = (compared / "measured.jsonl").read_bytes()
    monkeypatch.setattr(measure, "predict", never)
    monkeypatch.setattr(measurements, "choose_encoders", never)
    assert main(measured(inputs, run, compared)) == 0
    assert (compared / "measured.jsonl").read_bytes() == before
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if str(inputs.weights.parent.parent) not in line) <= 100
    marked = tuple(sum(line.startswith(f"{mark} ") for line in lines) for mark in "*e")
    # a row, and what is said of it: of what keeps most, and of the lowest EDAP, if that is another
    assert marked in ((2, 2), (3, 0))


def test_tables_for_papers_lie_beside(compared: Path) -> None:
    for kind in ("csv", "md", "tex"):
        text = (compared / f"compare.{kind}").read_text()
        assert all(title in text for title in ("ToMe merging", "shared rows", "mixed maps"))


def test_each_axis_alone_is_measured(inputs: Inputs, compared: Path, capsys) -> None:
    mixed = rows(compared)["mixed maps"]
    assert mixed["measured"]["n"] == 12
    assert len(mixed["encoders"].split()) == int(mixed["setting"].split()[0])
    assert "class tokens' rows are the consumers' own" in mixed["note"]
    flags = [
        "compare", *inputs.model_flags(), "--hw", "trex_sram_32nm", "--max-latency", "0.99x",
        "--data", str(inputs.labelled), "--methods", "shared_rows", "--accounting", "paper",
        "--json",
    ]  # fmt: skip
    assert main(flags) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"][1:]
    assert row["group"] == "within"
    assert row["measured"]["n"] == 12
    assert row["plan"].startswith("1=")
    assert row["plan"].endswith("5=class")


def test_token_methods_are_measured(inputs: Inputs, capsys) -> None:
    flags = [
        "compare", *inputs.model_flags(), "--hw", "trex_sram_32nm", "--max-latency", "0.9x",
        "--data", str(inputs.labelled), "--methods", "tome", "evit", "--accounting", "paper",
        "--json",
    ]  # fmt: skip
    assert main(flags) == 0
    for row in json.loads(capsys.readouterr().out)["rows"][1:]:
        assert row["measured"]["n"] > 0
        assert row["estimate"]["latency_ratio"] <= 0.9


def test_closed_form_trex_without_a_run(inputs: Inputs, capsys) -> None:
    flags = [
        "compare", *inputs.model_flags(), "--hw", "trex_fefet_32nm", "--max-latency", "0.8x",
        "--data", str(inputs.labelled), "--calib", str(inputs.calib), "--methods", "trex",
        "--json",
    ]  # fmt: skip
    assert main(flags) == 0
    found = {row["title"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert found["TReX linear"]["measured"]["n"] > 0
    assert found["TReX linear"]["encoders"]


def test_plans_by_hand_are_measured_and_fitted_where_they_can_be(inputs: Inputs, capsys) -> None:
    plans = ("1~1 3~1 5=class", "2<-1 4~1", "5<-4:map/none 3<-2:output/none")
    flags = [
        "compare", *inputs.model_flags(), "--hw", "trex_fefet_32nm", "--max-latency", "0.99x",
        "--data", str(inputs.labelled), "--methods", "class_rows", "--json",
        *(part for plan in plans for part in ("--plan", plan)),
    ]  # fmt: skip

    def found(*more: str) -> dict[str, dict]:
        assert main([*flags, *more]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert all(row["title"] == "TReX plan" for row in rows if row["method"] == "plan")
        return {row["plan"]: row for row in rows if row["method"] == "plan"}

    merged, fitted, as_it_is = (str(Plan.parse(plan)) for plan in plans)
    rows = found()
    assert rows.keys() == {merged, fitted, as_it_is}
    assert rows[fitted]["measured"] is None
    assert rows[fitted]["note"].startswith("priced only")
    rows = found("--calib", str(inputs.calib))
    assert all(row["measured"]["n"] > 0 for row in rows.values())
    assert rows[fitted]["note"] == "fitted in closed form on 16 images"
    assert rows[merged]["note"] == rows[as_it_is]["note"] == ""
    assert rows[merged]["setting"] == "2 merge, class rows"
    assert rows[fitted]["setting"] == "1 reuse, 1 merge"


def test_runs_of_given_plans_are_compared(inputs: Inputs, tmp_path: Path, capsys) -> None:
    plan = str(Plan.parse("3<-2 1~1 5=class"))
    flags = [*inputs.model_flags(), "--hw", "trex_fefet_32nm"]
    fit = ["fit", *flags, "--plan", plan, "--calib", str(inputs.calib), "--out", str(tmp_path)]
    assert main(fit) == 0
    capsys.readouterr()
    rest = ["--data", str(inputs.labelled), "--methods", "class_rows", "--json"]
    assert main(["compare", *flags, "--run", str(tmp_path), *rest]) == 0
    (row,) = (r for r in json.loads(capsys.readouterr().out)["rows"] if r["method"] == "trex")
    assert row["plan"] == plan
    assert row["measured"]["n"] > 0


def test_folders_of_version_0_1_are_compared(capsys) -> None:
    folders = [str(V0_1 / name) for name in ("run", "bundle", "finetuning")]
    size = ["--num-classes", "4", "--img-size", "32", "--hw", "trex_fefet_32nm"]
    rest = ["--max-latency", "0.8x", "--methods", "class_rows", "--run", *folders, "--json"]
    assert main(["compare", "--model", "test_vit", *size, *rest]) == 0
    rows = [r for r in json.loads(capsys.readouterr().out)["rows"] if r["method"] == "trex"]
    assert [row["plan"] for row in rows] == [
        "3<-0:output/block 4<-2",
        "3<-0:output/block 4<-2:map/linear",
        "3<-0:output/block 4<-2",
    ]
    assert [row["finetuned"] for row in rows] == [False, False, True]


def test_gains_are_given_over_the_original_with_and_without_dead_rows(capsys) -> None:
    assert main([*CHEAP, "--methods", "class_rows", "tome", "--plan", "3~40", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["accounting"] == "full"
    rows = {row["title"]: row for row in result["rows"]}
    original = rows["deit_tiny_patch16_224"]["estimate"]
    trimmed = rows["no dead rows"]["estimate"]
    assert rows["deit_tiny_patch16_224"]["without_dead_rows"]["latency_s"] == trimmed["latency_s"]
    assert rows["no dead rows"]["plan"] == "11=class"
    assert trimmed["edap_gain_without_dead_rows"] == pytest.approx(1)
    assert original["edap_gain_without_dead_rows"] < original["edap_gain"] == 1
    for row in rows.values():
        gains = row["estimate"]["edap_gain"], row["estimate"]["edap_gain_without_dead_rows"]
        assert gains[0] / gains[1] == pytest.approx(trimmed["edap_gain"])


def test_without_class_rows_there_is_one_gain(capsys) -> None:
    assert main([*CHEAP[:2], "lvvit_t", *CHEAP[3:], "--methods", "class_rows", "tome"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  no dead rows: LV-ViT's auxiliary head reads every patch" in lines
    column = lines[2].index("live")
    assert {line[column : column + 4].strip() for line in lines[4:5]} == {"-"}


def test_without_data_nothing_is_measured(capsys) -> None:
    assert main([*CHEAP, "--methods", "tome", "evit", "retransformer", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["rows"]
    assert [row["group"] for row in found] == ["original", "within", "within", "beyond"]
    assert all(row["measured"] is None for row in found)


def test_without_data_the_lowest_edap_within_the_limit_is_marked(capsys) -> None:
    methods = ["identity_reuse", "tome", "retransformer"]
    assert main([*CHEAP, "--accounting", "paper", "--methods", *methods]) == 0
    lines = capsys.readouterr().out.splitlines()
    start, end = lines.index("within the limit:"), lines.index("cannot reach the limit:")
    column = lines[start - 3].index("EDAP")
    gains = {line: float(line[column : column + 4]) for line in lines[start + 1 : end]}
    marked = [line for line in lines[: end + 2] if line.startswith("e ")]
    assert marked == [max(gains, key=lambda line: gains[line])]
    assert any(line.startswith("e lowest EDAP within the limit: ") for line in lines)
    assert max(map(len, lines)) <= 100


def test_paper_accounting_has_no_price_for_what_it_does_not_know(capsys) -> None:
    flags = [*CHEAP, "--accounting", "paper", "--methods", "fused_qk", "backbones", "--json"]
    assert main(flags) == 0
    found = {row["title"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    for title in ("fused Q/K weights", "shvit_s1"):
        assert found[title]["group"] == "unpriced"
        assert found[title]["estimate"] is None
        assert "paper accounting has" in found[title]["note"]
    assert found["deit_small_patch16_224"]["estimate"]["edap_gain"] < 1


@pytest.mark.parametrize(
    ("more", "message", "hint"),
    [
        (["--methods", "tom"], "no method is called 'tom'", "did you mean 'tome'?"),
        (["--calib", "x"], "there is no --data", "add --data"),
        (["--max-latency", "fast"], "--max-latency", "0.6x"),
        (["--model", "shvit_s1"], "not made of like encoders", "ViT"),
        (["--run", "nowhere"], "nowhere has no manifest.json", "trex search"),
        (["--plan", "3~120"], "encoder 3 merges 120 pairs of 197 tokens; at most 98", "fewer"),
        (["--plan", "5=class"], "encoder 5 cannot compute its class rows only", "11=class"),
        (["--plan", "merge"], "'merge' is not part of a plan", "encoder~pairs"),
    ],
)
def test_bad_input(more: list[str], message: str, hint: str, capsys) -> None:
    assert main([*CHEAP, *more]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert hint in told


def test_data_without_labels(inputs: Inputs, tmp_path: Path, capsys) -> None:
    write_images(tmp_path / "images", each=1)
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, file in enumerate((tmp_path / "images").rglob("*.png")):
        file.rename(flat / f"{number}.png")
    flags = ["compare", *inputs.model_flags(), "--hw", "trex_fefet_32nm", "--data", str(flat)]
    assert main(flags) == 2
    assert "have no label" in capsys.readouterr().err


def test_a_run_of_another_model(run: Path, capsys) -> None:
    assert main([*CHEAP, "--run", str(run)]) == 2
    assert "is of test_vit, not of deit_tiny_patch16_224" in capsys.readouterr().err
