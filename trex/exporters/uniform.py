"""UniForm variants as files: TReX's reuse config, and the base model's config for mmengine.

reuse_config.json     who reuses whom; read by `trex.models.uniform.from_config` and nothing else
model.safetensors     every parameter of the variant
mmengine_base.py      the base model, without reuse, for the public UniForm code
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

from safetensors.torch import save
from torch import Tensor, nn

from trex.errors import BundleError
from trex.exporters.variant import Check, Variant
from trex.exporters.verify import compare
from trex.files import make_folder, write_atomic
from trex.models.uniform import UniForm, from_config
from trex.models.uniform.config import (
    CONFIG,
    FORMAT,
    VERSION,
    Preprocessing,
    ReusingEncoder,
    UniformReuseConfig,
    UniformTransform,
    WeightsFile,
    first_misfit,
)
from trex.models.weights import weights_hash
from trex.plan import Plan
from trex.reuse import plan_of
from trex.training.transforms import DataConfig

WEIGHTS: Final = "model.safetensors"
MMENGINE: Final = "mmengine_base.py"

#: The public code's name of each size: inferred from widths and parameters, stated nowhere.
PUBLIC_ARCHS: Final = {"uniform_t": "m0", "uniform_s": "m1", "uniform_m": "m3", "uniform_l": "m5"}

_MMENGINE: Final = """\
# {size} without reuse, for the public UniForm code (mmengine, mmpretrain).
# That {size} is its arch {arch!r} is inferred from its sizes. Revisions of the public code differ:
# compare depths, heads and kernels of its arch_settings with docs/uniform.md.
# Who reuses whom stands in {config}, which only TReX reads.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='MixViT', arch={arch!r}),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='MixViTClsHead', in_channels={width}, num_classes={num_classes}),
)
"""


class UniformExporter:
    """UniForm's reuse config, and the public code's config of its base."""

    name: Final = "uniform"
    main: Final = CONFIG
    several: Final = False

    def check(self, variants: Sequence[Variant]) -> None:
        """UniForms that reuse and do nothing else.

        Raises:
            BundleError: another model, or another plan.
        """
        for variant in variants:
            _check_uniform(variant.name, variant.model)
            _check_plan(variant.plan)

    def owns(self, file: str) -> bool:
        """Two configs and the weights."""
        return file in (CONFIG, WEIGHTS, MMENGINE)

    def write(self, folder: Path, variants: Sequence[Variant]) -> None:
        """As `save_uniform`."""
        (variant,) = variants
        assert isinstance(variant.data_config, DataConfig)
        save_uniform(folder, variant.model, name=variant.name, data_config=variant.data_config)

    def verify(self, folder: Path, variants: Sequence[Variant], images: Tensor) -> list[Check]:
        """Rebuild it from its config and compare."""
        (variant,) = variants
        return [compare(str(folder), from_config(folder), variant, images)]

    def loading(self, folder: str) -> str:
        """By `from_config`."""
        return f'from trex.models.uniform import from_config\n\nmodel = from_config("{folder}")'


def save_uniform(folder: Path, model: nn.Module, *, name: str, data_config: DataConfig) -> None:
    """Write a UniForm variant (or an original) as TReX's reuse config and mmengine's base config.

    Args:
        folder: is created; files of an earlier export in it are replaced.
        model: the running variant.
        name: its base model's name.
        data_config: the preprocessing.

    Raises:
        BundleError: the model is not a UniForm, or not one that the config can describe: fused,
            or of sizes of its own.
        StorageError: a file cannot be written.
    """
    base, model = _check_uniform(name, model)
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    config = uniform_config(model, base, data_config)
    if (odd := first_misfit(config, state)) is not None:
        raise BundleError(
            f"the model is not {base} with this plan; first difference: {odd}",
            hint="give an unfused variant of a published size, and the name it was built by",
        )
    mmengine = _MMENGINE.format(
        size=base,
        arch=PUBLIC_ARCHS[base],
        config=CONFIG,
        width=model.num_features,
        num_classes=model.num_classes,
    )
    make_folder(folder)
    write_atomic(folder / WEIGHTS, save(state))
    write_atomic(folder / MMENGINE, mmengine)
    write_atomic(folder / CONFIG, json.dumps(config.model_dump(mode="json"), indent=2) + "\n")


def _check_uniform(name: str, model: nn.Module) -> tuple[str, UniForm]:
    base = name.removeprefix("timm/").split(".")[0]
    if not isinstance(model, UniForm) or base not in PUBLIC_ARCHS:
        raise BundleError(
            f"{name} is not a UniForm",
            hint=f"the format holds {', '.join(PUBLIC_ARCHS)}; export a bundle instead",
        )
    return base, model


def _check_plan(plan: Plan) -> None:
    if plan.merges or plan.rows:
        raise BundleError(
            f'the format describes who reuses whom, and "{plan}" does more',
            hint="export a bundle instead",
        )


def uniform_config(model: UniForm, base: str, data_config: DataConfig) -> UniformReuseConfig:
    """The reuse config of a running variant; validated as it is when read.

    Raises:
        BundleError: the variant merges tokens, shares rows or leaves some out.
    """
    plan = plan_of(model) or Plan()
    _check_plan(plan)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": base,
        "num_classes": model.num_classes,
        "in_chans": data_config.input_size[0],
        "img_size": model.img_size,
        "reuse": tuple(
            ReusingEncoder(
                encoder=r.consumer,
                source=r.source,
                tensor=r.tensor,
                transform=cast(UniformTransform, r.transform),
            )
            for r in plan.reuses
        ),
        "weights": WeightsFile(file=WEIGHTS, sha256=weights_hash(model)),
        "preprocessing": Preprocessing.model_validate(
            {
                "mean": data_config.mean,
                "std": data_config.std,
                "interpolation": data_config.interpolation,
                "crop_pct": float(data_config.crop_pct),
                "crop_mode": data_config.crop_mode,
            }
        ),
    }
    return UniformReuseConfig.model_validate(content)
