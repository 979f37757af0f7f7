"""Loading weights into a model, with a report of every name and shape; hashes of weights."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import timm
from torch import Tensor, nn

from trex.errors import WeightsError
from trex.models._checkpoint import read_checkpoint, unwrap_checkpoint
from trex.models.answers import answers_of
from trex.store.tensors import state_hash

#: Names an error or a report spells out before it only counts.
_SHOWN: Final = 3

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyReport:
    """How a file's weights and a model's go together.

    Attributes:
        matched: number of the model's tensors that the file fills.
        missing: the model's names that the file does not have.
        unexpected: the file's names that the model does not have.
        mismatched: name, the file's shape and the model's, where they differ.
        reshaped: name, the file's shape and the model's, where the weights were made to fit:
            position embeddings resampled to another image size, patch embeddings stored flat.
        renamed: the file's name and the model's, where the model's conversion changed it.
    """

    matched: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, Shape, Shape], ...] = ()
    reshaped: tuple[tuple[str, Shape, Shape], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the file fills the model exactly."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        wrong = (f"{name} {_x(file)} for {_x(model)}" for name, file, model in self.mismatched)
        made = (f"{name} from {_x(file)} to {_x(model)}" for name, file, model in self.reshaped)
        parts = (
            (len(self.missing), "missing", self.missing),
            (len(self.unexpected), "unexpected", self.unexpected),
            (len(self.mismatched), "of another shape", wrong),
            (len(self.reshaped), "reshaped", made),
            (len(self.renamed), "renamed", (f"{old} to {new}" for old, new in self.renamed)),
        )
        found = [f"{n} {what} ({_first(names, n)})" for n, what, names in parts if n]
        total = self.matched + len(self.missing) + len(self.mismatched)
        return ", ".join([f"{self.matched} of {total} tensors match", *found])


def load_weights(model: nn.Module, path: Path, *, model_name: str) -> KeyReport:
    """Fill `model` from a file; it stays as it was where anything does not fit.

    Takes safetensors and `torch.save` files, flat or nested under `model`, `state_dict`, or their
    averaged versions, which win. The conversion that timm has for the model is applied. A model
    without classes leaves a file's head out.

    Args:
        model: the model to fill, of its original layout.
        path: the file.
        model_name: the name the model was created by.

    Raises:
        WeightsError: the file is unreadable, any name or shape is not the model's, or its values
            are whole numbers or not finite.
    """
    contents = read_checkpoint(path)
    try:
        stored = unwrap_checkpoint(contents)
        weights = _convert(stored, model, model_name)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error.message}", hint=error.hint) from None
    weights = _without_head(weights, model)
    report = _compare(stored, weights, model)
    if not report.fits:
        raise _refusal(report, stored, model, f"{path} does not fit {model_name}")
    _check_values(weights, model, path)
    model.load_state_dict(weights)
    return report


def weights_hash(model: nn.Module) -> str:
    """16 hexadecimal digits that change with any name, type, shape or value of a state dict."""
    return state_hash(model.state_dict())


def _convert(stored: dict[str, Tensor], model: nn.Module, model_name: str) -> dict[str, Tensor]:
    """`stored`, through the conversion that the model's library has for its checkpoints."""
    convert = filter_of(model, model_name)
    if convert is None:
        return stored
    parameters = inspect.signature(convert).parameters
    # DeiT-III's published files have old names of LayerScale; timm binds this only inside.
    options = {"adapt_layer_scale": True} if "adapt_layer_scale" in parameters else {}
    arguments = (stored, model) if len(parameters) > 1 else (stored,)
    try:
        converted: dict[str, Tensor] = convert(*arguments, **options)
    except WeightsError:
        raise
    except Exception:  # another architecture's weights: the comparison says what does not fit
        return stored
    # A patch size is part of the architecture: timm would resample the filters in silence.
    name = "patch_embed.proj.weight"
    if name in stored and name in converted and stored[name].numel() != converted[name].numel():
        converted[name] = stored[name]
    return converted


def filter_of(model: nn.Module, model_name: str) -> Callable[..., dict[str, Tensor]] | None:
    """The conversion that the model's library has for its checkpoints, where it has one."""
    module = type(model).__module__
    if timm.is_model(model_name):
        module = timm.model_entrypoint(model_name).__module__
    found: Callable[..., dict[str, Tensor]] | None = getattr(
        sys.modules[module], "checkpoint_filter_fn", None
    )
    return found


def _without_head(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A file's weights; of a model that was asked for without a head, without its head's."""
    if answers_of(model) == "classes":
        return weights
    heads, own = _heads(model), model.state_dict().keys()
    return {
        name: value
        for name, value in weights.items()
        if name in own or name.rpartition(".")[0] not in heads
    }


def _compare(
    stored: Mapping[str, Tensor], weights: Mapping[str, Tensor], model: nn.Module
) -> KeyReport:
    wanted = model.state_dict()
    # A conversion may fill a gap with the model's own values: that is still a gap.
    own = {value.data_ptr() for value in wanted.values()}
    filled = {name for name, value in weights.items() if value.data_ptr() not in own}
    common = [name for name in wanted if name in filled]
    shapes = {name: (tuple(weights[name].shape), tuple(wanted[name].shape)) for name in common}
    origin = {id(value): name for name, value in stored.items()}
    return KeyReport(
        matched=sum(file == model_shape for file, model_shape in shapes.values()),
        missing=tuple(name for name in wanted if name not in filled),
        unexpected=tuple(name for name in weights if name not in wanted),
        mismatched=tuple((name, *pair) for name, pair in shapes.items() if pair[0] != pair[1]),
        reshaped=tuple(
            (name, tuple(stored[name].shape), pair[1])
            for name, pair in shapes.items()
            if name in stored and pair[0] == pair[1] != tuple(stored[name].shape)
        ),
        renamed=tuple(
            (origin[id(weights[name])], name)
            for name in common
            if name not in stored and id(weights[name]) in origin
        ),
    )


def _check_values(weights: Mapping[str, Tensor], model: nn.Module, path: Path) -> None:
    for name, own in model.state_dict().items():
        value = weights[name]
        if not own.is_floating_point():
            continue
        if not value.is_floating_point():
            raise WeightsError(
                f"{path}: {name} holds whole numbers ({_kind(value)}), the model's are fractions",
                hint="give the weights as they were before they were rounded or quantised",
            )
        if not bool(value.isfinite().all()):
            raise WeightsError(
                f"{path}: {name} holds what is not a finite number",
                hint="give a checkpoint from before the training broke down",
            )


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _refusal(
    report: KeyReport, stored: Mapping[str, Tensor], model: nn.Module, what: str
) -> WeightsError:
    classes = _classes_only(report, model)
    if classes is not None:
        file, own = classes
        return WeightsError(
            f"{what}: its head has {file} classes, the model's has {own}",
            hint=f"give --num-classes {file}",
        )
    if _lacks_only_a_head(report, model):
        return WeightsError(
            f"{what}: it has no {report.missing[0]}: its model was never trained to classify",
            hint="fine-tune it first, or give the weights of a classifier",
        )
    looks, has = _looks(stored), _looks(model.state_dict())
    differs = f"; the file looks like {looks}, the model has {has}" if looks != has else ""
    return WeightsError(
        f"{what}: {report}{differs}", hint="name the model that the file was saved from"
    )


def _classes_only(report: KeyReport, model: nn.Module) -> tuple[int, int] | None:
    """The file's and the model's number of classes where nothing else is different."""
    heads = _heads(model)
    pairs = {(file[0], own[0]) for _, file, own in report.mismatched if file[1:] == own[1:]}
    in_heads = all(name.rpartition(".")[0] in heads for name, *_ in report.mismatched)
    if report.missing or report.unexpected or not in_heads or len(pairs) != 1:
        return None
    return pairs.pop()


def _lacks_only_a_head(report: KeyReport, model: nn.Module) -> bool:
    """Whether the file has all but the classifier, and perhaps what pools for it."""
    heads = {name.split(".")[0] for name in (*_heads(model), "pooler")}
    in_heads = all(name.split(".")[0] in heads for name in report.missing)
    return bool(report.missing) and in_heads and not (report.unexpected or report.mismatched)


def _heads(model: nn.Module) -> tuple[str, ...]:
    """Where the model's last layers are: what timm says, else `transformers`' and usual names."""
    config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    heads = config.get("classifier") or ("head", "classifier", "classifier.out_proj")
    return (heads,) if isinstance(heads, str) else tuple(heads)


def _looks(weights: Mapping[str, Tensor]) -> str:
    """The size of a vision transformer with these weights; says so where it is none."""
    numbers = [int(found[1]) for name in weights if (found := re.match(r"blocks\.(\d+)\.", name))]
    token = weights.get("cls_token", weights.get("pos_embed"))
    if not numbers or token is None:
        return "no vision transformer"
    text = f"{max(numbers) + 1} encoders {token.shape[-1]} wide"
    filters = weights.get("patch_embed.proj.weight")
    if filters is not None and filters.ndim == 4:
        text += f" on patches of {filters.shape[-2]}×{filters.shape[-1]} pixels"
    return text


def _x(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _first(names: Iterable[str], count: int) -> str:
    shown = [name for name, _ in zip(names, range(_SHOWN), strict=False)]
    return ", ".join(shown) + (", …" if count > _SHOWN else "")
