"""timm's own format: `timm.create_model("local-dir:FOLDER", pretrained=True)`, or from a hub.

config.json           timm's: entrypoint `trex_variant`, its base and plan, preprocessing
model.safetensors     every parameter of the variant
README.md             the model card

Who loads it must have TReX and import `trex.models`, or `trex` behind timm: timm runs no code that
comes with a model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import timm
from safetensors.torch import save
from timm.models import PretrainedCfg
from torch import Tensor, nn

from trex.errors import ExportError, StorageError
from trex.exporters.card import CARD, model_card, provenance
from trex.exporters.variant import Check, Variant
from trex.exporters.verify import compare
from trex.files import write_atomic
from trex.training.transforms import DataConfig

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
ENTRYPOINT: Final = "trex_variant"

#: of a pretrained configuration: where the base's weights are, which are not these
_SOURCES: Final = (
    "url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load",
    "architecture", "tag",
)  # fmt: skip
_TAGS: Final = "library_name: timm\npipeline_tag: image-classification\ntags: [timm, trex]"


class TimmExporter:
    """A folder that timm loads."""

    name: Final = "timm"
    main: Final = CONFIG
    several: Final = False

    def check(self, variants: Sequence[Variant]) -> None:
        """Timm's models, which read images.

        Raises:
            ExportError: it is another library's.
        """
        for variant in variants:
            if not isinstance(variant.data_config, DataConfig) or not timm.is_model(
                _base(variant)
            ):
                raise ExportError(
                    f"{variant.name} is no model of timm's",
                    hint="export a bundle, onnx or torch-export",
                )

    def owns(self, file: str) -> bool:
        """Configuration, weights, card."""
        return file in (CONFIG, WEIGHTS, CARD)

    def write(self, folder: Path, variants: Sequence[Variant]) -> None:
        """Weights first, configuration last.

        Raises:
            StorageError: it cannot be written.
        """
        (variant,) = variants
        state = {k: v.detach().cpu().contiguous() for k, v in variant.model.state_dict().items()}
        write_atomic(folder / WEIGHTS, save(state, metadata={"format": "pt"}))
        card = model_card(
            variant,
            files=f"`{WEIGHTS}` and `{CONFIG}` are timm's; the entrypoint `{ENTRYPOINT}` comes "
            "with TReX (`pip install trex-vit`), which is imported first.",
            loading=self.loading("FOLDER"),
            tags=_TAGS,
        )
        write_atomic(folder / CARD, card)
        write_atomic(folder / CONFIG, json.dumps(config_of(variant), indent=2) + "\n")

    def verify(self, folder: Path, variants: Sequence[Variant], images: Tensor) -> list[Check]:
        """Load it as its user does and compare; it is the same module: nothing to count."""
        (variant,) = variants
        return [compare(str(folder), load_timm(folder), variant, images)]

    def loading(self, folder: str) -> str:
        """By `timm.create_model`."""
        return (
            "import timm\nimport trex.models  # so that timm knows trex_variant\n\n"
            f'model = timm.create_model("local-dir:{folder}", pretrained=True).eval()'
        )


def load_timm(folder: Path) -> nn.Module:
    """What a folder holds, by timm's own way, in evaluation mode.

    Raises:
        ExportError: it cannot be loaded.
    """
    import trex.models  # noqa: F401 - it registers the entrypoint

    try:
        model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:  # timm asserts and passes on what others raise
        raise ExportError(
            f"timm cannot load {folder}: {type(error).__name__}: {error}", hint="export it again"
        ) from error
    return model.eval()


def config_of(variant: Variant) -> dict[str, Any]:
    """What timm reads, and beside it what TReX knows."""
    data = variant.data_config
    assert isinstance(data, DataConfig)
    model: Any = variant.model
    known = PretrainedCfg(**getattr(model, "pretrained_cfg", {})).to_dict()
    kept = {name: value for name, value in known.items() if name not in _SOURCES}
    size = variant.arguments.get("img_size")
    return {
        "architecture": ENTRYPOINT,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "model_args": {
            "base": _base(variant),
            "plan": str(variant.plan),
            **({} if size is None else {"img_size": size}),
        },
        "pretrained_cfg": {
            **kept,
            "num_classes": model.num_classes,
            "input_size": list(data.input_size),
            "mean": list(data.mean),
            "std": list(data.std),
            "interpolation": data.interpolation,
            "crop_pct": data.crop_pct,
            "crop_mode": data.crop_mode,
        },
        **({"label_descriptions": _described(variant)} if variant.classes else {}),
        "trex": provenance(variant),
    }


def push_to_hub(
    folder: Path, repo_id: str, *, private: bool = False, token: str | None = None
) -> str:
    """Upload an exported folder with the hub library's own function; its page's address.

    Args:
        folder: what `--format timm` wrote.
        repo_id: `organisation/name`; made where there is none.
        private: whether a new one is.
        token: the hub's; else that of the hub's own login.

    Raises:
        ExportError: the folder is no such export.
        StorageError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    if not all((folder / name).is_file() for name in (CONFIG, WEIGHTS, CARD)):
        raise ExportError(
            f"{folder} is no finished export for timm", hint="write it with --format timm first"
        )
    try:
        api = HfApi(token=token, library_name="timm")
        made = api.create_repo(repo_id, private=private, exist_ok=True)
        files = [CONFIG, WEIGHTS, CARD]
        api.upload_folder(
            repo_id=made.repo_id, folder_path=folder, allow_patterns=files,
            commit_message="Add model",
        )  # fmt: skip
    except Exception as error:  # hub clients raise errors of many libraries
        raise StorageError(
            f"{folder} cannot be uploaded to {repo_id}: {type(error).__name__}: {error}",
            hint="check the network, the name, and that you are logged in",
        ) from error
    return str(made)


def _base(variant: Variant) -> str:
    return variant.name.removeprefix("timm/")


def _described(variant: Variant) -> dict[str, str]:
    return {str(number): name for number, name in enumerate(variant.classes)}
