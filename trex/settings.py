"""Settings that every process of one search, or every start of one training, must agree on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def as_stored(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from JSON: tuples are lists."""
    stored: dict[str, Any] = json.loads(json.dumps(settings))
    return stored


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """In words, the first setting in which two differ; None where they agree.

    Settings inside others are named `search.seed`. A description comes last: it changes with what
    it describes. A hash of contents that an earlier version did not take is not compared.
    """
    given = {n: of for n, of in now.items() if n in before or not n.endswith("_contents_sha256")}
    return _difference("", before, as_stored(given))


def _difference(prefix: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    for key in sorted(before.keys() | now.keys(), key=lambda key: (key == "description", key)):
        name, old, new = prefix + key, before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            if inner := _difference(f"{name}.", old, new):
                return inner
        elif old != new:
            return f"{name} was {_short(old)}, now it is {_short(new)}"
    return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
