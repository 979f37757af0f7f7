"""Average maps and mixed ones: solved on calibration images, run as they were solved."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch
from tiny_models import KINDS, Kind, blocks_of, logits_of
from torch import Tensor, nn

from trex.errors import DataError, PlanError
from trex.fit.calibration import Calibration, FitSettings
from trex.fit.fitter import FittedPlan, PlanFitter, apply_fitted
from trex.fit.mixing import spread_map
from trex.models.registry import adapter_of
from trex.plan import Plan
from trex.reuse import apply_plan, consumers_of
from trex.reuse.merge import match
from trex.reuse.route import Route, State, merge, run_model

N_FIT, N_MEASURE = 40, 6
MIXING = {name: kind for name, kind in KINDS.items() if kind.mixed}
mixing_kind = pytest.mark.parametrize("kind", MIXING.values(), ids=MIXING.keys())


def fit(
    model: nn.Module, images: Tensor, plan: Plan, scratch: Path, **settings: float
) -> tuple[FittedPlan, Tensor]:
    """The fitted plan, and the original's logits of the measured images."""
    with closing(
        Calibration(
            model, adapter_of(model), list(images[:N_FIT].split(16)), [images[N_FIT:]],
            settings=FitSettings(batch_size=16, **settings), scratch=scratch,
            maps={r.consumer for r in plan.reuses},
        )
    ) as calibration:  # fmt: skip
        (fitted,) = PlanFitter(calibration).fit([plan])
        return fitted, calibration.logits[N_FIT:]


def maps_of(model: nn.Module, images: Tensor, encoder: int) -> Tensor:
    """An original encoder's maps, (B, H, N, N)."""
    adapter, found = adapter_of(model), []
    with torch.no_grad():
        stream = adapter.stem(model, images)
        for index, block in enumerate(blocks_of(model)):
            state = State(stream, places=adapter.places(model, images)).at(index)
            output, kept = adapter.attend(block, stream, frozenset({"map"}), tokens=state)
            if index == encoder:
                found.append(kept["map"])
            stream = adapter.after(
                block, adapter.join(block, stream, adapter.branch(block, output))
            )
    return found[0]


@mixing_kind
def test_fits_run_as_they_were_measured(kind: Kind, tmp_path: Path) -> None:
    plan = Plan.parse(kind.mixed)
    model, images = kind.build(), kind.images(N_FIT + N_MEASURE)
    fitted, _ = fit(model, images, plan, tmp_path)
    variant = apply_fitted(kind.build(), fitted)
    torch.testing.assert_close(
        logits_of(variant, images[N_FIT:]), fitted.logits, rtol=1e-4, atol=1e-4
    )
    names = [name for name in fitted.state if "blocks.2.attn." in name]
    assert {name.rpartition(".")[2] for name in names} >= {"average", "mix"}


def test_an_average_map_is_the_mean_over_images(tmp_path: Path) -> None:
    kind = KINDS["vit"]
    model, images = kind.build(), kind.images(N_FIT + N_MEASURE)
    fitted, _ = fit(model, images, Plan.parse("3:map/average"), tmp_path, shrink=0.0)
    expected = maps_of(model, images[:N_FIT], 3).mean(0)
    average = fitted.state["blocks.3.attn.average"]
    torch.testing.assert_close(average, expected, rtol=1e-2, atol=1e-3)  # maps lie in bfloat16
    torch.testing.assert_close(average.sum(-1), torch.ones(3, 5), rtol=1e-2, atol=1e-2)
    # the projection was left as the original has it
    torch.testing.assert_close(
        fitted.state["blocks.3.attn.proj.weight"], model.blocks[3].attn.proj.weight.detach()
    )


def test_the_first_encoder_may_be_an_average(tmp_path: Path) -> None:
    kind, plan = KINDS["vit"], Plan.parse("0:map/average 3<-1")
    model, images = kind.build(), kind.images(N_FIT + N_MEASURE)
    fitted, _ = fit(model, images, plan, tmp_path)
    variant = apply_fitted(kind.build(), fitted)
    torch.testing.assert_close(
        logits_of(variant, images[N_FIT:]), fitted.logits, rtol=1e-4, atol=1e-4
    )


def test_zero_weights_are_the_average_map() -> None:
    kind = KINDS["vit"]
    images = kind.images()
    mixed = apply_plan(kind.build(), "3<-1:map/mixed")
    average = apply_plan(kind.build(), "3:map/average")
    constant = torch.rand(3, 5, 5).softmax(-1)
    consumers_of(mixed)[3].set_mixing(constant, torch.zeros(3, 3))
    consumers_of(average)[3].set_mixing(constant, None)
    torch.testing.assert_close(logits_of(mixed, images), logits_of(average, images))


def test_heads_in_another_order_are_found(tmp_path: Path) -> None:
    """Encoder 4's heads are encoder 3's in another order: head by head they have nothing alike."""
    kind = KINDS["vit"]
    model = kind.build()
    source, target = blocks_of(model)[3:5]
    order = [2, 0, 1]
    with torch.no_grad():
        nn.init.zeros_(source.attn.proj.weight)
        nn.init.zeros_(source.attn.proj.bias)
        nn.init.zeros_(source.mlp.fc2.weight)
        nn.init.zeros_(source.mlp.fc2.bias)
        target.norm1.load_state_dict(source.norm1.state_dict())
        for part in (0, 1):
            for value, of in (
                (target.attn.qkv.weight, source.attn.qkv.weight),
                (target.attn.qkv.bias, source.attn.qkv.bias),
            ):
                heads = of[part * 48 : (part + 1) * 48].unflatten(0, (3, 16))[order]
                value[part * 48 : (part + 1) * 48] = heads.flatten(0, 1)
    images = kind.images(N_FIT + N_MEASURE)
    fitted, original = fit(model, images, Plan.parse("4<-3:map/mixed"), tmp_path, shrink=0.0)
    expected = torch.eye(3)[order]
    torch.testing.assert_close(fitted.state["blocks.4.attn.mix"], expected, atol=0.05, rtol=0)
    torch.testing.assert_close(fitted.logits, original, atol=0.02, rtol=0)


def test_a_map_s_error_counts_as_it_is_felt(tmp_path: Path) -> None:
    """No other weights of the source's heads come nearer to what the original's branch adds."""
    kind, plan = KINDS["vit"], Plan.parse("3<-2:map/mixed 3=class")
    model, images = kind.build(), kind.images(N_FIT + N_MEASURE)
    fitted, _ = fit(model, images, plan, tmp_path, shrink=0.0)
    block, adapter = blocks_of(model)[3], adapter_of(model)
    with torch.no_grad():
        stream = adapter.stem(model, images[:N_FIT])
        for before in blocks_of(model)[:3]:
            stream = before(stream)
        output, _ = adapter.attend(block, stream, frozenset())
        wanted = adapter.branch(block, output)[:, 1:]  # the class row is its own
        source = maps_of(model, images[:N_FIT], 2)
        own = maps_of(model, images[:N_FIT], 3).mean(0)
        variant = apply_fitted(kind.build(), fitted)
        consumer = consumers_of(variant)[3]
        values = consumer.put_out(stream)

        def error(mix: Tensor) -> float:
            deviation = (mix @ (source - source.mean(0)).flatten(2)).view_as(source)
            branch = ((own + deviation) @ values).sum(1) + block.attn.proj.bias
            return float((branch[:, 1:] - wanted).square().sum())

        mix = fitted.state["blocks.3.attn.mix"]
        others = [mix + 0.05 * torch.randn(3, 3) for _ in range(20)]
        # maps lie in bfloat16
        assert error(mix) <= min(error(other) for other in others) * 1.001


@pytest.mark.parametrize("name", ["vit", "distilled", "lvvit", "qk norm", "no qkv bias", "bert"])
def test_own_class_rows_are_the_original_s(name: str) -> None:
    """What is reused is the encoder's own map, so all rows are right, and the own ones stay so."""
    kind = KINDS[name]
    model, images = kind.build().double(), kind.images()
    images = images.double() if images.is_floating_point() else images
    adapter = adapter_of(model)
    layout = adapter.layout(model)
    variant = apply_plan(kind.build().double(), "2<-1:map/none 2=class")
    consumer = consumers_of(variant)[2]
    with torch.no_grad():
        state = State(adapter.stem(model, images))
        state = state._replace(sizes=adapter.sizes(state.stream))
        block = blocks_of(model)[2]
        output, kept = adapter.attend(block, state.stream, frozenset({"map"}), sizes=state.sizes)
        nonsense = kept["map"].clone()
        nonsense[:, :, : layout.class_tokens] = 7.0
        torch.testing.assert_close(
            consumer.features(state.stream, nonsense, state), output, rtol=1e-6, atol=1e-6
        )


def test_own_class_rows_on_merged_tokens_weigh_by_size() -> None:
    kind = KINDS["vit"]
    model, images = kind.build().double(), kind.images().double()
    adapter = adapter_of(model)
    variant = apply_plan(kind.build().double(), "2<-1:map/none 2=class")
    with torch.no_grad():
        stream = adapter.stem(model, images)
        state = merge(State(stream), match(stream, 2, protected=1, sizes_BN=None))
        block = blocks_of(model)[2]
        output, kept = adapter.attend(block, state.stream, frozenset({"map"}), sizes=state.sizes)
        kept["map"][:, :, :1] = 7.0
        found = consumers_of(variant)[2].features(state.stream, kept["map"], state)
    torch.testing.assert_close(found, output, rtol=1e-6, atol=1e-6)


def test_constants_follow_merged_tokens_and_maps_come_back() -> None:
    keys = torch.randn(2, 7, 4, dtype=torch.float64)
    merged = match(keys, 3, protected=1, sizes_BN=None)
    state = merge(State(keys), merged)
    constant = torch.rand(3, 7, 7, dtype=torch.float64).softmax(-1)
    by_hand = merged.mean_map(constant.expand(2, -1, -1, -1))
    torch.testing.assert_close(state.map_of(constant), by_hand, rtol=1e-6, atol=1e-6)
    maps = torch.rand(2, 3, 4, 4, dtype=torch.float64).softmax(-1)
    spread = spread_map(state, maps)
    torch.testing.assert_close(spread.sum(-1), torch.ones(2, 3, 7, dtype=torch.float64))
    torch.testing.assert_close(merged.mean_map(spread), maps, rtol=1e-6, atol=1e-6)


def test_averages_belong_to_one_number_of_tokens() -> None:
    kind = KINDS["any image size"]
    model = apply_plan(kind.build(), "3:map/average")
    model.patch_embed.strict_img_size = False
    model.dynamic_img_size = True
    with pytest.raises(PlanError, match=r"encoder 3 has average maps of 5 tokens; the images"):
        model(torch.randn(1, 3, 32, 16))


def test_maps_that_were_not_kept_are_asked_for(tmp_path: Path) -> None:
    kind = KINDS["vit"]
    model, images = kind.build(), kind.images(N_FIT)
    with (
        closing(
            Calibration(
                model, adapter_of(model), [images], settings=FitSettings(), scratch=tmp_path
            )
        ) as calibration,
        pytest.raises(DataError, match="kept no attention maps of encoder 3"),
    ):
        list(PlanFitter(calibration).fit([Plan.parse("3:map/average")]))


@mixing_kind
def test_walking_a_fitted_variant_is_calling_it(kind: Kind, tmp_path: Path) -> None:
    plan = Plan.parse(kind.mixed)
    images = kind.images(N_FIT + N_MEASURE)
    fitted, _ = fit(kind.build(), images, plan, tmp_path)
    variant = apply_fitted(kind.build(), fitted)
    original = kind.build()
    adapter = adapter_of(original)
    with torch.no_grad():
        _, logits = run_model(
            variant, adapter, Route.of(plan, adapter.layout(original)), images[:3]
        )
    torch.testing.assert_close(logits, logits_of(variant, images[:3]))
