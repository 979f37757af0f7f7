"""Cascades and early exits beside the dynamic bundle that they are of.

adaptive.json         what was chosen, within which limit, on which images
exits.safetensors     the exits' linear maps
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from trex.errors import BundleError, RunError
from trex.files import parse_json, write_atomic
from trex.runtime.adaptive import Cascade, EarlyExits, ExitHead
from trex.runtime.bundle import load_dynamic, load_dynamic_config
from trex.runtime.choose import Chosen, running
from trex.runtime.dynamic import DynamicModel
from trex.store.fields import Amount, Fields, Share, Text, read_fields
from trex.store.tensors import read_tensors, write_tensors

SCHEMA: Final = 1
ADAPTIVE: Final = "adaptive.json"
EXITS: Final = "exits.safetensors"
_HINT: Final = "choose anew: trex dynamic DIR --mean-latency LIMIT --calib DATASET"


class _WayFields(Fields):
    kind: Annotated[str, Field(pattern=r"^(plan|cascade|exits)$")]
    plans: Annotated[list[Text], Field(min_length=1, max_length=2)]
    exits: list[Annotated[int, Field(ge=0)]]
    measure: Annotated[str, Field(pattern=r"^(margin|entropy)$")]
    threshold: float
    cost: Amount
    shares: list[Share]
    loss: float
    agreement: Share
    images: Annotated[int, Field(ge=1)]


class _ExitFields(Fields):
    latency: Amount
    energy: Amount


class _AdaptiveFields(Fields):
    bundle: Text
    quantity: Annotated[str, Field(pattern=r"^(latency|energy)$")]
    limit: Amount
    calibration: Text
    exit_cost: _ExitFields
    ways: list[_WayFields]


def save_ways(
    folder: Path,
    chosen: Mapping[str, Chosen],
    heads: Mapping[str, Mapping[int, ExitHead]],
    *,
    entries: Mapping[str, Any],
) -> None:
    """Write what was chosen into a dynamic bundle's folder.

    Args:
        folder: of the bundle.
        chosen: by kind, as `choose` gives it.
        heads: the exits; those that were chosen are kept.
        entries: `quantity`, `limit`, `calibration`, `exit_cost`, and what else is kept.

    Raises:
        BundleError: the folder holds no dynamic bundle.
        StorageError: it cannot be written.
    """
    fingerprint = load_dynamic_config(folder)["fingerprint"]
    if (exits := chosen.get("exits")) is not None:
        (plan,) = exits.plans
        kept = {place: heads[plan][place] for place in exits.exits}
        tensors = {
            f"{place}.{name}": tensor
            for place, head in kept.items()
            for name, tensor in head._asdict().items()
        }
        write_tensors(folder / EXITS, tensors, of=fingerprint)
    content = {
        "schema": SCHEMA,
        "bundle": fingerprint,
        **entries,
        "ways": [asdict(way) for way in chosen.values()],
    }
    write_atomic(folder / ADAPTIVE, json.dumps(content, indent=2) + "\n")


def load_ways(folder: Path) -> dict[str, Any]:
    """What was chosen for a bundle.

    Raises:
        BundleError: nothing was, the file is damaged, or the bundle is another one by now.
    """
    file = folder / ADAPTIVE
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{folder} has no cascade and no exits yet", hint=_HINT) from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{file} cannot be read: {error}", hint=_HINT) from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise BundleError(f"{file} is of another schema than {SCHEMA}", hint=_HINT)
    read_fields(_AdaptiveFields, content, file, BundleError, _HINT)
    if content["bundle"] != load_dynamic_config(folder)["fingerprint"]:
        raise BundleError(f"{file} is of another bundle than {folder} is now", hint=_HINT)
    return content


def load_adaptive(
    folder: str | Path,
    kind: Literal["cascade", "exits"],
    model: DynamicModel | None = None,
) -> Cascade | EarlyExits:
    """The cascade, or the early exits, that were chosen for a dynamic bundle.

    Args:
        folder: the bundle.
        kind: which.
        model: the loaded bundle; else it is loaded.

    Raises:
        BundleError: none was chosen, or a file is damaged.
    """
    folder = Path(folder)
    content = load_ways(folder)
    found = [way for way in content["ways"] if way["kind"] == kind]
    if not found:
        raise BundleError(f"{folder} has no {kind}: none kept the limit", hint=_HINT)
    way = found[0]
    if len(way["plans"]) != (2 if kind == "cascade" else 1):
        raise BundleError(
            f"{folder / ADAPTIVE} is damaged: {kind} of {len(way['plans'])} plans", hint=_HINT
        )
    listed = {name: tuple(way[name]) for name in ("plans", "exits", "shares")}
    known = {name: way[name] for name in Chosen.__slots__}
    chosen = Chosen(**{**known, **listed})
    heads: dict[str, dict[int, ExitHead]] = {}
    if kind == "exits":
        try:
            tensors = read_tensors(folder / EXITS, of=content["bundle"])
            heads[chosen.plans[0]] = {
                place: ExitHead(tensors[f"{place}.weight"], tensors[f"{place}.bias"])
                for place in chosen.exits
            }
        except RunError as error:
            raise BundleError(error.message, hint=_HINT) from error
        except KeyError as error:
            raise BundleError(f"{folder / EXITS} has no tensor {error}", hint=_HINT) from None
    made = running(model or load_dynamic(folder), chosen, heads, content["exit_cost"])
    assert made is not None
    return made
