"""What training does to a variant, and that nothing is lost on the way."""

import csv
import json
import math
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import finetune_cases as cases
import pytest
import torch
from torch import Tensor, nn

from trex.errors import ModelError, RunError, TrainingError
from trex.exporters.bundle import load_bundle
from trex.hardware import load_chip
from trex.models.registry import LoadedModel, adapter_of, create
from trex.models.weights import weights_hash
from trex.noise import is_non_ideal
from trex.reuse.precision import fastest_precision
from trex.training.data import ImageSet, dataset_fingerprint
from trex.training.finetune import RecipeError, finetune, loop
from trex.training.finetune.precision import MixedPrecision
from trex.training.finetune.processes import Processes

ALONE = Processes(rank=0, world=1, device=torch.device("cpu"))


@pytest.fixture
def train(tmp_path: Path, images: ImageSet, loaded: LoadedModel):
    """Fine-tune in a folder of this name; its records, curve and weights."""

    def run(
        name: str, **changes: Any
    ) -> tuple[list[dict[str, Any]], list[dict[str, str]], nn.Module]:
        job = cases.job(tmp_path / name, images, loaded, **changes)
        records = [record.as_json() for record in finetune(job, ALONE)]
        with (job.out / "curve.csv").open(newline="") as file:
            curve = list(csv.DictReader(file))
        return records, curve, load_bundle(job.out / "bundle")

    return run


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def losses(curve: list[dict[str, str]]) -> list[float]:
    return [float(row["loss"]) for row in curve]


def test_a_variant_comes_closer_to_its_original(train, images, loaded) -> None:
    recipe = cases.recipe(
        epochs=6,
        losses={"kl": 1.0, "tokens": 1.0, "encoders": 1.0, "class_kl": 0.5},
        selection={"share": 0.2, "average": 2},
        ema_decay=0.8,
    )
    before = deepcopy(loaded.model.state_dict())
    records, curve, _ = train("a", recipe=recipe, evaluation=images)
    assert [record["stage"] for record in records] == ["fitted", "finetuned"]
    fitted, finetuned = records
    assert "training" not in fitted
    assert fitted["weights_sha256"] != finetuned["weights_sha256"]
    held_out = finetuned["training"]["held_out"]
    assert [entry["weights"] for entry in held_out] == [
        "start", *(f"epoch {n}" for n in range(1, 7)), "average",
    ]  # fmt: skip
    kept = next(e for e in held_out if e["weights"] == finetuned["training"]["kept"])
    assert kept["loss"] == min(entry["loss"] for entry in held_out) < 0.7 * held_out[0]["loss"]
    assert losses(curve)[-1] < 0.7 * losses(curve)[0]
    assert finetuned["training"]["recipe"] == recipe.model_dump(mode="json")
    assert finetuned["evaluation"]["n"] == fitted["evaluation"]["n"] == 40
    assert all(torch.equal(v, before[k]) for k, v in loaded.model.state_dict().items())


def test_finished_is_finished(train) -> None:
    first, _, _ = train("a")
    again, _, _ = train("a")
    assert again == first


def test_other_settings_need_another_folder(train) -> None:
    train("a")
    with pytest.raises(RunError, match="other settings: seed was 0, now it is 1"):
        train("a", seed=1)


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def trained_whole() -> dict[str, Any]:
    """By precision, what an undisturbed training of the next test's recipe gives."""
    return {}


@pytest.mark.parametrize(
    ("stop_after", "workers", "precision"),
    [(1, 0, "fp32"), (4, 0, "fp32"), (7, 0, "fp16"), (7, 1, "fp32")],
)
def test_resuming_gives_the_same_weights(
    train, trained_whole, monkeypatch, stop_after, workers, precision
) -> None:
    recipe = cases.recipe(
        precision=precision,
        epochs=3,
        losses={"kl": 1.0, "tokens": 0.5},
        augment={"mixup": 0.5, "auto_augment": "rand-m5"},
        interpolation=0.6,
        selection={"share": 0.2, "average": 2},
        ema_decay=0.8,
        checkpoints={"steps": 2},
        stages=[{"from_epoch": 0, "train": "new"}, {"from_epoch": 1, "train": "all"}],
    )
    if precision not in trained_whole:
        trained_whole[precision] = train("whole", recipe=recipe)
    records, curve, whole = trained_whole[precision]
    real, done = loop.Trainer._update, []

    def update(self, parts):
        if len(done) == stop_after:
            raise Interrupted
        done.append(1)
        return real(self, parts)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Trainer, "_update", update)
        with pytest.raises(Interrupted):
            train("torn", recipe=recipe, workers=workers)
    resumed_records, resumed_curve, resumed = train("torn", recipe=recipe, workers=workers)
    assert same(whole, resumed)
    assert losses(resumed_curve) == losses(curve)
    assert resumed_records[1]["training"]["held_out"] == records[1]["training"]["held_out"]


def test_seconds_and_images_count_those_of_earlier_processes(train, monkeypatch) -> None:
    recipe = cases.recipe(epochs=2, checkpoints={"steps": 1})
    real_update, real_run, outcomes = loop.Trainer._update, loop.Trainer.run, []
    done: list[int] = []

    def update(self, parts):
        if len(done) == 3:
            done.append(-1)
            raise Interrupted
        done.append(1)
        time.sleep(0.05)
        return real_update(self, parts)

    def run(self):
        outcomes.append(real_run(self))
        return outcomes[-1]

    monkeypatch.setattr(loop.Trainer, "_update", update)
    monkeypatch.setattr(loop.Trainer, "run", run)
    with pytest.raises(Interrupted):
        train("torn", recipe=recipe)
    train("torn", recipe=recipe)
    (outcome,) = outcomes
    assert outcome.images == outcome.steps * recipe.batch_size
    assert outcome.seconds >= 0.05 * outcome.steps
    assert 0 <= outcome.waited_s < outcome.seconds


def test_a_state_of_another_training_is_refused(train, monkeypatch, tmp_path: Path) -> None:
    recipe = cases.recipe(epochs=2, checkpoints={"steps": 1})
    state = {
        "step": 1,
        "model": {},
        "optimizer": {},
        "scaler": {},
        "average": None,
        "selector": {},
    }
    monkeypatch.setattr(loop.CheckpointFolder, "newest", lambda self: state)
    with pytest.raises(RunError, match="is the state of another training") as caught:
        train("other", recipe=recipe)
    assert "checkpoints/" in caught.value.hint


@pytest.mark.parametrize("ema_decay", [None, 0.8])
def test_kept_weights_lie_between_the_fitted_and_the_trained_ones(
    train, loaded, ema_decay
) -> None:
    start = cases.variant_of(loaded).state_dict()
    *_, trained = train("all the way", recipe=cases.recipe(ema_decay=ema_decay))
    records, _, kept = train(
        "a quarter of it", recipe=cases.recipe(ema_decay=ema_decay, interpolation=0.25)
    )
    for name, value in kept.state_dict().items():
        between = 0.75 * start[name] + 0.25 * trained.state_dict()[name]
        assert torch.allclose(value, between, atol=1e-6), name
    assert not same(kept, trained)
    assert records[1]["training"]["recipe"]["interpolation"] == 0.25


def test_held_out_images_judge_what_would_be_kept(train, loaded) -> None:
    """Weights that hardly leave the fitted ones are judged as nearly the fitted ones."""
    recipe = {"selection": {"share": 0.2, "average": 2}, "losses": {"kl": 1.0}}
    far, near = (
        train(name, recipe=cases.recipe(**recipe, interpolation=share))[0][1]["training"]
        for name, share in (("far", 1.0), ("near", 1e-6))
    )
    start, *_, average = (entry["loss"] for entry in near["held_out"])
    assert average == pytest.approx(start, rel=1e-3)
    assert abs(far["held_out"][-1]["loss"] / start - 1) > 0.05


def test_parts_of_a_batch_add_up(train) -> None:
    whole = train("whole", recipe=cases.recipe(micro_batch=8))
    parts = train("parts", recipe=cases.recipe(micro_batch=3))
    assert losses(parts[1]) == pytest.approx(losses(whole[1]), rel=1e-3)


def test_frozen_parts_stay(train, loaded) -> None:
    fitted = cases.variant_of(loaded).state_dict()
    recipe = cases.recipe(stages=[{"from_epoch": 0, "train": "new"}])
    _, _, tuned = train("a", recipe=recipe)
    changed = {k for k, v in tuned.state_dict().items() if not torch.equal(v, fitted[k])}
    new = {f"blocks.{i}.attn.proj.{part}" for i in (3, 4, 7) for part in ("weight", "bias")}
    assert changed == new


def test_a_cached_teacher_teaches_the_same(train, tmp_path) -> None:
    options = {"losses": {"kl": 1.0, "tokens": 1.0}, "epochs": 2}
    live = train("live", recipe=cases.recipe(**options))
    cached = train(
        "cached", recipe=cases.recipe(**options, teacher={"mode": "cached", "views": 2})
    )
    assert losses(cached[1]) == pytest.approx(losses(live[1]), rel=1e-2)
    taught = cached[0][1]["training"]["teacher"]
    assert (taught["images"], taught["images_live"]) == (80, 80)
    assert not (tmp_path / "cached" / "teacher.f16").exists()


def test_more_images_without_labels(train, images) -> None:
    options = {"epochs": 1, "selection": {"share": 0.5}}
    records, curve, _ = train("a", recipe=cases.recipe(**options), extra=images)
    assert records[1]["training"]["steps"] == len(curve) == (20 + 40) // 8
    with pytest.raises(RecipeError, match="no labels, which the recipe's losses read"):
        train("b", recipe=cases.recipe(losses={"ce": 1.0}), extra=images)


def test_a_share_of_extra_images(train, images) -> None:
    recipe = cases.recipe(epochs=2, extra_share=0.2)
    records, curve, _ = train("a", recipe=recipe, extra=images.subset(15, 0))
    assert records[1]["training"]["steps"] == len(curve) == 2 * ((40 + 10) // 8)
    with pytest.raises(RecipeError, match="20 % of the recipe's images are --extra ones"):
        train("b", recipe=recipe)


def test_labels_are_learnt(train) -> None:
    recipe = cases.recipe(epochs=4, losses={"ce": 1.0}, optimizer={"lr": 3e-3, "lr_new": 3e-3})
    records, curve, _ = train("a", recipe=recipe)
    assert losses(curve)[-1] < losses(curve)[0]
    assert records[1]["training"]["teacher"] == {"mode": "none"}


def test_patience_ends_a_training_that_gets_worse(train) -> None:
    recipe = cases.recipe(
        epochs=9,
        optimizer={"lr": 1.0, "lr_new": 1.0},
        selection={"share": 0.2, "patience": 2},
    )
    records, curve, _ = train("a", recipe=recipe)
    assert records[1]["training"]["kept"] == "start"
    assert len(curve) == 2 * 4
    assert records[1]["weights_sha256"] == records[0]["weights_sha256"]


def test_a_start_that_was_fitted_on_held_out_images_is_not_chosen_by_them(
    train, images, caplog
) -> None:
    recipe = cases.recipe(
        optimizer={"lr": 1.0, "lr_new": 1.0},
        schedule={"warmup_epochs": 0},
        selection={"share": 0.2},
    )
    for name, fitted_on, kept in (
        ("other", "other images", "start"),
        ("same", dataset_fingerprint(images, labels=False), "epoch"),
        ("unknown", None, "epoch"),
    ):
        records, *_ = train(name, recipe=recipe, fitted_on=fitted_on)
        training = records[-1]["training"]
        assert training["kept"].startswith(kept)
        assert training["held_out"][0]["fitted_on_held_out"] == (kept == "epoch")
        assert ("looks better" in caplog.text or "look better" in caplog.text) == (kept == "epoch")


def test_a_loss_that_is_no_number_stops_with_its_images(train, monkeypatch, tmp_path) -> None:
    real, calls = loop.Trainer._losses, []

    def broken(self, part, number):
        calls.append(1)
        parts: dict[str, Tensor] = real(self, part, number)
        return {k: v * torch.nan for k, v in parts.items()} if len(calls) == 4 else parts

    with monkeypatch.context() as patched:
        patched.setattr(loop.Trainer, "_losses", broken)
        with pytest.raises(TrainingError) as raised:
            train("a")
    assert "step 4: its loss is nan; its images are " in raised.value.message
    assert raised.value.message.count(".png") == 8
    state = tmp_path / "a" / "checkpoints" / "step-000000003.pt"
    assert str(state) in raised.value.hint
    assert torch.load(state, weights_only=True)["step"] == 3
    # what was no number is a number now: the training goes on from the last good state
    _, resumed, tuned = train("a")
    _, expected, whole = train("b")
    assert losses(resumed) == losses(expected)
    assert same(tuned, whole)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_and_checkpointing_train_too(train, precision) -> None:
    full = train("full", recipe=cases.recipe())
    recipe = cases.recipe(precision=precision, grad_checkpointing=True)
    half = train("half", recipe=recipe)
    assert losses(half[1]) == pytest.approx(losses(full[1]), rel=0.2)


@pytest.mark.parametrize(("precision", "fused"), [("fp32", True), ("bf16", False)])
def test_attention_is_not_fused_on_a_cpu_in_bf16(precision, fused) -> None:
    reduced = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed
    before, query = reduced(), torch.randn(2, 3, 8, 16, requires_grad=True)
    with MixedPrecision(cases.recipe(precision=precision), torch.device("cpu")).forward():
        made = nn.functional.scaled_dot_product_attention(query, query, query)
    assert ("ScaledDotProduct" in made.grad_fn.name()) == fused
    assert reduced() == before
    again = nn.functional.scaled_dot_product_attention(query, query, query)
    assert "ScaledDotProduct" in again.grad_fn.name()


def test_steps_whose_scaled_gradients_overflow_are_left_out(train, monkeypatch) -> None:
    scale = MixedPrecision.__init__

    def far_too_large(self, *args) -> None:
        scale(self, *args)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=10_000)

    recipe = cases.recipe(precision="fp16", epochs=6)
    monkeypatch.setattr(MixedPrecision, "__init__", far_too_large)
    _, curve, _ = train("fp16", recipe=recipe)
    norms = [float(row["grad_norm"]) for row in curve]
    first = next(number for number, norm in enumerate(norms) if math.isfinite(norm))
    assert first > 3
    assert all(map(math.isfinite, norms[first:]))


def test_auto_is_recorded_as_what_it_was(train) -> None:
    records, *_ = train("auto", recipe=cases.recipe(precision="auto"))
    native = fastest_precision() == "bfloat16"
    assert records[-1]["training"]["recipe"]["precision"] == ("bf16" if native else "fp32")


def test_token_labels_need_patch_classifiers(train) -> None:
    with pytest.raises(ModelError, match="no classifier of patches"):
        train("a", recipe=cases.recipe(losses={"dense": 0.2}))


def test_the_manifest_says_everything(train, tmp_path) -> None:
    train("a")
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["settings"]["recipe"] == cases.recipe().model_dump(mode="json")
    assert {"weights_sha256", "fitted_sha256", "images_sha256", "seed"} <= set(
        manifest["settings"]
    )
    assert manifest["processes"] == 1


def test_lvvit_learns_its_own_token_labels(image_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"num_classes": 10, "img_size": 32}
    model = create("lvvit_t", **options)
    loaded = LoadedModel(
        name="lvvit_t", arguments=options, model=model, adapter=adapter_of(model),
        weights_source="random", weights_sha256=weights_hash(model), report=None,
    )  # fmt: skip
    recipe = cases.recipe(
        epochs=6,
        optimizer={"lr": 1e-4, "lr_new": 3e-4},
        losses={"dense": 0.2, "label_smoothing": 0.1},
    )
    job = cases.job(
        tmp_path / "a",
        cases.open_images(image_folder, loaded),
        loaded,
        fitted=cases.variant_of(loaded),
        recipe=recipe,
    )
    records = finetune(job, ALONE)
    assert records[1].training is not None
    assert records[1].training.kept == "last"
    with (job.out / "curve.csv").open(newline="") as file:
        curve = list(csv.DictReader(file))
    assert sum(losses(curve)[-5:]) < sum(losses(curve)[:5])
    assert losses(curve) == [float(row["dense"]) for row in curve]
    assert not load_bundle(job.out / "bundle").training


@pytest.mark.slow
def test_training_on_a_chip_that_errs(train, images) -> None:
    options = {"chip": load_chip("trex_fefet_32nm"), "evaluation": images}
    records, curve, tuned = train("a", recipe=cases.recipe(epochs=1, ema_decay=0.8), **options)
    assert {record["non_ideal_chip"] for record in records} == {"trex_fefet_32nm"}
    for record in records:
        ideal, noisy = record["evaluation"], record["non_ideal_evaluation"]
        assert (noisy["n"], noisy["baseline_top1"]) == (ideal["n"], ideal["baseline_top1"])
    assert len(curve) == 5
    assert not is_non_ideal(tuned)
