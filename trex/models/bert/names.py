"""Text classifiers by name: BERT's published sizes, a folder, or any name on the hub."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from trex.errors import ModelError, WeightsError
from trex.files import parse_json
from trex.models.bert.model import FAMILIES, TextClassifier, from_transformers, most_tokens

#: before a hub's name, as `timm/` is for images
HUB: Final = "transformers/"

_DEFAULT_TOKENS: Final = 128

#: name -> hub name, encoders, width, heads; Devlin et al., arXiv 1810.04805, and Turc et al.,
#: arXiv 1908.08962. The MLP is four times as wide, the vocabulary has 30,522 word pieces.
_BERTS: Final[dict[str, tuple[str, int, int, int]]] = {
    "bert_tiny_uncased": ("google/bert_uncased_L-2_H-128_A-2", 2, 128, 2),
    "bert_mini_uncased": ("google/bert_uncased_L-4_H-256_A-4", 4, 256, 4),
    "bert_small_uncased": ("google/bert_uncased_L-4_H-512_A-8", 4, 512, 8),
    "bert_medium_uncased": ("google/bert_uncased_L-8_H-512_A-8", 8, 512, 8),
    "bert_base_uncased": ("google-bert/bert-base-uncased", 12, 768, 12),
    "bert_large_uncased": ("google-bert/bert-large-uncased", 24, 1024, 16),
}


def text_models() -> tuple[str, ...]:
    """The names that are known without a network."""
    return tuple(_BERTS)


def is_text_model(name: str) -> bool:
    """Whether `name` is one of these, a hub name, or a folder with a model of `transformers`."""
    return name in _BERTS or name.startswith(HUB) or _config_file(name) is not None


def weights_in(folder: Path) -> Path:
    """The weights of a folder that `save_pretrained` wrote.

    Raises:
        WeightsError: it has none.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(
        f"{folder} has no model.safetensors", hint="give what save_pretrained wrote, unsharded"
    )


def create_text_model(
    name: str,
    *,
    num_classes: int | None,
    tokens: int | None,
    config: dict[str, Any] | None,
    pretrained: bool,
    device: str,
) -> TextClassifier:
    """A text classifier in evaluation mode.

    Args:
        name: see `is_text_model`.
        num_classes: of the head; None takes the checkpoint's, or 2.
        tokens: of its texts; 128, or as many as it has positions for.
        config: of `transformers`, as a dictionary; the name is then only a name.
        pretrained: take the hub's weights.
        device: cpu or meta.

    Raises:
        ModelError: the name, or what is behind it, is not a model TReX understands.
        WeightsError: pretrained weights cannot be had.
    """
    transformers = _transformers()
    if num_classes is not None and num_classes < 1:
        raise ModelError(f"{name} cannot have {num_classes} classes", hint="give at least 1")
    made = _config(name, transformers) if config is None else _from_dict(name, config)
    if made.model_type not in FAMILIES:
        raise ModelError(
            f"{name} is a {made.model_type}, a family in which TReX cannot reuse attention",
            hint=f"supported text encoders: {', '.join(FAMILIES)}",
        )
    if num_classes is not None:
        made.num_labels = num_classes
    if pretrained:
        network = _pretrained(name, made, transformers)
    else:
        try:
            with torch.device(device):
                network = transformers.AutoModelForSequenceClassification.from_config(made)
        except Exception as error:  # the library checks little before it builds
            raise _no_configuration(name, error) from error
    text = from_transformers(
        network,
        tokens=min(_DEFAULT_TOKENS, most_tokens(made)) if tokens is None else tokens,
        tokenizer=_BERTS[name][0] if name in _BERTS else name.removeprefix(HUB),
    )
    text.eval()
    return text


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise ModelError(
            "text models need transformers, which is not installed",
            hint='pip install "trex-vit[text]"',
        ) from None
    return transformers


def _config_file(name: str) -> Path | None:
    """The `config.json` of a folder of `transformers`."""
    file = Path(name) / "config.json"
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return file if isinstance(found, dict) and "model_type" in found else None


def _config(name: str, transformers: Any) -> Any:
    if name in _BERTS:
        _, depth, dim, heads = _BERTS[name]
        return transformers.BertConfig(
            num_hidden_layers=depth,
            hidden_size=dim,
            num_attention_heads=heads,
            intermediate_size=4 * dim,
        )
    if (file := _config_file(name)) is not None:
        return _from_dict(name, parse_json(file.read_text(encoding="utf-8")))
    try:
        return transformers.AutoConfig.from_pretrained(name.removeprefix(HUB))
    except Exception as error:  # hub clients raise errors of many libraries
        raise ModelError(
            f"the hub's {name.removeprefix(HUB)} cannot be had: {_reason(error)}",
            hint="check name and network, or give a folder that save_pretrained wrote",
        ) from error


def _from_dict(name: str, values: dict[str, Any]) -> Any:
    values = dict(values)
    try:
        return _transformers().AutoConfig.for_model(values.pop("model_type"), **values)
    except Exception as error:  # the library's checks raise errors of their own
        raise _no_configuration(name, error) from error


def _no_configuration(name: str, error: Exception) -> ModelError:
    reason = textwrap.shorten(" ".join(map(str, error.args)), 160, placeholder=" …")
    return ModelError(
        f"{name}: its configuration is not one of transformers: {reason}",
        hint="give a folder that save_pretrained wrote",
    )


def _pretrained(name: str, config: Any, transformers: Any) -> nn.Module:
    """The hub's weights, all of them.

    A checkpoint of pretraining alone has no classifier; transformers would draw a random one.
    """
    hub = _BERTS[name][0] if name in _BERTS else name.removeprefix(HUB)
    try:
        network, loading = transformers.AutoModelForSequenceClassification.from_pretrained(
            hub, config=config, output_loading_info=True
        )
    except Exception as error:  # hub clients raise errors of many libraries
        raise WeightsError(
            f"the pretrained weights of {hub} cannot be had: {_reason(error)}",
            hint="check the network, or give a local file or folder with --weights",
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise WeightsError(
            f"{hub} has no {missing[0]}: it was never trained to classify",
            hint=f"fine-tune it first, or name a fine-tuned one: {HUB}ORGANISATION/NAME",
        )
    return network  # type: ignore[no-any-return]


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
