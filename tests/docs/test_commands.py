"""Every command in the documentation is one that the program takes."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping

import pytest
from pages import PAGES, ROOT, Command, commands

from trex.cli import VERBS, build_parser

TREX = [command for page in PAGES for command in commands(page, "trex")]
PYTHON = [command for page in PAGES for command in commands(page, "python")]
MAKE = [command for page in PAGES for command in commands(page, "make")]


def named(command: Command) -> str:
    return f"{command.page}: {command.text[:60]}"


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    return build_parser()


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    """Of a parser and those below it."""
    flags = {flag for action in parser._actions for flag in action.option_strings}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            flags.update(*(flags_of(below) for below in action.choices.values()))
    return flags


def verb_parsers(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    (verbs,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return verbs.choices


def test_there_are_commands():
    assert len([command for command in TREX if not command.fragment]) > 50
    assert {command.words[1] for command in TREX} >= set(VERBS)


@pytest.mark.parametrize("command", TREX, ids=named)
def test_a_command_parses(command, parser, capsys):
    _, verb, *arguments = command.words
    if verb in ("VERB", "--help"):
        return
    assert verb in VERBS, "no such verb"
    if not command.fragment:
        try:
            parser.parse_args([verb, *arguments])
        except SystemExit:
            pytest.fail(capsys.readouterr().err)
    flags = [word.partition("=")[0] for word in arguments]
    flags = [word for word in flags if word.startswith("--")]
    assert set(flags) <= flags_of(verb_parsers(parser)[verb])


@pytest.mark.parametrize("command", PYTHON, ids=named)
def test_a_script_is_there_and_knows_its_flags(command):
    if command.words[1] in ("-m", "-c"):
        return
    script = ROOT / command.words[1]
    assert script.is_file()
    known = script.read_text()
    for helper in re.findall(r"^from (\w+) import", known, re.MULTILINE):
        if (beside := script.with_name(f"{helper}.py")).is_file():
            known += beside.read_text()
    for word in command.words[2:]:
        if word.startswith("--"):
            flag = word.partition("=")[0].removeprefix("--")
            opposite = flag.removeprefix("no-")
            assert f'"--{flag}"' in known or f'"--{opposite}", action=argparse.Bool' in known


@pytest.mark.parametrize("command", MAKE, ids=named)
def test_a_target_is_in_the_makefile(command):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    words = [word for word in shlex.split(command.text, comments=True)[1:] if "=" not in word]
    assert {word for word in words if word != "..."} <= set(targets)
