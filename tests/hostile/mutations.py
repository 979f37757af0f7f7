"""Damage to files, each a function of a seed: bits, cuts, splices, and values of other types."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from typing import Any, Final

#: what parsers stumble over
TOKENS: Final = (
    b"", b"\0", b"\xff\xfe", b"null", b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"[]", b"{}",
    b'"', b"'", b"\n", b"\r\n", b"\t", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"true",
    b"&a *a",
    b"!!python/object/apply:os.system ['exit 3']", b"%s%n", b"../../etc/passwd", "ü²٣".encode(),
    b"12345678901234567890", b"0x10", b"1_000", b"---\n", b"<-", b"~", b"=",
)  # fmt: skip
VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1.5, -0.0, 1e308, 10**30, "", "x", "2<-1", "9" * 400, [], [None], {},
    {"a": {"b": []}}, [[[]]], "\0", "../../x", [0] * 50, {"schema": 3},
)  # fmt: skip


def mutated(data: bytes, seed: int) -> bytes:
    """`data`, damaged in one to four places; the same for the same seed."""
    rng = random.Random(seed)
    if rng.random() < 0.5 and (found := _as_json(data)) is not None:
        for _ in range(rng.choice((1, 1, 2, 4))):
            found = _other_value(found, rng)
        return found if isinstance(found, bytes) else _text_of(found)
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = _other_bytes(data, rng)
    return data


def _as_json(data: bytes) -> Any:
    """A JSON value, or the lines of such a file."""
    try:
        return json.loads(data)
    except ValueError:
        pass
    try:
        lines = [json.loads(line) for line in data.splitlines()]
    except ValueError:
        return None
    return Lines(lines) if lines else None


class Lines(list[Any]):
    """A file of one JSON value a line."""


def _text_of(value: Any) -> bytes:
    if isinstance(value, Lines):
        return b"".join(json.dumps(line).encode() + b"\n" for line in value)
    return json.dumps(value).encode()


def _other_value(value: Any, rng: random.Random) -> Any:
    """`value` with one value somewhere in it taken out, doubled or replaced."""
    places = list(_places(value))
    if not places:
        return deepcopy(rng.choice(VALUES))
    holder, key = rng.choice(places)
    way = rng.random()
    if way < 0.2:
        del holder[key]
    elif way < 0.3 and isinstance(holder, list):
        holder.insert(key, deepcopy(holder[key]))
    elif way < 0.4 and isinstance(holder, dict):
        holder[rng.choice(("schema", "plan", "x", ""))] = deepcopy(holder[key])
    else:
        holder[key] = deepcopy(rng.choice(VALUES))
    return value


def _places(value: Any) -> Any:
    items: Any = ()
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def _other_bytes(data: bytes, rng: random.Random) -> bytes:
    place, end = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    low, high = min(place, end), max(place, end)
    way = rng.randrange(7)
    if way == 0 and data:
        place = min(place, len(data) - 1)
        return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    if way == 1:
        return data[:place]
    if way == 2:
        return data[:low] + data[high:]
    if way == 3:
        return data[:high] + data[low:high] + data[high:]
    if way == 4:
        return data[:place] + rng.randbytes(rng.choice((1, 4, 64))) + data[place:]
    if way == 5 and data:
        number = rng.choice((0, 1, 0x7F, 0xFF)).to_bytes(1, "big") * rng.choice((1, 4, 8))
        return data[:place] + number + data[place + len(number) :]
    return data[:place] + rng.choice(TOKENS) + data[place:]
