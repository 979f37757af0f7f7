"""Fine-tuning plans that merge tokens, reuse attention and compute class rows only."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from pathlib import Path

import finetune_cases as cases
import pytest
import torch
from tiny_models import KINDS, Kind
from torch import Tensor

from trex.exporters.bundle import load_bundle
from trex.models.adapter import Adapter
from trex.models.registry import LoadedModel, adapter_of
from trex.reuse import apply_plan, plan_of
from trex.reuse.route import State
from trex.training.data import ImageSet
from trex.training.finetune.job import finetune
from trex.training.finetune.losses import Loss
from trex.training.finetune.network import Observed, Outputs
from trex.training.finetune.parameters import new_parameters, parameter_groups
from trex.training.finetune.processes import Processes
from trex.training.finetune.recipe import LossWeights
from trex.training.finetune.task import observed_encoders

#: merges before, in and behind consumers of both tensors
JOINT = "1~3 2<-0 3<-1:map/block 3~2 4~2"
NAMES = ["vit", "distilled", "layer scale", "registers, averaged", "lvvit", "bert"]
#: shared rows, one encoder's groups used twice, a mixed map with class rows of its own, an average
MIXED = "0~3 1=9 2=@1 3<-2:map/mixed 3=class 4:map/average"
LOSSES = {"kl": 1.0, "class_kl": 1.0, "tokens": 1.0, "encoders": 1.0}

every_name = pytest.mark.parametrize("name", NAMES)
every_case = pytest.mark.parametrize(
    ("name", "plan"),
    [
        *((name, JOINT) for name in NAMES),
        *((name, MIXED) for name in NAMES if name not in ("bert", "registers, averaged")),
        ("registers, averaged", MIXED.replace(" 3=class", "")),
        ("bert", "0~1 1=5 2=@1 3<-2:map/linear 3=class"),
    ],
)  # fmt: skip


@dataclass(kw_only=True)
class Case:
    """A kind of model with a joint plan that fits it, and all losses that it has."""

    name: str
    plan: str = JOINT

    def __post_init__(self) -> None:
        if self.name == "bert":  # nine words, of which the class token does not merge
            self.plan = self.plan.replace("1~3", "1~2").replace("~2", "~1")
        if self.kind.reads_class and self.plan == JOINT:
            self.plan += " 5=class"

    @property
    def kind(self) -> Kind:
        """Of more tokens than tests of reuse need."""
        kind = KINDS[self.name]
        if self.name == "bert":
            return kind
        return replace(kind, side=80, kwargs={**kind.kwargs, "img_size": 80})

    @property
    def weights(self) -> LossWeights:
        dense = 0.2 if self.name == "lvvit" else 0.0
        return LossWeights(**LOSSES, dense=dense)

    def network(self, plan: str | None = None, **options: bool) -> tuple[Observed, Adapter]:
        """A model that runs `plan`, and shows what the case's losses compare."""
        model = self.kind.build()
        adapter = adapter_of(model)
        recipe = cases.recipe(losses=self.weights.model_dump())
        encoders = observed_encoders(apply_plan(self.kind.build(), self.plan), recipe)
        apply_plan(model, self.plan if plan is None else plan)
        dense = bool(self.weights.dense)
        return Observed(model, adapter, encoders=encoders, dense=dense, **options), adapter

    def outputs(self, plan: str | None = None, number: int = 4) -> Outputs:
        with torch.no_grad():
            outputs: Outputs = self.network(plan)[0](self.kind.images(number))
        return outputs

    def losses(self, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        labels = torch.arange(len(student.logits_BC)) % 7
        model = self.kind.build()
        return Loss(self.weights, model, adapter_of(model))(student, teacher, labels)


@every_case
def test_every_loss_is_finite_and_reaches_every_parameter(name: str, plan: str) -> None:
    case = Case(name=name, plan=plan)
    student, _ = case.network()
    parts = case.losses(student.train()(case.kind.images(4)), case.outputs(""))
    assert list(parts) == [*LOSSES, *(["dense"] if name == "lvvit" else [])]
    for part, value in parts.items():
        assert value.isfinite(), part
        assert value > 0, part
    torch.stack(list(parts.values())).sum().backward()
    unread = {n for n, p in student.named_parameters() if p.grad is None or not p.grad.any()}
    # a bias of all keys moves all scores alike; nothing reads words that do not occur
    assert {n for n in unread if "key.bias" not in n and "embeddings" not in n} == set()


@every_name
def test_what_merges_nothing_loses_what_the_original_loses(name: str) -> None:
    case = Case(name=name, plan="3<-1 4~1")
    teacher = case.outputs("2<-1")
    expected = case.losses(case.outputs(""), teacher)
    again = case.losses(case.outputs("3~0"), teacher)
    assert list(again) == list(expected)
    assert all(torch.equal(again[part], expected[part]) for part in expected)
    same = case.losses(teacher, teacher)
    assert all(same[part].item() == pytest.approx(0, abs=1e-6) for part in LOSSES)


@every_case
def test_checkpointing_gives_the_same_gradients(name: str, plan: str) -> None:
    case = Case(name=name, plan=plan)
    teacher, images, gradients = case.outputs(""), case.kind.images(4), []
    for checkpointing in (False, True):
        student, _ = case.network(checkpointing=checkpointing)
        parts = case.losses(student.train()(images), teacher)
        torch.stack(list(parts.values())).sum().backward()
        gradients.append([p.grad for p in student.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-5 * float(one.abs().max() + 1))


def test_what_is_compared_is_as_many_tokens_as_there_are() -> None:
    case = Case(name="vit")
    outputs = case.outputs()
    assert outputs.logits_BC.shape == (4, 7)
    assert outputs.stream.shape == (4, 1, 48)
    assert {index: state.stream.shape[1] for index, state in outputs.encoders.items()} == {
        1: 23, 2: 23, 3: 21, 4: 19, 5: 1,
    }  # fmt: skip
    for state in (outputs.state, *outputs.encoders.values()):
        assert not state.kept
        assert torch.equal(state.sizes.sum(1), torch.full((4,), 26.0))


def test_a_head_that_reads_patches_gets_one_for_every_place() -> None:
    case = Case(name="lvvit")
    outputs = case.outputs()
    assert outputs.state.stream.shape == (4, 19, 48)
    assert outputs.stream.shape == (4, 26, 48)
    assert outputs.tokens.patch_logits_BNC.shape == (4, 25, 7)
    groups = outputs.state.groups
    for token in range(26):
        at = groups[0, token]
        assert torch.equal(outputs.stream[0, token], outputs.state.stream[0, at])


def merged_by_hand() -> tuple[State, Tensor]:
    """Five tokens, the class token in front, of which the third and the fifth became one."""
    teacher = torch.randn(1, 5, 48, generator=torch.manual_seed(0))
    stream = torch.stack(
        (teacher[:, 0], teacher[:, 1], teacher[:, 3], (teacher[:, 2] + teacher[:, 4]) / 2), dim=1
    )
    groups, sizes = torch.tensor([[0, 1, 3, 2, 3]]), torch.tensor([[1.0, 1.0, 1.0, 2.0]])
    return State(stream, sizes, groups), teacher


def test_tokens_are_compared_through_the_groups(loaded: LoadedModel) -> None:
    loss = Loss(LossWeights(tokens=1.0, class_weight=10.0), loaded.model, loaded.adapter)
    state, teacher = merged_by_hand()
    assert loss.token_loss(state, teacher).item() == pytest.approx(0, abs=1e-9)
    # a mirrored normalised token differs by 2 in every place: a mean square of 4; of weights
    # 10 for the class token, and one for every patch, two of which are one token now
    for token, weight in enumerate((10, 1, 1, 2)):
        wrong = state.stream.clone()
        wrong[:, token] *= -1
        lost = loss.token_loss(state._replace(stream=wrong), teacher)
        assert lost.item() == pytest.approx(4 * weight / 14, rel=1e-3)


def test_rows_that_are_left_out_are_not_compared(loaded: LoadedModel) -> None:
    loss = Loss(LossWeights(tokens=1.0), loaded.model, loaded.adapter)
    state, teacher = merged_by_hand()
    state = state._replace(stream=state.stream[:, :1])
    assert loss.token_loss(state, teacher).item() == pytest.approx(0, abs=1e-9)
    assert loss.token_loss(state, -teacher).item() == pytest.approx(4, rel=1e-3)


def test_padding_is_not_compared() -> None:
    case = Case(name="bert")
    student, teacher = case.outputs(), case.outputs("")
    before = case.losses(student, teacher)
    # half of the first text is padding
    padded = teacher.stream.clone()
    padded[0, 5:] = 7.0
    after = case.losses(student, teacher._replace(stream=padded))
    assert torch.equal(after["tokens"], before["tokens"])


PLAN = "3<-2 5<-4:map/linear 1~5 5~4 11=class"
ROWS = "3<-2:map/mixed 5:map/average 1~5 3=class 6=9 7=@6 11=class"


def trained(
    out: Path, images: ImageSet, loaded: LoadedModel, mode: str, plan: str = PLAN
) -> list[float]:
    job = cases.job(
        out,
        images,
        loaded,
        fitted=cases.variant_of(loaded, plan),
        candidate=cases.candidate(plan),
        recipe=cases.recipe(
            epochs=3,
            losses={"kl": 1.0, "tokens": 1.0, "class_kl": 1.0},
            teacher={"mode": mode, "views": 3},
        ),
    )
    finetune(job, Processes(rank=0, world=1, device=torch.device("cpu")))
    with (out / "curve.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_a_joint_plan_is_trained_and_kept(
    tmp_path: Path, images: ImageSet, loaded: LoadedModel
) -> None:
    live = trained(tmp_path / "live", images, loaded, "live")
    assert live[-1] < 0.9 * live[0]
    tuned = load_bundle(tmp_path / "live" / "bundle")
    assert str(plan_of(tuned)) == PLAN
    assert not any(module.training for module in tuned.modules())
    # the cached original's tokens are its own: they are merged as every student asks
    cached = trained(tmp_path / "cached", images, loaded, "cached")
    assert cached == pytest.approx(live, rel=1e-2)


def test_weights_of_heads_are_trained_and_averages_stay(
    tmp_path: Path, images: ImageSet, loaded: LoadedModel
) -> None:
    assert all(map(math.isfinite, trained(tmp_path, images, loaded, "live", ROWS)))
    tuned, start = load_bundle(tmp_path / "bundle"), cases.variant_of(loaded, ROWS)
    assert str(plan_of(tuned)) == ROWS
    averages = [name for name, _ in start.named_buffers() if name.endswith("average")]
    assert averages == ["blocks.3.attn.average", "blocks.5.attn.average"]
    before, after = start.state_dict(), tuned.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in averages)
    assert not torch.equal(before["blocks.3.attn.mix"], after["blocks.3.attn.mix"])


def test_weights_of_heads_are_new_and_do_not_decay(loaded: LoadedModel) -> None:
    model = cases.variant_of(loaded, ROWS)
    assert {name for name in new_parameters(model) if "blocks.3." in name} == {
        "blocks.3.attn.mix", "blocks.3.attn.proj.weight", "blocks.3.attn.proj.bias",
    }  # fmt: skip
    groups = parameter_groups(model, loaded.adapter, cases.recipe())
    mix = model.get_parameter("blocks.3.attn.mix")
    (own,) = (group for group in groups if any(p is mix for p in group["params"]))
    assert own["weight_decay"] == 0.0
    assert own["lr_scale"] == 3.0
