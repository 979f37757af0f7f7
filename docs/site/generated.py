"""Parts of the documentation that are made of the program: its commands, files and functions.

A page has a comment `<!-- made as the site is built: NAME -->` where such a part belongs; `fill`
puts it there.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from trex.cli import VERBS, build_parser

_COMMENT = re.compile(r"<!-- made as the site is built: ([a-z-]+) -->")


def fill(text: str) -> str:
    """A page with its generated parts in their places."""
    return _COMMENT.sub(lambda found: PARTS[found[1]](), text)


def escaped(text: str) -> str:
    """Plain text as Markdown that shows the same."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$])", r"\\\1", " ".join(text.split()))


# Commands


def verbs() -> Mapping[str, argparse.ArgumentParser]:
    """Every verb's parser."""
    actions = build_parser()._actions
    (found,) = (a for a in actions if isinstance(a, argparse._SubParsersAction))
    choices: Mapping[str, argparse.ArgumentParser] = found.choices
    return choices


def commands() -> str:
    """Every verb with its arguments, as the parser has them."""
    parts = (_verb(verb, parser, VERBS[verb]) for verb, parser in verbs().items())
    return "\n".join(line for lines in parts for line in lines)


def _verb(
    verb: str, parser: argparse.ArgumentParser, about: str, level: str = "##"
) -> Iterator[str]:
    yield f"{level} trex {verb}\n\n{_sentence(escaped(about))}\n"
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.help is not argparse.SUPPRESS]
        actions = [a for a in actions if not isinstance(a, argparse._HelpAction)]
        if not actions:
            continue
        if group.title and group.title not in ("positional arguments", "options"):
            yield f"**{escaped(group.title)}**\n"
        if group.description:
            yield f"{escaped(group.description)}\n"
        for action in actions:
            if isinstance(action, argparse._SubParsersAction):
                helps = {of.dest: of.help or "" for of in action._choices_actions}
                for name, below in action.choices.items():
                    yield from _verb(f"{verb} {name}", below, helps.get(name, ""), "###")
            else:
                yield f"`{_spelled(parser, action)}`\n: {_meaning(parser, action)}\n"


def _spelled(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    formatter = parser._get_formatter()
    default = formatter._get_default_metavar_for_optional(action)
    if not action.option_strings:
        default = formatter._get_default_metavar_for_positional(action)
        return formatter._format_args(action, default)
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {formatter._format_args(action, default)}"


def _meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    parts = [_sentence(escaped(text))] if text else []
    if action.choices is not None and action.metavar is not None:
        parts.append(f"One of {', '.join(f'`{choice}`' for choice in action.choices)}.")
    if action.required and action.option_strings:
        parts.append("Required.")
    value = action.default
    told = isinstance(value, str | int | float) and not isinstance(value, bool)
    if told and action.nargs != 0 and value is not argparse.SUPPRESS and str(value) not in text:
        parts.append(f"Default: `{value}`.")
    return " ".join(parts) or "See above."


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."


# Files

#: name of a schema -> anchor of the heading that stands over its file
Headings = Mapping[str, str]


def results() -> str:
    """The fields of every file in a run folder and a fine-tuning."""
    from trex.store import record, schemas

    files: dict[str, type[BaseModel]] = {
        **{name: schemas.FILES[name] for name in ("manifest.json", "summary.json")},
        "results.jsonl, a line a candidate": record.Record,
        "results.jsonl, a line a later rung": record.Later,
        "evaluations.jsonl, a line an evaluation": schemas.EvaluationLine,
        **{n: m for n, m in schemas.FILES.items() if n not in ("manifest.json", "summary.json")},
        "budgets.json": schemas.Budgets,
        "what trex bench --out writes": schemas.Bench,
        "manifest.json of a fine-tuning": schemas.FinetuneManifest,
        "results.jsonl of a fine-tuning": schemas.Stage,
    }
    return _files(files)


def inputs() -> str:
    """The fields of every file that a user writes."""
    from trex.hardware import periphery, published, spec
    from trex.models.uniform import config
    from trex.search import space
    from trex.training.finetune import recipe

    return _files(
        {
            "chip.yaml of kind trex": spec.TrexChipSpec,
            "chip.yaml of kind component": spec.ComponentChipSpec,
            "components/*.yaml": periphery.PeripherySpec,
            "published.yaml": published.PublishedSpec,
            "search_spaces/*.yaml": space.SpaceFile,
            "a recipe of trex finetune": recipe.Recipe,
            "a UniForm reuse config": config.UniformReuseConfig,
        }
    )


def _files(files: Mapping[str, type[BaseModel]]) -> str:
    parts: list[str] = []
    shapes: dict[str, Mapping[str, Any]] = {}
    comments = {
        name: _comments(found)
        for model in files.values()
        for name, found in vars(sys.modules[model.__module__]).items()
        if inspect.isclass(found) and issubclass(found, BaseModel)
    }
    headings = {model.__name__: slug(name) for name, model in files.items()}
    for name, model in files.items():
        schema = model.model_json_schema(ref_template="{model}")
        shapes.update(schema.get("$defs", {}))
        fields = _fields(schema, headings, comments[model.__name__])
        parts.append(f"## {name}\n\n{_about(schema)}\n{fields}\n")
    parts.append("## What these are made of\n")
    for name, shape in sorted(shapes.items()):
        if "properties" in shape and not name.startswith("Sourced") and name not in headings:
            about, fields = _about(shape), _fields(shape, headings, comments.get(name, {}))
            parts.append(f"### {_plain(name)}\n\n{about}\n{fields}\n")
    return "\n".join(parts)


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _plain(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"(Fields|Spec|File)$", "", name)).lower()


def _about(schema: Mapping[str, Any]) -> str:
    text = inspect.cleandoc(schema.get("description", "")).split("Attributes:")[0].strip()
    text = re.sub(r"; see `[^`]*`", "", text)
    return f"{text}\n" if text else ""


def _attributes(schema: Mapping[str, Any]) -> Mapping[str, str]:
    """What the docstring says of fields, by name."""
    text = inspect.cleandoc(schema.get("description", ""))
    _, _, listed = text.partition("Attributes:\n")
    entries = re.split(r"^ {4}(\w+): ", listed, flags=re.MULTILINE)[1:]
    return {n: " ".join(t.split()) for n, t in zip(entries[::2], entries[1::2], strict=True)}


def _comments(model: type[BaseModel]) -> Mapping[str, str]:
    """What comments that begin with `#:` say of the fields below them."""
    found = re.findall(r"((?:^    #: .*\n)+)    (\w+):", inspect.getsource(model), re.MULTILINE)
    return {name: " ".join(re.sub(r"#: ", "", text).split()) for text, name in found}


def _fields(schema: Mapping[str, Any], headings: Headings, comments: Mapping[str, str]) -> str:
    meanings = {**comments, **_attributes(schema)}
    needed = schema.get("required", ())
    lines = ["| field | type | meaning |", "|---|---|---|"]
    for name, field in schema["properties"].items():
        notes = [] if name in needed else [_default(field)]
        meaning = meanings.get(name) or " ".join(field.get("description", "").split())
        if meaning:
            notes.insert(0, _sentence(meaning.replace("|", "\\|")))
        lines.append(f"| `{name}` | {_type(field, headings)} | {' '.join(filter(None, notes))} |")
    return "\n".join(lines) + "\n"


def _default(field: Mapping[str, Any]) -> str:
    value = field.get("default")
    if value in (None, "", [], {}) or isinstance(value, dict):
        return "May be left out."
    return f"Left out: `{str(value).lower() if isinstance(value, bool) else value}`."


def _type(field: Mapping[str, Any], headings: Headings) -> str:
    if "$ref" in field:
        return _named(field["$ref"], headings)
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    for several in ("anyOf", "oneOf", "allOf"):
        if several in field:
            return " or ".join(_type(one, headings) for one in field[several])
    if "prefixItems" in field:
        return f"[{', '.join(_type(one, headings) for one in field['prefixItems'])}]"
    kind = field.get("type")
    if kind == "array":
        return f"list of {_type(field.get('items', {}), headings)}"
    if kind == "object":
        values = field.get("additionalProperties")
        named = isinstance(values, dict) and values
        return f"mapping to {_type(values, headings)}" if named else "mapping"
    words = {"integer": "whole number", "boolean": "true or false", "string": "text"}
    return words.get(str(kind), str(kind or "anything")) + _range(field)


def _range(field: Mapping[str, Any]) -> str:
    low, above = field.get("minimum"), field.get("exclusiveMinimum")
    high, below = field.get("maximum"), field.get("exclusiveMaximum")
    limits = [("from", low), ("above", above), ("to", high), ("below", below)]
    told = " ".join(f"{word} {value:g}" for word, value in limits if value is not None)
    return f" {told}" if told else ""


def _named(reference: str, headings: Headings) -> str:
    name = reference.rsplit("/", 1)[-1]
    sourced = re.fullmatch(r"Sourced_Annotated_(\w+?)(_.*)?", name)
    if name.startswith("Sourced"):
        kind = sourced[1] if sourced else name.removeprefix("Sourced_").strip("_")
        return f"{'whole number' if kind == 'int' else 'number'}, with source or assumption"
    return f"[{_plain(name)}](#{headings.get(name, _plain(name)).replace(' ', '-')})"


# Python


#: what the page of functions shows, in order: module and what it is for
MODULES: Mapping[str, str] = {
    "trex": "What most programs need",
    "trex.hardware": "Devices and prices",
    "trex.reuse": "Plans on models",
    "trex.runtime": "Several plans in one model",
    "trex.noise": "A chip's errors",
    "trex.exporters": "Files that run elsewhere",
}


def functions() -> str:
    """Signatures and docstrings of every public name."""
    parts: list[str] = []
    shown: set[int] = set()
    for name, title in MODULES.items():
        module = importlib.import_module(name)
        parts.append(f"## {title}: `{name}`\n")
        lines = [line for item in module.__all__ for line in _item(module, item, shown)]
        parts.append("````{eval-rst}\n" + "\n".join(lines) + "````\n")
    return "\n".join(parts)


def _item(module: ModuleType, name: str, shown: set[int]) -> Iterator[str]:
    """A directive for one name; nothing where another name or module has shown it."""
    found = getattr(module, name)
    if id(found) in shown or not (inspect.isclass(found) or inspect.isfunction(found)):
        return
    shown.add(id(found))
    if inspect.isclass(found):
        yield f".. autoclass:: {module.__name__}.{name}\n   :members:\n"
    else:
        yield f".. autofunction:: {module.__name__}.{name}\n"


PARTS: Mapping[str, Callable[[], str]] = {
    "commands": commands,
    "functions": functions,
    "inputs": inputs,
    "results": results,
}
