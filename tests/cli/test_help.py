from __future__ import annotations

import pytest

import trex
from trex.cli import VERBS, main


def output_of(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code, capsys.readouterr()


def test_help_lists_the_verbs_in_order(capsys):
    code, captured = output_of(["--help"], capsys)
    assert code == 0
    places = [captured.out.index(f"\n    {verb} ") for verb in VERBS]
    assert places == sorted(places)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    code, captured = output_of([verb, "--help"], capsys)
    assert code == 0
    assert captured.out.startswith(f"usage: trex {verb} ")
    assert VERBS[verb] in " ".join(captured.out.split())


def test_version(capsys):
    code, captured = output_of(["--version"], capsys)
    assert (code, captured.out) == (0, f"trex {trex.__version__}\n")


@pytest.mark.parametrize("arguments", [[], ["fly"], ["cost"], ["cost", "--colour", "red"]])
def test_bad_usage_is_exit_code_2_and_says_how_to_call(arguments, capsys):
    code, captured = output_of(arguments, capsys)
    assert code == 2
    assert captured.out == ""
    assert captured.err.startswith("usage: trex")
