from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hardware_models import DEIT_S, vit

from trex.api import densities, export, rungs
from trex.cli import main
from trex.commands import _arguments, _densities, _rungs
from trex.commands import cost as command
from trex.commands import export as export_command
from trex.hardware import ACCOUNTINGS, SCHEDULES


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    """The command prices any architecture; where it comes from is not its business."""
    pooled = vit("pooled", depth=12, class_rows=0)
    monkeypatch.setattr(
        "trex.api.models.architecture", lambda name, **_: pooled if name == "pooled" else DEIT_S
    )


COST = ["cost", "--model", "deit_small_patch16_224", "--hw", "trex_fefet_32nm"]


def test_json_has_the_contracts_fields(capsys):
    assert main([*COST, "--plan", "1<-0 3<-2 5<-4", "--accounting", "paper", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n_reuse"] == 3
    assert result["latency_s"] == pytest.approx(8.46e-3, rel=1.5e-3)
    assert result["edap_mj_ms_mm2"] == pytest.approx(700.2, rel=1e-3)
    assert sum(row["energy_j"] for row in result["by_layer"]) == pytest.approx(result["energy_j"])
    assert set(result) >= {
        "model", "chip", "accounting", "plan", "area_m2", "macs", "tops_per_w", "tops_per_mm2",
        "by_component", "not_modelled",
    }  # fmt: skip


@pytest.mark.parametrize("by", ["stage", "component", "layer"])
@pytest.mark.parametrize("accounting", ACCOUNTINGS)
def test_text_fits_a_terminal_and_says_what_it_leaves_out(capsys, by, accounting):
    flags = ["--plan", "5<-4", "--transform", "block", "--by", by, "--accounting", accounting]
    assert main([*COST, *flags]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert "latency (ms)" in out
    assert "not modelled:" in out
    assert "assumptions:" in out
    assert "\noriginal " in out
    assert "\nwithout dead rows " in out


def test_layers_are_shown_with_their_shapes(capsys):
    assert main([*COST, "--by", "layer"]) == 0
    out = capsys.readouterr().out
    assert "6 x (197 x 64 -> 197)" in out
    assert "197 x 384 -> 1536" in out
    assert main([*COST, "--json"]) == 0
    rows = {row["layer"]: row for row in json.loads(capsys.readouterr().out)["by_layer"]}
    scores = rows["blocks.0.attn.scores"]
    assert (scores["kind"], scores["groups"]) == ("dynamic_matmul", 6)
    assert scores["macs"] == 6 * 197 * 64 * 197


def test_the_parser_needs_nothing_heavy():
    code = (
        "import sys; from trex.cli import build_parser; build_parser('cost');"
        "print([m for m in ('torch', 'numpy', 'pydantic', 'yaml') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_field_of_the_chip_can_be_set(capsys):
    chip = ["cost", "--model", "x", "--hw", "trex_sram_32nm", "--json"]
    four = ("arrays.sram.weight_slices=4", "arrays.sram.weight_bits=4")
    assert main([*chip, "--set", four[0], "--set", four[1]]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["edap_mj_ms_mm2"] == pytest.approx(2766, rel=5e-3)
    assert any("weight_slices = 4: set by the caller" in line for line in result["assumptions"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--plan", "2<-5"], "runs later"),
        (["--plan", "13<-5"], "12 encoders"),
        (["--plan", "3~120"], "encoder 3 merges 120 pairs of 197 tokens; at most 98"),
        (["--plan", "2~90 5~60"], "encoder 5 merges 60 pairs of 107 tokens; at most 53"),
        (["--plan", "4=class"], "encoder 4 cannot compute its class rows only"),
        (["--plan", "11=198"], "encoder 11 shares 198 rows among 197 tokens; at most 197"),
        (["--plan", "7=@6"], "encoder 7 takes the groups of encoder 6, which matches none"),
        (["--set", "arrays.fefet"], "FIELD=VALUE"),
        (["--set", "arrays.fefet.rows=-1"], "rows"),
        (
            ["--set", "softmax.units=2", "--set", "softmax.units=3"],
            "--set gives softmax.units twice",
        ),
        (
            ["--set", "softmax.units=2", "--set", "softmax={units: 3}"],
            "--set gives softmax.units and softmax",
        ),
        (["--set", "softmax.units="], "--set softmax.units has no value"),
        (["--set", "softmax.units=010"], "010 is not a plain number"),
        (["--set", "softmax={units: 1, units: 2}"], "units: is given twice"),
        (["--set", "softmax.units=[1"], "'[1' is no plain value"),
        (["--set", "softmax.units=!!binary aGk="], "holds a YAML tag"),
        (["--set", "arrays.fefet.rows=2024-01-01"], "'2024-01-01' is text"),
        (["--set", "arrays.fefet.rows=1e3"], "'1e3' is text"),
        (["--set", "arrays.fefet.row=64"], "did you mean 'rows'"),
        (["--schedule", "pipelined"], "sequential"),
    ],
)
def test_bad_flags_are_one_clear_error(capsys, flags, message):
    assert main([*COST, *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "hint:" in captured.err


def test_a_joint_plan_says_its_tokens_and_both_gains(capsys):
    plan = "5<-4:map 3~40 6~40 9~40 11=class"
    flags = [*COST, "--plan", plan, "--accounting", "full"]
    assert main([*flags, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["plan"] == "5<-4:map/linear 3~40 6~40 9~40 11=class"
    assert (result["n_reuse"], result["transform"]) == (1, "linear")
    counts = [(197, 197)] * 3 + [(197, 157)] + [(157, 157)] * 2 + [(157, 117)]
    counts += [(117, 117)] * 2 + [(117, 77), (77, 77), (77, 1)]
    assert result["tokens"] == [list(pair) for pair in counts]
    assert main([*COST, "--plan", "11=class", "--accounting", "full", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    for key, value in result["original_without_dead_rows"].items():
        assert value == alone[key]
    for gain, of in (
        ("edap_gain", "original"),
        ("edap_gain_without_dead_rows", "original_without_dead_rows"),
    ):
        edap = result[of]["edap_mj_ms_mm2"]
        assert result[gain] == pytest.approx(edap / result["edap_mj_ms_mm2"])
    assert 1 < result["edap_gain_without_dead_rows"] < result["edap_gain"]
    assert alone["edap_gain_without_dead_rows"] == 1.0
    assert {"matching", "merging", "proportional"} <= result["by_stage"].keys()

    assert main(flags) == 0
    out = capsys.readouterr().out
    assert "tokens in attention/MLP: 0-2 197/197, 3 197/157, 4-5 157/157, 6 157/117" in out
    assert "11 77/1" in out
    assert f"{result['edap_gain_without_dead_rows']:.3g} times without dead rows" in out
    assert max(map(len, out.splitlines())) <= 100


def test_rows_that_a_plan_leaves_are_said(capsys):
    plan = "3<-2:map/mixed 3=class 5:map/average 1=60 4~40 6=53 7=@6 8=@6 11=class"
    flags = [*COST, "--plan", plan, "--accounting", "full"]
    assert main([*flags, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rows"] == [197, 60, 197, 1, 197, 0, 53, 53, 53, 157, 157, 1]
    assert {"matching", "sharing", "mixing", "own_rows"} <= result["by_stage"].keys()
    assert "copying shared rows to all their tokens" in result["not_modelled"]
    assert main(flags) == 0
    out = capsys.readouterr().out
    assert "rows of attention computed: 1 60, 3 1, 6-8 53, 11 1\n" in out
    assert max(map(len, out.splitlines())) <= 100
    assert main([*COST, "--plan", "5<-4 7<-6:map"]) == 0
    assert "rows of attention" not in capsys.readouterr().out


def test_a_plan_of_reuse_alone_names_no_tokens(capsys):
    assert main([*COST, "--plan", "5<-4"]) == 0
    assert "tokens in" not in capsys.readouterr().out


def test_a_head_that_reads_all_tokens_has_no_dead_rows(capsys):
    flags = ["cost", "--model", "pooled", "--hw", "trex_fefet_32nm", "--accounting", "full"]
    assert main([*flags, "--plan", "2~3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["edap_gain_without_dead_rows"] is None
    assert result["original_without_dead_rows"] is None
    assert any(line.startswith("copying merged tokens back") for line in result["not_modelled"])
    assert main([*flags, "--plan", "2~3"]) == 0
    assert "dead rows" not in capsys.readouterr().out
    assert main([*flags, "--plan", "11=class"]) == 2
    assert "the head pools the patches too" in capsys.readouterr().err


def test_papers_equations_have_no_term_for_matching(capsys):
    assert main([*COST, "--plan", "3~40 11=class", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (line,) = [text for text in result["not_modelled"] if text.startswith("matching and merging")]
    assert "blocks.3.matching.metric" in line
    assert "% of the MACs" in line
    assert "matching" not in result["by_stage"]


def test_help_offers_what_the_library_knows():
    assert _arguments.ACCOUNTINGS == ACCOUNTINGS
    assert command.SCHEDULES == SCHEDULES
    assert _densities.N_IMAGES == densities.N_IMAGES
    assert _rungs._IMAGES == rungs.IMAGES
    assert export_command.ORIGINAL == export.ORIGINAL


def test_schedules_side_by_side(capsys):
    flags = [*COST, "--plan", "5<-4 7<-6", "--accounting", "full", "--schedules"]
    assert main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    at = next(i for i, line in enumerate(lines) if line.startswith("schedule "))
    assert [line.split()[0] for line in lines[at + 2 : at + 5]] == list(SCHEDULES)
    assert "not modelled:" in lines
    assert "assumptions:" in lines
    assert main([*flags, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["not_modelled"]
    assert result["assumptions"]
    rows = result["schedules"]
    assert all(0 < row["latency_ratio"] < 1 for row in rows)
    assert rows[0]["interval_s"] == rows[0]["latency_s"]
    assert rows[2]["interval_s"] < rows[2]["latency_s"]
    for row in rows:
        edap = row["original_without_dead_rows"]["edap_mj_ms_mm2"]
        gain = row["edap_gain_without_dead_rows"]
        assert gain == pytest.approx(edap / row["edap_mj_ms_mm2"])
        assert any(line.startswith("EDAP gain over") and f"{gain:.3f}" in line for line in lines)


def test_the_stages_of_every_schedule_add_up_and_show_what_reuse_saves(capsys):
    flags = [*COST, "--plan", "5<-4 7<-6", "--accounting", "full", "--schedules"]
    assert main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("latency (ms) "))
    rows = [line.split() for line in lines[at + 2 : lines.index("", at)]]
    table = {name: list(map(float, cells)) for name, *cells in rows}
    total = table.pop("total")
    for column in range(6):
        column_sum = sum(cells[column] for cells in table.values())
        assert column_sum == pytest.approx(total[column], abs=1e-3)
    assert main([*flags, "--json"]) == 0
    for i, c in enumerate(json.loads(capsys.readouterr().out)["schedules"]):
        assert total[2 * i] == pytest.approx(c["latency_s"] * 1e3, abs=1e-4)
        before, after = (
            sum(s["latency_s"] for s in c[key].values())
            for key in ("original_by_stage", "by_stage")
        )
        assert after == pytest.approx(c["latency_s"])
        assert total[2 * i + 1] == pytest.approx((before - after) * 1e3, abs=1e-4)
        assert table["softmax"][2 * i + 1] > 0


def test_schedules_are_of_full_accounting(capsys):
    assert main([*COST, "--schedules"]) == 2
    assert "add --accounting full" in capsys.readouterr().err


def test_brief_is_the_totals_alone(capsys):
    told = [*COST, "--plan", "5<-4 7<-6", "--accounting", "full"]
    assert main(told) == 0
    whole = capsys.readouterr().out.splitlines()
    assert main([*told, "--brief"]) == 0
    brief = capsys.readouterr().out.splitlines()
    assert len(brief) < 20 < len(whole)
    for name in ("total", "original", "without dead rows", "EDAP"):
        (line,) = (line.split() for line in brief if line.startswith(name))
        assert line in [other.split() for other in whole]
    assert not any(line in ("assumptions:", "not modelled:", "notes:") for line in brief)
    assert "are not modelled" in brief[-1]


def test_brief_and_schedules_are_two_tables(capsys):
    told = [*COST, "--accounting", "full", "--schedules", "--brief"]
    assert main(told) == 2
    assert "leave --brief out" in capsys.readouterr().err
