"""Bundles: a folder with a variant's configuration and weights, enough to run it anywhere.

config.json           the base model, the plan, the preprocessing, where the weights came from
model.safetensors     every parameter of the variant
tokenizer.json        of a text model, for the `tokenizers` library
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from trex.errors import BundleError, ExportError, PlanError, TrexError
from trex.exporters.variant import Check, Variant
from trex.exporters.verify import compare
from trex.files import make_folder, parse_json, write_atomic
from trex.models.objects import is_object
from trex.models.registry import create
from trex.models.weights import weights_hash
from trex.plan import Plan
from trex.reuse import apply_plan, consumers_of, plan_of, remove_plan
from trex.store.fields import Fields, Text, read_fields
from trex.store.schemas import ModelArguments
from trex.store.tensors import state_hash
from trex.stored import current
from trex.text.config import TextConfig
from trex.text.tokenizer import FILE as TOKENIZER
from trex.training.transforms import InputConfig
from trex.versions import VERSION

#: of what is written; version 0.1's is read too
SCHEMA: Final = 2
V0_1: Final = 1
CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
#: what a dynamic bundle (`trex.runtime.bundle`) has in the place of `CONFIG`
DYNAMIC: Final = "dynamic.json"

#: what decides how a bundle of each schema runs; its `fingerprint` changes with any of it
_RUNNING: Final = {
    V0_1: ("model", "model_args", "plan", "transforms", "weights_sha256", "data"),
    SCHEMA: ("model", "model_args", "plan", "weights_sha256", "data"),
}


class _BundleFields(Fields):
    model: Text
    model_args: ModelArguments
    plan: Text
    base_weights_sha256: Text
    weights_sha256: Text
    data: dict[str, Any]
    estimate: dict[str, Any] = Field(default_factory=dict)


class BundleExporter:
    """`trex.load` reads it: the configuration and every parameter."""

    name: Final = "bundle"
    main: Final = CONFIG
    several: Final = False

    def check(self, variants: Sequence[Variant]) -> None:
        """Every variant can be a bundle whose base a name builds."""
        if own := [variant.name for variant in variants if is_object(variant.name)]:
            raise ExportError(
                f"a bundle names its base model, and no name builds {own[0]}",
                hint="export to onnx or torch-export, which hold all; or load the run's best/ "
                "folder into the model itself: trex.load(FOLDER, model)",
            )

    def owns(self, file: str) -> bool:
        """Configuration, weights, tokeniser."""
        return file in (CONFIG, WEIGHTS, TOKENIZER)

    def write(self, folder: Path, variants: Sequence[Variant]) -> None:
        """As `save_bundle`."""
        (variant,) = variants
        save_bundle(
            folder,
            variant.model,
            name=variant.name,
            arguments=variant.arguments,
            base_weights_sha256=variant.base_weights_sha256,
            data_config=variant.data_config,
            extra={} if variant.estimate is None else {"estimate": variant.estimate},
        )

    def verify(self, folder: Path, variants: Sequence[Variant], images: Tensor) -> list[Check]:
        """Load it and compare; it is the same module, so there is nothing to count."""
        (variant,) = variants
        loaded = load_bundle(folder)
        return [compare(str(folder), loaded, variant, images)]

    def loading(self, folder: str) -> str:
        """By `trex.load`."""
        return f'import trex\n\nmodel = trex.load("{folder}")'


def save_bundle(
    folder: Path,
    model: nn.Module,
    *,
    name: str,
    arguments: dict[str, Any],
    base_weights_sha256: str,
    data_config: InputConfig,
    extra: dict[str, Any] | None = None,
) -> None:
    """Write a variant (or an original) as a bundle.

    Args:
        folder: is created; files of an earlier bundle in it are replaced.
        model: the running variant.
        name: its base model's timm name.
        arguments: what else `timm.create_model` needs (num_classes, img_size).
        base_weights_sha256: `weights_hash` of the original.
        data_config: the preprocessing.
        extra: anything that should travel along (estimates, measurements).

    Raises:
        StorageError: it cannot be written.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    config = {
        "schema": SCHEMA,
        "trex_version": VERSION,
        "model": name,
        "model_args": arguments,
        "plan": str(plan_of(model) or Plan()),
        "base_weights_sha256": base_weights_sha256,
        "weights_sha256": weights_hash(model),
        "data": asdict(data_config),
        **(extra or {}),
    }
    config["fingerprint"] = _fingerprint(config)
    make_folder(folder)
    if isinstance(data_config, TextConfig):
        write_atomic(folder / TOKENIZER, data_config.load().to_str().encode())
    write_atomic(folder / WEIGHTS, save(state))
    write_atomic(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def load_config(folder: Path) -> dict[str, Any]:
    """A bundle's configuration; its plan as this version tells it.

    Raises:
        BundleError: it is missing, damaged or of another version.
    """
    file = folder / CONFIG
    try:
        config = parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (folder / DYNAMIC).is_file():
            raise BundleError(
                f"{folder} is a dynamic bundle, of several plans",
                hint="load it with trex.load; `trex export --plans NAME` takes plans out of it",
            ) from None
        raise BundleError(
            f"{folder} is not a bundle: it has no {CONFIG}",
            hint="give a folder that `trex export` wrote, or a run's best/ folder",
        ) from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{file} cannot be read: {error}", hint="export it again") from None
    if not isinstance(config, dict) or config.get("schema") not in tuple(_RUNNING):
        found = config.get("schema") if isinstance(config, dict) else None
        raise BundleError(
            f"{file} is of schema {found}, this TReX reads {SCHEMA} and {V0_1}",
            hint="use the version of TReX that wrote it",
        )
    running = _RUNNING[config["schema"]]
    needed = (*running, "base_weights_sha256", "fingerprint")
    if missing := [name for name in needed if name not in config]:
        raise BundleError(f"{file} has no {missing[0]!r}", hint="export it again")
    if config["fingerprint"] != _fingerprint(config):
        raise BundleError(
            f"{file} was changed after it was written",
            hint=f"export it again; {', '.join(running)} belong together",
        )
    read_fields(_BundleFields, config, file, BundleError, "export it again")
    try:
        return current(config) if config["schema"] == V0_1 else config
    except PlanError as error:
        raise BundleError(f"{file}: {error.message}", hint="export it again") from error


def load_bundle(folder: str | Path, base: nn.Module | None = None) -> nn.Module:
    """The running variant of a bundle, in evaluation mode.

    Args:
        folder: the bundle.
        base: turn this original into the variant, in place, instead of building one; it must be
            the very model the bundle was made from.

    Raises:
        BundleError: the bundle is incomplete or damaged, or `base` is another model or holds
            other weights. `base` is then as it was.
    """
    folder = Path(folder)
    config = load_config(folder)
    state = _read_weights(folder / WEIGHTS)
    if base is not None and weights_hash(base) != config["base_weights_sha256"]:
        raise BundleError(
            f"{folder} was made from another base model or from other weights of it",
            hint=f"load the {config['model']} weights of hash {config['base_weights_sha256']}, "
            "or leave base out",
        )
    if state_hash(state) != config["weights_sha256"]:
        raise BundleError(
            f"{folder / WEIGHTS} is not the file that belongs to {CONFIG}",
            hint="export it again; one of the two was changed",
        )
    try:
        model = create(config["model"], **config["model_args"]) if base is None else base
        apply_plan(model, config["plan"])
    except TrexError as error:
        raise BundleError(
            f"{folder / CONFIG}: {error.message}", hint=error.hint or "export it again"
        ) from error
    expected = {k: v.shape for k, v in model.state_dict().items()}
    found = {k: v.shape for k, v in state.items()}
    if expected != found:
        averages = _misfit_of_averages(model, found)
        remove_plan(model)
        odd = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        raise BundleError(
            f"{folder / WEIGHTS} does not hold this variant's weights; "
            + (averages or f"first difference: {odd[0]}"),
            hint="export it again",
        )
    model.load_state_dict(state)
    return model.eval()


def is_whole(folder: Path) -> bool:
    """Whether a bundle's files are all there, and are those that belong together."""
    try:
        stored: str = load_config(folder)["weights_sha256"]
        return state_hash(_read_weights(folder / WEIGHTS)) == stored
    except BundleError:
        return False


def _misfit_of_averages(model: nn.Module, found: Mapping[str, torch.Size]) -> str:
    """Which consumer's average maps are of other tokens than the model's; empty where none is."""
    names = {id(module): name for name, module in model.named_modules()}
    for encoder, consumer in consumers_of(model).items():
        for name, value in consumer.named_buffers():
            stored = found.get(f"{names[id(consumer)]}.{name}", value.shape)
            if consumer.average_tokens and stored[-1:] != value.shape[-1:]:
                return (
                    f"encoder {encoder} has average maps of {stored[-1]} tokens, and the model "
                    f"{consumer.average_tokens}"
                )
    return ""


def _fingerprint(config: dict[str, Any]) -> str:
    running = _RUNNING[config["schema"]]
    text = json.dumps([config[name] for name in running], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_weights(file: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(file))
    except FileNotFoundError:
        raise BundleError(f"{file.parent} has no {file.name}", hint="export it again") from None
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise BundleError(f"{file} cannot be read: {error}", hint="export it again") from None
