from __future__ import annotations

import pytest
from pydantic import model_validator

from trex.config import FieldProblem, StrictModel, parse_document, parse_value, read_document
from trex.errors import SpaceError


class Inner(StrictModel):
    count: int
    names: tuple[str, ...] = ()


class Outer(StrictModel):
    title: str
    share: float = 0.0
    inner: Inner | None = None
    many: dict[str, Inner] | None = None


def read(tmp_path, text, name="file.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return read_document(path, SpaceError).validate(Outer)


def test_a_valid_file(tmp_path):
    text = "title: a\nshare: -1.5e-3\ninner: {count: 3, names: [x, y]}\nmany:\n  one: {count: 1}\n"
    outer = read(tmp_path, text)
    assert outer.inner == Inner(count=3, names=("x", "y"))
    assert outer.many["one"].count == 1


def test_json_is_read_as_json(tmp_path):
    assert read(tmp_path, '{\n\t"title": "a",\n\t"share": 1e-5\n}', "f.json").share == 1e-5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: a\nshare: 1e-5\n", r"file\.yaml:2: share: '1e-5' is text.*\n.*write 1\.0e-05"),
        ("title: a\nshare: '0.5'\n", r"file\.yaml:2: share: '0\.5' is text"),
        ("title: 3\n", r"file\.yaml:1: title: 3 is of the wrong type"),
        ("title: a\ninner:\n  count: 1.5\n", r"file\.yaml:3: inner\.count"),
        ("title: a\ninner:\n  cout: 1\n", r"file\.yaml:3: inner\.cout.*\n.*mean 'count'"),
        ("title: a\nmany:\n  one:\n    cout: 1\n", r"file\.yaml:4: many\.one\.cout.*\n.*'count'"),
        ("title: a\ntitle: b\n", r"file\.yaml:2: title: is given twice"),
        ("title: a\nshare: .nan\n", r"file\.yaml:2: share: \.nan is not a number"),
        ("title: !x a\n", r"file\.yaml:1: title: .*YAML tag"),
        ("title: [a\n", r"file\.yaml:2: "),
        ("title: a\nshare: 010\n", r"file\.yaml:2: share: 010 is not a plain number"),
        ("title: a\nshare: 1:30\n", r"file\.yaml:2: share: 1:30 is not a plain number"),
        ("title: a\nshare: 0x10\n", r"file\.yaml:2: share: 0x10 is not a plain number"),
        ("title: &t [*t]\n", r"nested too deep"),
        ("- a\n", r"holds no fields"),
        ("", r"is empty"),
    ],
)
def test_errors_name_file_line_and_field(tmp_path, text, message):
    with pytest.raises(SpaceError, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"title": "a", "share": NaN}', "NaN is not a number"),
        ('{"title": "a",\n "share": 1e999}', r"f\.json:2: share"),
        ('{"title": "a",\n "title": "b"}', r"f\.json:2: title: is given twice"),
        ('{"title": "a",}', r"f\.json:1: "),
    ],
)
def test_errors_in_json(tmp_path, text, message):
    with pytest.raises(SpaceError, match=message):
        read(tmp_path, text, "f.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("number: " + "9" * 5000, r"number: 99999999999999999999\.\.\. is not a plain number"),
        (
            "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)),
            "holds too many values",
        ),
    ],
)
def test_a_file_cannot_make_its_reader_work_for_ever(tmp_path, text, message):
    with pytest.raises(SpaceError, match=message):
        read(tmp_path, text)


def test_unreadable_files(tmp_path):
    with pytest.raises(SpaceError, match="cannot be read: No such file"):
        read_document(tmp_path / "none.yaml", SpaceError)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpaceError, match="not UTF-8"):
        read_document(tmp_path / "binary.yaml", SpaceError)


class Checked(StrictModel):
    low: int
    high: int

    @model_validator(mode="after")
    def _ordered(self):
        if self.low > self.high:
            raise FieldProblem(("high",), f"{self.high} is below low", "swap them")
        return self


def test_a_validators_problem_has_its_fields_line(tmp_path):
    document = parse_document("low: 3\nhigh: 2\n", tmp_path / "f.yaml", SpaceError)
    with pytest.raises(SpaceError, match=r"f\.yaml:2: high: 2 is below low\n.*swap them"):
        document.validate(Checked)


def test_a_date_stays_text(tmp_path):
    assert read(tmp_path, "title: 2024-01-01\n").title == "2024-01-01"


def test_the_place_of_an_error_survives_a_part(tmp_path):
    path = tmp_path / "f.yaml"
    document = parse_document("a:\n  count: x\n", path, SpaceError)
    with pytest.raises(SpaceError, match=r"f\.yaml:2: a\.count"):
        document.validate(Inner, ("a",))


def test_other_values_leave_the_document_alone(tmp_path):
    document = parse_document("a: 1\nb: {c: 2, d: 3}\n", tmp_path / "f.yaml", SpaceError)
    changed = document.with_values({"b.c": 5, "e.f": 6, "a": None})
    assert changed.data == {"a": None, "b": {"c": 5, "d": 3}, "e": {"f": 6}}
    assert document.data == {"a": 1, "b": {"c": 2, "d": 3}}
    assert str(changed.problem(("b",), "is bad", "mend it").message) == (
        "f.yaml with the given flags: b: is bad"
    )
    with pytest.raises(SpaceError, match=r"a\.x\.y cannot be set: a has no"):
        document.with_values({"a.x.y": 1})


def test_a_single_value():
    assert parse_value("[0.35, 1.0]", "--set scale", SpaceError) == [0.35, 1.0]
    assert parse_value("null", "--set ema_decay", SpaceError) is None
