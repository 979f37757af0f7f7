"""Strict reading of YAML and JSON: nothing ignored, nothing guessed, every error with a line.

A file is read into a `Document`, which remembers where each value stands, and validated into a
frozen pydantic model. YAML 1.1 reads `1e-5` as text and `yes` as true: numbers must be written as
numbers, and nothing is converted on the way.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from trex.errors import TrexError

#: Where a value stands in a document: keys and list positions from the root on.
Location = tuple[str | int, ...]

ModelT = TypeVar("ModelT", bound=BaseModel)


class StrictModel(BaseModel):
    """Base of every file's model: unknown fields, conversions, NaN and infinities are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class FieldProblem(ValueError):
    """Raised by a model's validator: what is wrong with one of its fields, and what to do."""

    def __init__(self, location: Location, message: str, hint: str) -> None:
        super().__init__(message)
        self.location = location
        self.hint = hint


class FieldProblems(ValueError):
    """Raised by a validator that finds several of its fields wrong at once."""

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)


def raise_all(problems: Sequence[FieldProblem]) -> None:
    """Raise what a validator found wrong, all of it at once; nothing where it found nothing."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise FieldProblems(problems)


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What is wrong at one place of a file; `line` is 0 where it is not known."""

    line: int
    location: Location
    message: str
    hint: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A file's plain content, and the line each value stands on.

    `error` is the class raised when the content is not valid. `unclear` is what the reader could
    not take as plain values; `check` tells it with everything else.
    """

    path: Path
    data: Any
    lines: Mapping[Location, int]
    error: type[TrexError]
    unclear: tuple[Problem, ...] = ()

    def problem(self, location: Location, message: str, hint: str) -> TrexError:
        """An error that names this file, the field and its line."""
        return self.error_of([self.at(location, message, hint)])

    def at(self, location: Location, message: str, hint: str) -> Problem:
        """What is wrong with a field, with the field's line."""
        return Problem(line=self.line(location), location=location, message=message, hint=hint)

    def error_of(self, problems: Iterable[Problem]) -> TrexError:
        """One error that tells all of them, in the order of their lines."""
        ordered = sorted(problems, key=lambda problem: problem.line)
        return all_of([_told(self.path, problem, self.error) for problem in ordered])

    def with_values(self, values: Mapping[str, Any]) -> Document:
        """A copy with other values; a name such as `schedule.final_share` leads into mappings.

        Its problems name no lines: they would mislead about values that are not in the file.

        Raises:
            TrexError: of this document's class: a name leads through a value that is no mapping.
        """
        data = deepcopy(self.data)
        for field, value in values.items():
            *path, last = field.split(".")
            part = data
            for depth, key in enumerate(path, start=1):
                part = part.setdefault(key, {})
                if not isinstance(part, dict):
                    whole = ".".join(path[:depth])
                    raise self.error(
                        f"{self.path}: {field} cannot be set: {whole} has no fields by name",
                        hint=f"give {whole} as a whole",
                    )
            part[last] = value
        return replace(
            self, path=Path(f"{self.path.name} with the given flags"), data=data, lines={}
        )

    def line(self, location: Location) -> int:
        """The line of a value, or of the nearest mapping around it; 0 where unknown."""
        for end in range(len(location), -1, -1):
            if location[:end] in self.lines:
                return self.lines[location[:end]]
        return 0

    def validate(self, model: type[ModelT], location: Location = ()) -> ModelT:
        """The content, or the part of it at `location`, as a `model`.

        Raises:
            TrexError: of this document's class; it names every field that is not valid.
        """
        found, problems = self.check(model, location)
        if found is None:
            raise self.error_of(problems)
        return found

    def check(
        self, model: type[ModelT], location: Location = ()
    ) -> tuple[ModelT | None, list[Problem]]:
        """The content, or the part of it at `location`, as a `model`, or all that is wrong."""
        part = self.data
        for key in location:
            part = part[key]
        try:
            # JSON keeps pydantic strict and still lets a list fill a tuple.
            found = model.model_validate_json(json.dumps(part))
        except ValidationError as error:
            return None, self._problems(error, model, location)
        return (None if self.unclear else found), [*self.unclear]

    def _problems(
        self, error: ValidationError, model: type[BaseModel], location: Location
    ) -> list[Problem]:
        found = list(self.unclear)
        named = {problem.location for problem in found}
        for each in _most_telling(error.errors(include_url=False), model):
            inner = tuple(each["loc"])
            # the alternatives of a union fail one by one, behind the same value
            place = location + inner
            if each["type"] not in ("missing", "extra_forbidden"):
                place = self._known(place)
            if any(place[: len(other)] == other for other in named):
                continue
            named.add(place)
            cause = each.get("ctx", {}).get("error")
            causes = cause.problems if isinstance(cause, FieldProblems) else [cause]
            for one in causes:
                if isinstance(one, FieldProblem):
                    where = location + inner + one.location
                    found.append(self.at(where, str(one), one.hint))
                else:
                    found.append(self.at(location + inner, *_explain(each, model)))
        return found

    def _known(self, location: Location) -> Location:
        """The longest beginning of a location that is in the file; all of it without lines."""
        ends = range(len(location), 0, -1) if self.lines else ()
        return next((location[:end] for end in ends if location[:end] in self.lines), location)


#: as many problems as are told of one file
_MOST_TOLD: Final = 20


def all_of(errors: Sequence[TrexError]) -> TrexError:
    """One error, of the last one's class, that tells all of them with their hints."""
    left_out = len(errors) - _MOST_TOLD
    *others, last = errors[:_MOST_TOLD]
    text = "\n".join([*map(str, others), last.message])
    more = f" (and {left_out} more problems)" if left_out > 0 else ""
    return type(last)(text, hint=f"{last.hint}{more}")


def _told(path: Path, problem: Problem, error: type[TrexError]) -> TrexError:
    where = f"{path}:{problem.line}" if problem.line else str(path)
    field = ".".join(map(str, problem.location))
    return error(f"{where}: {field + ': ' if field else ''}{problem.message}", hint=problem.hint)


def read_document(path: Path, error: type[TrexError], *, unclear: bool = False) -> Document:
    """Read a `.yaml`, `.yml` or `.json` file.

    Args:
        path: of the file.
        error: the class of what is raised.
        unclear: keep values that are not plain (a key given twice, NaN, an infinity) for
            `Document.check`, which then tells everything at once, instead of raising here.

    Raises:
        TrexError: of class `error`: the file is missing, unreadable, far too long, not of its
            format, has a key twice, or holds NaN or an infinity.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        reason = getattr(cause, "strerror", None) or "not UTF-8 text"
        raise error(f"{path}: cannot be read: {reason}", hint="check the path") from None
    if len(data) > _MOST_BYTES:
        raise error(f"{path}: is longer than any file of ours", hint="check the path")
    document = parse_document(text, path, error)
    if document.unclear and not unclear:
        raise document.error_of(document.unclear)
    return document


def parse_document(text: str, path: Path, error: type[TrexError]) -> Document:
    """Read a document from text; `path` names it in errors and tells its format.

    What is not plain in it is left in `Document.unclear`.
    """
    lines: dict[Location, int] = {}
    is_json = path.suffix == ".json"
    try:
        # JSON is YAML but for tabs between its tokens; inside its strings a tab is escaped.
        node = yaml.compose(text.replace("\t", " ") if is_json else text, Loader=_Loader)
        if node is None:
            raise error(f"{path}: is empty", hint="see the documentation for its fields")
        reader = _Reader(path, lines, error)
        data = reader.build(node, ())
    except yaml.YAMLError as cause:
        mark = getattr(cause, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        what = getattr(cause, "problem", None) or "not valid"
        raise error(f"{where}: {what}", hint="check the file's syntax") from None
    except RecursionError:
        raise error(f"{path}: is nested too deep", hint="write plain values") from None
    if is_json:
        data = _json(text, path, error)
    if not isinstance(data, dict):
        raise error(f"{path}: holds no fields", hint="write `name: value` lines")
    return Document(path=path, data=data, lines=lines, error=error, unclear=tuple(reader.unclear))


def parse_value(text: str, name: str, error: type[TrexError]) -> Any:
    """One value in YAML, as strictly as a file's; `name` says in errors what it is for.

    Raises:
        TrexError: of class `error`: there is none, or it is not plain.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            raise error(f"{name} has no value", hint="write null for none")
        reader = _Reader(Path(name), {}, error)
        value = reader.build(node, ())
    except (yaml.YAMLError, RecursionError):
        raise error(
            f"{name}: {_short(text)} is no plain value", hint="write one as in YAML"
        ) from None
    if reader.unclear:
        raise all_of([_told(Path(name), problem, error) for problem in reader.unclear])
    return value


def _json(text: str, path: Path, error: type[TrexError]) -> Any:
    def refuse(constant: str) -> None:
        raise error(f"{path}: {constant} is not a number", hint="give a finite number")

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as cause:
        raise error(
            f"{path}:{cause.lineno}: {cause.msg}", hint="check the file's syntax"
        ) from None
    except ValueError:  # Python refuses to read thousands of digits
        raise error(f"{path}: holds no plain number", hint="write fewer digits") from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader; its tags for dates are not built (see `_Reader`)."""


_SCALARS: Final = ("str", "int", "float", "bool", "null")

#: YAML 1.1 also reads 010 as eight, 1:30 as ninety and 1_0 as ten.
_PLAIN_NUMBER: Final = re.compile(
    r"[-+]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][-+]\d+)?|[-+]?\.(?:inf|nan)", re.IGNORECASE
)

#: No file of ours comes near; a value that refers to itself never ends, and few lines of
#: references to references make millions of values.
_DEEPEST: Final = 50
_MOST_VALUES: Final = 100_000
_MOST_BYTES: Final = 16_000_000


class _Reader:
    """Builds plain values from YAML nodes, noting their lines and refusing what is unclear."""

    def __init__(self, path: Path, lines: dict[Location, int], error: type[TrexError]) -> None:
        self.path = path
        self.lines = lines
        self.error = error
        self.unclear: list[Problem] = []
        self.values = 0
        self.constructor = yaml.constructor.SafeConstructor()

    def fail(self, node: yaml.Node, location: Location, message: str, hint: str) -> TrexError:
        return _told(self.path, _problem_at(node, location, message, hint), self.error)

    def note(self, node: yaml.Node, location: Location, message: str, hint: str) -> None:
        """What is wrong with one value, so that the others can be read."""
        self.unclear.append(_problem_at(node, location, message, hint))

    def build(self, node: yaml.Node, location: Location) -> Any:
        if len(location) > _DEEPEST:
            raise self.fail(node, location[:4], "is nested too deep", "write plain values")
        self.values += 1
        if self.values > _MOST_VALUES:
            raise self.fail(node, location[:4], "holds too many values", "write plain values")
        self.lines[location] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*location, i)) for i, item in enumerate(node.value)]
        return self.scalar(node, location)

    def mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.scalar(key_node, location)
            if not isinstance(key, Hashable) or not isinstance(key, str | int):
                raise self.fail(key_node, location, f"{key!r} is not a field name", "use text")
            inner = (*location, str(key))
            if str(key) in result:
                self.note(key_node, inner, "is given twice", "keep one of them")
                continue
            result[str(key)] = self.build(value_node, inner)
            self.lines[inner] = key_node.start_mark.line + 1
        return result

    def scalar(self, node: yaml.Node, location: Location) -> Any:
        kind = node.tag.rsplit(":", 1)[-1]
        if kind not in _SCALARS:
            if node.tag.endswith(":timestamp"):
                return str(node.value)
            self.note(node, location, f"holds a YAML tag {node.tag!r}", "write plain values")
            return None
        if kind in ("int", "float") and not _PLAIN_NUMBER.fullmatch(node.value):
            self.note(
                node,
                location,
                f"{node.value} is not a plain number",
                "write decimal digits, or quote it if it is text",
            )
            return None
        try:
            value = self.constructor.construct_object(node)
        except ValueError:  # Python refuses to read thousands of digits
            self.note(
                node, location, f"{node.value[:20]}... is not a plain number", "write fewer digits"
            )
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self.note(node, location, f"{node.value} is not a number", "give a finite number")
            return None
        return value


def _problem_at(node: yaml.Node, location: Location, message: str, hint: str) -> Problem:
    return Problem(line=node.start_mark.line + 1, location=location, message=message, hint=hint)


def _most_telling(errors: list[ErrorDetails], model: type[BaseModel]) -> list[ErrorDetails]:
    """Unknown fields first, and not the `missing` ones that a misspelt name also causes."""
    unknown = [e for e in errors if e["type"] == "extra_forbidden"]
    meant = {
        (*e["loc"][:-1], name)
        for e in unknown
        for name in _close(str(e["loc"][-1]), _fields_at(model, e["loc"][:-1]))
    }
    others = [e for e in errors if e["type"] != "extra_forbidden"]
    return [*unknown, *(e for e in others if e["type"] != "missing" or e["loc"] not in meant)]


def did_you_mean(name: str, known: list[str]) -> str:
    """A hint that names the closest known word, or lists them."""
    close = _close(name, known)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(sorted(known))}"


def _close(name: str, known: list[str]) -> list[str]:
    """The known word closest to a name, if any is close."""
    return difflib.get_close_matches(name, known, n=1, cutoff=0.6)


#: pydantic's names of a bound that a number is beyond
_BOUNDS: Final = {
    "greater_than": "above",
    "greater_than_equal": "of at least",
    "less_than": "below",
    "less_than_equal": "of at most",
}


def _explain(error: ErrorDetails, model: type[BaseModel]) -> tuple[str, str]:
    """A pydantic error as (what is wrong, what to do)."""
    kind, value, location = error["type"], error["input"], error["loc"]
    if kind == "extra_forbidden":
        return "is not a known field", did_you_mean(
            str(location[-1]), _fields_at(model, location[:-1])
        )
    if kind == "missing":
        return "is missing", "add it; every value needs its unit in the name and a source"
    if kind in ("float_type", "int_type") and isinstance(value, str):
        return f"{value!r} is text, not a number", _number_hint(value)
    if kind in ("string_type", "bool_type", "float_type", "int_type", "model_type"):
        return f"{_short(value)} is of the wrong type", error["msg"]
    if kind == "value_error":
        return str(error["ctx"]["error"]), "correct the value"
    if kind in _BOUNDS:
        ((_, bound),) = error["ctx"].items()
        return f"{_short(value)} is not allowed", f"give a number {_BOUNDS[kind]} {bound:.12g}"
    return f"{_short(value)} is not allowed", error["msg"]


def _number_hint(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        return "write a plain number; the field's name carries the unit"
    if not math.isfinite(number):
        return "give a finite number"
    if text.isdigit():
        return "write it without quotes"
    mantissa, _, exponent = f"{number:e}".partition("e")
    mantissa = mantissa.rstrip("0")
    plain = f"{mantissa}{'0' if mantissa.endswith('.') else ''}e{exponent}"
    return f"YAML reads a number only with a point and a signed exponent: write {plain}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _fields_at(model: type[BaseModel], location: Location) -> list[str]:
    """The field names of the model found by following `location`."""
    current: Any = model
    for key in location:
        field = current.model_fields.get(key)
        if field is None:  # a place in a list, or a name in a mapping
            continue
        current = _model_in(field.annotation) or current
    return list(current.model_fields)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _model_in(annotation: Any) -> Any:
    """The first model class inside an annotation such as `tuple[Model, ...]` or `Model | None`."""
    if _is_model(annotation):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
