from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from disks import files_of_at_most, open_files
from tiny_models import KINDS, Kind, blocks_of, copy_attention, logits_of, silence
from torch import Tensor, nn

from trex.errors import DataError, PlanError, StorageError
from trex.fit.calibration import Calibration, FitSettings
from trex.fit.fitter import FittedPlan, PlanFitter, apply_fitted
from trex.fit.loss import mean_kl
from trex.fit.ridge import RidgeSystem
from trex.models.registry import adapter_of
from trex.plan import REUSED_TENSORS, TRANSFORMS, Plan, ReusedTensor, Transform
from trex.reuse import apply_reuse
from trex.reuse.route import Route, run_model

N_FIT, N_MEASURE = 40, 6
SETTINGS = FitSettings(batch_size=16)


def candidate(plan: str, transform: Transform = "linear") -> Plan:
    return Plan.parse(plan, transform)


def batches(images: Tensor) -> list[Tensor]:
    return list(images.split(SETTINGS.batch_size))


@contextmanager
def calibrated(
    model: nn.Module, images: Tensor, scratch: Path, settings: FitSettings = SETTINGS, **more: Any
) -> Iterator[Calibration]:
    """The original's pass over images, the first 40 of them fitted on."""
    with closing(
        Calibration(
            model,
            adapter_of(model),
            batches(images[:N_FIT]),
            batches(images[N_FIT:]),
            settings=settings,
            scratch=scratch,
            **more,
        )
    ) as calibration:
        yield calibration


def fit_all(calibration: Calibration, candidates: Sequence[Plan]) -> dict[str, FittedPlan]:
    return {f.plan.key: f for f in PlanFitter(calibration).fit(candidates)}


def fitted(kind: Kind, scratch: Path, one: Plan, **settings: float) -> FittedPlan:
    model, images = kind.build(), kind.images(N_FIT + N_MEASURE)
    chosen = FitSettings(batch_size=16, **settings)
    with calibrated(model, images, scratch, chosen) as calibration:
        return fit_all(calibration, [one])[one.key]


def distance(logits: Tensor, expected: Tensor) -> float:
    return float((logits - expected).abs().max())


def linearly_dependent(kind: Kind) -> nn.Module:
    """Encoder 5 attends as 4 does, on values that are a linear map of 4's; 4 adds nothing."""
    model = kind.build()
    source, target = blocks_of(model)[4:6]
    silence(source)
    copy_attention(source, target, values=True)
    heads, width = target.attn.num_heads, target.attn.head_dim
    mixing = torch.block_diag(
        *torch.randn(heads, width, width, generator=torch.Generator().manual_seed(5))
    )
    with torch.no_grad():
        for value in (target.attn.qkv.weight, target.attn.qkv.bias):
            if value is not None:
                value[2 * len(mixing) :] = mixing @ value[2 * len(mixing) :]
    return model


@pytest.mark.parametrize("name", ["vit", "layer scale", "lvvit"])
@pytest.mark.parametrize("drift", [0.0, 0.5, 1.0])
def test_a_linear_dependence_is_found(name: str, drift: float, tmp_path: Path) -> None:
    kind = KINDS[name]
    model, images = linearly_dependent(kind), kind.images(N_FIT + N_MEASURE)
    expected = logits_of(model, images)[N_FIT:]
    candidates = [candidate("5<-4", "linear"), candidate("5<-4", "none")]
    settings = FitSettings(batch_size=16, ridge=1e-9, drift=drift, shrink=1.0)
    with calibrated(model, images, tmp_path, settings) as calibration:
        linear, none = (fit_all(calibration, candidates)[c.key] for c in candidates)
    assert distance(linear.logits, expected) < 0.01 * distance(none.logits, expected)


class Recorded(RidgeSystem):
    """Keeps every sample, and compares the solution with direct least squares in double."""

    solved = 0

    def __init__(self, num_features: int, num_targets: int) -> None:
        super().__init__(num_features, num_targets)
        self.samples: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, features: Tensor, targets: Tensor, weights: Tensor) -> None:
        super().add(features, targets, weights)
        flat = (features.flatten(0, -2), targets.flatten(0, -2), weights.flatten().unsqueeze(-1))
        self.samples.append(tuple(part.double() for part in flat))  # type: ignore[arg-type]

    def solve(self, ridge: float, towards: Tensor | None = None) -> tuple[Tensor, Tensor]:
        weight, bias = super().solve(ridge, towards)
        x, y, weights = (torch.cat(parts) for parts in zip(*self.samples, strict=True))
        root, count = weights.sqrt(), x.shape[1]
        penalty = (ridge * float((weights * x.square()).sum(0).mean())) ** 0.5
        start = torch.zeros(count, y.shape[1]) if towards is None else towards.T
        below = torch.cat([penalty * torch.eye(count), torch.zeros(count, 1)], dim=1).double()
        design = torch.cat([torch.cat([x * root, root], dim=1), below])
        wanted = torch.cat([y * root, penalty * start.double()])
        found = torch.linalg.lstsq(design, wanted, driver="gelsd").solution
        own, direct = x @ weight.T + bias, x @ found[:-1] + found[-1]
        assert float((own - direct).norm()) < 1e-4 * float(direct.norm())
        Recorded.solved += 1
        return weight, bias


@pytest.mark.parametrize("name", ["vit", "lvvit", "uniform", "shvit", "bert"])
def test_fits_are_direct_least_squares_in_double(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every projection that a plan fits, consumers' and producers'."""
    monkeypatch.setattr("trex.fit.fitter.RidgeSystem", Recorded)
    monkeypatch.setattr(Recorded, "solved", 0)
    fitted(KINDS[name], tmp_path, candidate("1<-0"), ridge=0.1, shrink=0.7, producers=0.5)
    assert Recorded.solved >= 1


def test_a_share_of_the_solution_is_used(tmp_path: Path) -> None:
    """Only the first consumer's: later ones are solved on what its share left them."""
    one = candidate("2<-1 4<-3")
    whole, part = (fitted(KINDS["vit"], tmp_path, one, shrink=share) for share in (1.0, 0.25))
    first = [name for name in whole.state if name.startswith("blocks.2.")]
    assert len(first) == 2
    for name in first:
        torch.testing.assert_close(part.state[name], 0.25 * whole.state[name])
    for name in whole.state.keys() - first:
        assert not torch.allclose(part.state[name], 0.25 * whole.state[name])


def test_the_calibration_knows_the_originals_answers(tmp_path: Path) -> None:
    kind = KINDS["distilled"]
    model, images = kind.build(), kind.images(N_FIT + N_MEASURE)
    seen: list[int] = []
    with calibrated(model, images, tmp_path, progress=seen.append) as calibration:
        torch.testing.assert_close(calibration.logits, logits_of(model, images))
        assert (calibration.n_fit, calibration.n_images) == (N_FIT, N_FIT + N_MEASURE)
    assert seen == [16, 16, 8, 6]


@pytest.mark.parametrize("name", ["vit", "lvvit", "uniform", "shvit", "bert"])
@pytest.mark.parametrize("drift", [0.0, 0.5, 1.0])
def test_targets_of_any_drift_come_from_one_pass(name: str, drift: float, tmp_path: Path) -> None:
    """They are made of what entered every encoder and what left its attention."""
    kind = KINDS[name]
    model, images = kind.build(), kind.images(N_FIT)
    adapter, passed = adapter_of(model), []
    route = Route.of(Plan(), adapter.layout(model))
    with torch.no_grad():
        run_model(model, adapter, route, images, see=lambda step, way: passed.append(way))
    with closing(
        Calibration(model, adapter, batches(images), settings=SETTINGS, scratch=tmp_path)
    ) as calibration:
        for encoder, way in enumerate(passed):
            entered, attended = way.entered.stream, way.attended.stream
            torch.testing.assert_close(
                calibration.target(encoder, 3, 9, drift),
                (attended - (1.0 - drift) * entered)[3:9],
                atol=1e-4, rtol=1e-4,
            )  # fmt: skip


@pytest.mark.parametrize(
    "forms",
    [pytest.param(forms, id="/".join(forms)) for forms in itertools.product(
        REUSED_TENSORS, TRANSFORMS)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["vit", "layer scale", "lvvit"])
def test_the_fitted_state_makes_the_measured_variant(
    name: str, forms: tuple[ReusedTensor, Transform], tmp_path: Path
) -> None:
    kind, (tensor, transform) = KINDS[name], forms
    one = candidate(f"2<-1:{tensor} 3<-1:{tensor} 5<-4:{tensor}", transform)
    result = fitted(kind, tmp_path, one)
    variant = apply_fitted(kind.build(), result)
    images = kind.images(N_FIT + N_MEASURE)[N_FIT:]
    assert distance(logits_of(variant, images), result.logits) < 1e-4


def test_mixed_forms_make_one_variant(tmp_path: Path) -> None:
    kind = KINDS["vit"]
    plan = Plan.parse("2<-1:map 3<-1 5<-1:map")
    one = plan.with_transforms({2: "linear_own", 3: "block", 5: "linear"})
    result = fitted(kind, tmp_path, one)
    variant = apply_fitted(kind.build(), result)
    images = kind.images(N_FIT + N_MEASURE)[N_FIT:]
    assert distance(logits_of(variant, images), result.logits) < 1e-4


def test_the_state_holds_what_differs_from_the_original_and_nothing_else(tmp_path: Path) -> None:
    kind, one = KINDS["vit"], candidate("2<-1 5<-4:map", "block")
    result = fitted(kind, tmp_path, one)
    original = kind.build().state_dict()
    variant = apply_fitted(kind.build(), result).state_dict()
    for name, value in variant.items():
        same = name in original and torch.equal(value, original[name])
        assert same != (name in result.state), name


def test_none_is_not_fitted(tmp_path: Path) -> None:
    kind, one = KINDS["layer scale"], candidate("2<-1 5<-4:map", "none")
    result = fitted(kind, tmp_path, one)
    plain = apply_reuse(kind.build(), one, "none").state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in result.state.items())


def test_fitting_helps(tmp_path: Path) -> None:
    kind = KINDS["vit"]
    model, images = kind.build(), kind.images(N_FIT + N_MEASURE)
    with calibrated(model, images, tmp_path) as calibration:
        on_fitted = PlanFitter(calibration, measure_rows=range(N_FIT))
        errors = {
            f.plan.transforms[5]: (f.logits - calibration.logits[:N_FIT]).square().mean()
            for f in on_fitted.fit([candidate("5<-3", form) for form in TRANSFORMS])
        }
    assert errors["none"] > max(errors[form] for form in ("linear", "linear_own", "block"))


CANDIDATES = [
    candidate("2<-1 4<-3"),
    candidate("2<-1 5<-4"),
    candidate("2<-1:map 5<-4"),
    candidate("2<-1", "block"),
    candidate("2<-1 3<-1"),
    candidate(""),
]


# an encoder whose map someone reuses does not use fused attention, which rounds differently
@pytest.mark.parametrize(
    ("candidates", "tolerance"),
    [
        pytest.param([c for c in CANDIDATES if ":map" not in str(c)], 0.0, id="output"),
        pytest.param(CANDIDATES, 1e-5, id="both"),
    ],
)
def test_candidates_fitted_together_are_as_those_fitted_alone(
    candidates: list[Plan], tolerance: float, tmp_path: Path
) -> None:
    kind = KINDS["vit"]
    model, images = kind.build(), kind.images(N_FIT + N_MEASURE)
    with calibrated(model, images, tmp_path) as calibration:
        together = fit_all(calibration, candidates)
        assert set(together) == {c.key for c in candidates}
        for one in candidates:
            alone = fit_all(calibration, [one])[one.key]
            assert distance(alone.logits, together[one.key].logits) <= tolerance
            assert alone.state.keys() == together[one.key].state.keys()
            for name, value in alone.state.items():
                assert distance(value, together[one.key].state[name]) <= 10 * tolerance, name
    original = together[candidate("").key]
    assert distance(original.logits, logits_of(model, images[N_FIT:])) <= 10 * tolerance
    assert original.state == {}


def test_common_beginnings_are_worked_once(tmp_path: Path) -> None:
    kind = KINDS["vit"]
    model, images = kind.build(), kind.images(N_FIT + N_MEASURE)
    done: list[int] = []
    with calibrated(model, images, tmp_path) as calibration:
        fitter = PlanFitter(calibration, progress=done.append)
        steps = fitter.steps(CANDIDATES)
        assert len(list(fitter.fit(CANDIDATES))) == len(CANDIDATES)
        alone = sum(fitter.steps([one]) for one in CANDIDATES)
    assert sum(done) == steps
    # fitted images pass the encoders before the last that is fitted
    assert alone == len(CANDIDATES) * 6 * N_MEASURE + (4 + 5 + 5 + 2 + 3) * N_FIT
    # encoders 0 and 1 once; then four ways on: `2<-1` for three plans, `2<-1:map`, the block,
    # the producer; `2<-1` parts at encoder 3 and again at encoder 4
    by_hand = 2 + (1 + 3 + 3 + 2) + 4 + 4 + 4
    # fitted ones 0 and 1; behind `2<-1` the consumer, the producers 3 and 4; behind `2<-1:map` too
    assert steps == by_hand * N_MEASURE + (2 + 3 + 3) * N_FIT


def test_parts_of_the_images(tmp_path: Path) -> None:
    kind, one = KINDS["vit"], candidate("2<-1 5<-4")
    model, images = kind.build(), kind.images(N_FIT + N_MEASURE)
    fit_rows, measure_rows = range(20), range(N_FIT + 1, N_FIT + 4)
    with calibrated(model, images, tmp_path) as calibration:
        fitter = PlanFitter(calibration, fit_rows=fit_rows, measure_rows=measure_rows)
        (part,) = fitter.fit([one])
        assert fitter.steps([one]) == 5 * 20 + 6 * 3
    with closing(
        Calibration(
            model, adapter_of(model), batches(images[:20]), batches(images[N_FIT + 1 : N_FIT + 4]),
            settings=SETTINGS, scratch=tmp_path,
        )
    ) as smaller:  # fmt: skip
        (whole,) = PlanFitter(smaller).fit([one])
    torch.testing.assert_close(part.logits, whole.logits, atol=1e-5, rtol=1e-5)


def test_batches_do_not_matter(tmp_path: Path) -> None:
    one = candidate("2<-1 5<-4")
    kind = KINDS["vit"]
    model, images = kind.build(), kind.images(N_FIT + N_MEASURE)
    logits = []
    for size in (7, 40):
        settings = FitSettings(batch_size=size)
        with calibrated(model, images, tmp_path, settings) as calibration:
            logits.append(fit_all(calibration, [one])[one.key].logits)
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=1e-4)


def test_the_class_token_counts_by_its_weight(tmp_path: Path) -> None:
    kind = KINDS["vit"]
    model, images = kind.build(), kind.images(N_FIT + N_MEASURE)
    expected = logits_of(model, images)[:N_FIT]
    errors = []
    for class_weight in (1.0, 1e4):
        settings = FitSettings(batch_size=16, class_weight=class_weight, ridge=1e-6)
        with calibrated(model, images, tmp_path, settings) as calibration:
            # the last encoder: the classifier reads its class token and nothing else
            fitter = PlanFitter(calibration, measure_rows=range(N_FIT))
            (result,) = fitter.fit([candidate("5<-3")])
        errors.append(float((result.logits - expected).square().mean()))
    assert errors[1] < errors[0]


def test_fitting_leaves_the_original_as_it_was(tmp_path: Path) -> None:
    kind = KINDS["vit"]
    model, images = kind.build(), kind.images(N_FIT + N_MEASURE)
    before = copy.deepcopy(model.state_dict())
    with calibrated(model, images, tmp_path) as calibration:
        fit_all(calibration, CANDIDATES)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[name]) for name, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_a_plan_that_does_not_fit_is_refused_before_any_work(tmp_path: Path) -> None:
    kind = KINDS["vit"]
    done: list[int] = []
    with calibrated(kind.build(), kind.images(N_FIT), tmp_path) as calibration:
        fitter = PlanFitter(calibration, progress=done.append)
        with pytest.raises(PlanError, match="names encoder 6"):
            list(fitter.fit([candidate("2<-1"), candidate("6<-5")]))
    assert done == []


def test_without_images_there_is_nothing_to_fit(tmp_path: Path) -> None:
    model = KINDS["vit"].build()
    with pytest.raises(DataError, match="no image to fit on"):
        Calibration(model, adapter_of(model), [], [], settings=SETTINGS, scratch=tmp_path)
    assert open_files(tmp_path) == []


def test_without_measured_images_there_are_no_logits(tmp_path: Path) -> None:
    kind, one = KINDS["vit"], candidate("2<-1")
    with calibrated(kind.build(), kind.images(N_FIT), tmp_path) as calibration:
        result = fit_all(calibration, [one])[one.key]
    assert len(result.logits) == 0
    assert "blocks.2.attn.proj.weight" in result.state


def test_activations_leave_nothing_behind(tmp_path: Path) -> None:
    kind = KINDS["vit"]
    with calibrated(kind.build(), kind.images(N_FIT + N_MEASURE), tmp_path) as calibration:
        fits = PlanFitter(calibration).fit(CANDIDATES)
        next(fits)
        assert list(tmp_path.iterdir()) == []
        held = len(open_files(tmp_path))
        fits.close()  # what an interruption does
        assert 6 <= len(open_files(tmp_path)) < held
    assert open_files(tmp_path) == []


def test_a_full_disk_during_the_first_pass(tmp_path: Path) -> None:
    kind = KINDS["vit"]
    model, images = kind.build(), kind.images(N_FIT)
    with files_of_at_most(20_000), pytest.raises(StorageError, match="cannot write activations"):
        Calibration(model, adapter_of(model), batches(images), settings=SETTINGS, scratch=tmp_path)
    assert open_files(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_during_a_fit(tmp_path: Path) -> None:
    kind = KINDS["vit"]
    with calibrated(kind.build(), kind.images(N_FIT + N_MEASURE), tmp_path) as calibration:
        held = len(open_files(tmp_path))
        for plan in ("2<-1:map 5<-4", "1<-0 2<-0"):
            with files_of_at_most(20_000), pytest.raises(StorageError):
                list(PlanFitter(calibration).fit([candidate(plan)]))
            assert len(open_files(tmp_path)) == held
    assert open_files(tmp_path) == []


def test_keys_name_candidates_in_files_and_never_change() -> None:
    assert candidate("").key == "e3b0c44298fc1c14"
    assert candidate("5<-4 7<-6").key == "95c38c26052871ff"
    assert candidate("5<-4 7<-6", "none").key == "234b38ead2e8157c"
    assert len({c.key for c in CANDIDATES}) == len(CANDIDATES)


@pytest.mark.parametrize("name", ["vit", "distilled", "lvvit", "registers, averaged", "bert"])
def test_joint_plans_are_fitted_and_measured_as_they_run(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    plan = Plan.parse("2<-1 3<-1:map/linear 4<-1:output/linear_own 0~1 2~1")
    plans = [plan, Plan(plan.reuses), Plan(merges=plan.merges)]
    if kind.reads_class:
        plans.append(Plan.parse("2<-1 5<-1 0~1 5=class"))
    model, images = kind.build(), kind.images(N_FIT + N_MEASURE)
    with calibrated(model, images, tmp_path) as calibration:
        results = fit_all(calibration, plans)
    for one in plans:
        variant = apply_fitted(kind.build(), results[one.key])
        logits = logits_of(variant, images[N_FIT:])
        assert distance(logits, results[one.key].logits) < 1e-4, one
    assert results[plans[2].key].state == {}


@pytest.mark.parametrize("name", ["vit", "layer scale", "lvvit", "output norm", "bert", "uniform"])
def test_fitted_producers_make_the_measured_variant(name: str, tmp_path: Path) -> None:
    """Those behind the first consumer, of rows and tokens of any kind."""
    kind = KINDS[name]
    model, images = kind.build(), kind.images(N_FIT + N_MEASURE)
    settings = FitSettings(batch_size=16, producers=0.5)
    plans = [Plan.parse("2<-1"), Plan.parse("2<-1 4=@3 3=4")]
    if kind.merges:
        plans += [Plan.parse("2<-1 0~1"), Plan.parse("2<-1 3~1")]
    with calibrated(model, images, tmp_path, settings) as calibration:
        results = fit_all(calibration, plans)
    for one in plans:
        found = results[one.key]
        producers = {key for key in found.state if not key.startswith("blocks.2.")}
        variant = apply_fitted(kind.build(), found)
        assert distance(logits_of(variant, images[N_FIT:]), found.logits) < 1e-4, one
        if name == "vit":
            assert producers == {
                f"blocks.{i}.attn.proj.{part}" for i in (3, 4, 5) for part in ("weight", "bias")
            }


@pytest.mark.parametrize("name", ["vit", "lvvit", "bert"])
def test_without_a_consumer_producers_are_fitted_where_asked(name: str, tmp_path: Path) -> None:
    """Those behind the first merge or shared rows, which then lose less."""
    kind = KINDS[name]
    model, images = kind.build(), kind.images(N_FIT + N_MEASURE)
    settings = FitSettings(batch_size=16, producers=1.0)
    plans = [Plan.parse("1~2"), Plan.parse("1=3 2=@1")]
    with calibrated(model, images, tmp_path, settings) as calibration:
        original = calibration.logits[:N_FIT]
        measured = range(N_FIT)  # what is solved for is nearer where it was solved
        plain, found = (
            {
                fitted.plan.key: fitted
                for fitted in PlanFitter(
                    calibration, measure_rows=measured, unconsumed=unconsumed
                ).fit(plans)
            }
            for unconsumed in (False, True)
        )
    for plan in plans:
        before, after = plain[plan.key], found[plan.key]
        assert before.state == {}
        variant = apply_fitted(kind.build(), after)
        assert distance(logits_of(variant, images[:N_FIT]), after.logits) < 1e-4, plan
        assert mean_kl(after.logits, original) < mean_kl(before.logits, original), plan
        if name == "vit":
            assert {key.split(".")[1] for key in after.state} == {"2", "3", "4", "5"}


@pytest.mark.parametrize("name", ["vit", "layer scale", "lvvit", "bert"])
def test_producers_are_solved_in_the_branch_s_scale(name: str, tmp_path: Path) -> None:
    """A consumer that puts out nothing leaves a drift; the producer behind it takes some off."""
    kind = KINDS[name]
    model, images = kind.build(), kind.images(N_FIT)
    lost, streams = {}, []
    for share in (None, 0.5, 1.0):
        settings = FitSettings(batch_size=16, ridge=1e-3, shrink=0.0, producers=share)
        with calibrated(model, images, tmp_path, settings) as calibration:
            fitter = PlanFitter(calibration)
            (found,) = fitter.fit([Plan.parse("2<-1")])
            variant = apply_fitted(kind.build(), found)
            adapter = adapter_of(model)
            route = Route.of(Plan.parse("2<-1"), adapter.layout(model))
            streams.clear()
            with torch.no_grad():
                run_model(variant, adapter, route, images, see=lambda _, way: streams.append(way))
            wanted = calibration.target(3, 0, N_FIT, 1.0)
            weights = adapter.token_weights(model, wanted, settings.class_weight)
            error = (streams[3].attended.stream - wanted).square().sum(-1)
            lost[share] = float((weights * error).mean())
    assert lost[1.0] < lost[0.5] < lost[None]


def test_a_dependence_is_found_on_merged_tokens(tmp_path: Path) -> None:
    """What the original does is averaged over the tokens that became one, and aimed at."""
    kind = KINDS["vit"]
    model, images = linearly_dependent(kind), kind.images(N_FIT + N_MEASURE)
    original = logits_of(model, images)[N_FIT:]
    settings = FitSettings(batch_size=16, ridge=1e-9, shrink=1.0)
    linear, none = (Plan.parse(f"5<-4:output/{name} 2~2") for name in ("linear", "none"))
    with calibrated(model, images, tmp_path, settings) as calibration:
        found = fit_all(calibration, [linear, none])
    lost = {plan: distance(found[plan.key].logits, original) for plan in (linear, none)}
    assert lost[linear] < 0.7 * lost[none]


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_fits_of_merged_plans_do_not_depend_on_batches(name: str, tmp_path: Path) -> None:
    one = Plan.parse("2<-1 4<-1:map/linear 0~1 2~1")
    kind = KINDS[name]
    model, images = kind.build(), kind.images(N_FIT + N_MEASURE)
    logits = []
    for size in (7, 40):
        with calibrated(model, images, tmp_path, FitSettings(batch_size=size)) as calibration:
            logits.append(fit_all(calibration, [one])[one.key].logits)
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=1e-4)
