"""Which parameters learn, and how fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import timm.optim
import timm.scheduler
import torch
from torch import nn

from trex.models.adapter import Adapter, Consumer
from trex.reuse import consumers_of
from trex.reuse.route import encoders_of
from trex.training.finetune.recipe import Part, Recipe, RecipeError, Stage
from trex.training.finetune.task import members_of


def new_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters of transforms, of consumers' projections, of what mixes maps."""
    new = _new(model)
    return {name for name, parameter in model.named_parameters() if id(parameter) in new}


def _new(model: nn.Module) -> set[int]:
    """The same by identity."""
    consumers = _consumers(model)
    new = {
        id(parameter)
        for consumer in consumers
        for name, module in consumer.named_modules()
        if module is consumer.projection or name.rpartition(".")[2] == "transform"
        for parameter in module.parameters()
    }
    return new | {id(p) for of in consumers for name, p in of.named_parameters() if _mixes(name)}


def _consumers(model: nn.Module) -> list[Consumer]:
    """Of all models that are trained together."""
    return [block for member in members_of(model) for block in consumers_of(member).values()]


def _mixes(name: str) -> bool:
    """Whether a parameter is the weights of a source's heads in a consumer's."""
    return name.rpartition(".")[2] == "mix"


def parameter_groups(model: nn.Module, adapter: Adapter, recipe: Recipe) -> list[dict[str, Any]]:
    """Groups for timm's optimisers, with `lr_scale` for its schedulers.

    Norms, biases, what mixes maps and what the model names in `no_weight_decay` do not decay. What
    several models that are trained together share is in one group, as the first of them has it.
    """
    optimizer, new = recipe.optimizer, _new(model)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    seen: set[int] = set()
    for member in members_of(model):
        spared = cast(Callable[[], set[str]], getattr(member, "no_weight_decay", set))()
        depths = _depths(member, adapter)
        for name, parameter in member.named_parameters():
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            decays = parameter.ndim > 1 and name not in spared and not _mixes(name)
            decay = optimizer.weight_decay if decays else 0.0
            scale = optimizer.lr_new / optimizer.lr if id(parameter) in new else 1.0
            scale *= optimizer.layer_decay ** depths[name]
            group = groups.setdefault(
                (scale, decay), {"params": [], "lr_scale": scale, "weight_decay": decay}
            )
            group["params"].append(parameter)
    return list(groups.values())


def _depths(model: nn.Module, adapter: Adapter) -> dict[str, int]:
    """How many encoders lie between each parameter and the head, its own counted."""
    prefixes = [f"{name}." for name, _ in encoders_of(model, adapter)]
    depths: dict[str, int] = {}
    depth = len(prefixes) + 1
    for name, _ in model.named_parameters():
        index = next((i for i, prefix in enumerate(prefixes) if name.startswith(prefix)), None)
        if index is not None:
            depth = len(prefixes) - index
        elif depth == 1:  # behind the last encoder
            depth = 0
        depths[name] = depth
    return depths


def make_optimizer(model: nn.Module, adapter: Adapter, recipe: Recipe) -> torch.optim.Optimizer:
    """Timm's optimiser of that name.

    Raises:
        RecipeError: timm does not have it, or cannot make it.
    """
    settings = recipe.optimizer
    takes_betas = not settings.name.startswith(("sgd", "momentum", "nesterov", "rmsprop", "lars"))
    options: dict[str, Any] = {"betas": settings.betas} if takes_betas else {}
    try:
        made = timm.optim.create_optimizer_v2(
            parameter_groups(model, adapter, recipe), settings.name, lr=settings.lr, **options
        )
    except (AssertionError, TypeError, ValueError) as error:
        raise RecipeError(
            f"optimizer.name: timm cannot make {settings.name!r}: {error}",
            hint="use adamw, or another of timm.optim.list_optimizers()",
        ) from error
    return cast(torch.optim.Optimizer, made)


def make_scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> Any:
    """Timm's cosine schedule, a function of the step alone: `step_update(step)`."""
    highest = recipe.optimizer.lr
    scheduler, _ = timm.scheduler.create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=recipe.epochs,
        min_lr=highest * recipe.schedule.final_share,
        warmup_lr=highest * 0.01,
        warmup_epochs=recipe.schedule.warmup_epochs,
        updates_per_epoch=steps_per_epoch,
        step_on_epochs=False,
    )
    return scheduler


def stage_at(recipe: Recipe, epoch: int) -> Stage:
    """What is trained in an epoch."""
    return [stage for stage in recipe.stages if stage.from_epoch <= epoch][-1]


def thaw(model: nn.Module, part: Part) -> None:
    """Let a part of the parameters learn and freeze the others.

    Raises:
        RecipeError: the part has none.
    """
    if part == "all":
        chosen = {name for name, _ in model.named_parameters()}
    elif part == "new":
        chosen = new_parameters(model)
    else:
        own = {id(p) for block in _consumers(model) for p in block.parameters()}
        chosen = {name for name, p in model.named_parameters() if id(p) in own}
    if not chosen:
        raise RecipeError(
            f"stages: the model has no {part!r} parameters",
            hint="an original, and a plan that reuses nothing, train with all",
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
