"""Settings that every process of one search must agree on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def as_stored(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from JSON: tuples are lists."""
    stored: dict[str, Any] = json.loads(json.dumps(settings))
    return stored


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """In words, the first setting in which two differ; None where they agree."""
    now = as_stored(now)
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            return f"{name} was {_short(before.get(name))}, now it is {_short(now.get(name))}"
    return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
