"""Dynamic bundles and models: what they hold, how they switch, what they refuse."""

from __future__ import annotations

import json
import threading
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from small_dynamic import PLANS, base, contents, images, point, variants, write_bundle
from tiny_models import logits_of

import trex
from trex.errors import BudgetError, BundleError, InfeasibleError, PlanError
from trex.exporters.bundle import load_bundle, save_bundle
from trex.models.weights import weights_hash
from trex.reuse import plan_of
from trex.runtime import DynamicModel, load_dynamic
from trex.runtime.bundle import WEIGHTS, save_dynamic
from trex.runtime.dynamic import variant_of
from trex.training.transforms import DataConfig


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "dynamic", half=False)


@pytest.fixture
def model(bundle: Path) -> DynamicModel:
    loaded = trex.load(bundle)
    assert isinstance(loaded, DynamicModel)
    return loaded


def test_every_plan_answers_like_its_own_model(model: DynamicModel) -> None:
    assert model.plans == ["cheap", "middle", "dear"]
    for name, separate in variants().items():
        with torch.no_grad():
            answer = model(images(), plan=name)
        assert torch.equal(answer, logits_of(separate, images()))
        assert model.plan == "dear"  # naming a plan does not switch
        model.set_plan(name)
        assert torch.equal(logits_of(model, images()), answer)
        assert str(plan_of(model.variant(name))) == PLANS[name][0]
        model.set_plan("dear")
    assert torch.equal(logits_of(model.base, images()), logits_of(base(), images()))


def test_half_precision_is_of_the_plans_own_parameters_alone(tmp_path: Path) -> None:
    whole = save_dynamic(tmp_path / "whole", contents(), half=False)
    half = save_dynamic(tmp_path / "half", contents())
    assert half.base == whole.base
    assert half.base == sum(t.numel() * 4 for t in base().state_dict().values())
    for name in PLANS:
        assert half.plans[name] * 2 == whole.plans[name]
    assert whole.plans["dear"] == 0  # merging and class rows have no parameters
    loaded = load_dynamic(tmp_path / "half")
    with torch.no_grad():
        for name, separate in variants().items():
            near = logits_of(separate, images())
            assert torch.allclose(
                loaded(images(), plan=name), near, atol=1e-2 * float(near.abs().max())
            )


def test_equal_tensors_of_several_plans_are_kept_once(tmp_path: Path) -> None:
    made = contents()
    (cheap, variant), *_ = made.variants
    again = point("cheap")
    twice = [(cheap, variant), (type(again)(**{**_fields(again), "name": "twin"}), variant)]
    sizes = save_dynamic(tmp_path / "twice", type(made)(**{**_fields(made), "variants": twice}))
    assert sizes.plans["cheap"] > 0
    assert sizes.plans["twin"] == 0
    loaded = load_dynamic(tmp_path / "twice")
    with torch.no_grad():
        assert torch.equal(loaded(images(), plan="cheap"), loaded(images(), plan="twin"))


def _fields(of: object) -> dict[str, object]:
    return {name: getattr(of, name) for name in type(of).__slots__}  # type: ignore[attr-defined]


def test_parameters_are_the_active_plans_and_shared(model: DynamicModel) -> None:
    for name in model.plans:
        model.set_plan(name)
        own = {id(parameter) for parameter in model.parameters()}
        assert own == {id(parameter) for parameter in model.variant(name).parameters()}
        assert sum(p.numel() for p in model.parameters()) == sum(
            p.numel() for p in variants()[name].parameters()
        )
    shared = {id(parameter) for parameter in model.base.parameters()}
    # merging alone changes no parameter
    assert {id(parameter) for parameter in model.variant("dear").parameters()} == shared
    assert len(shared & {id(p) for p in model.variant("cheap").parameters()}) > 20


def test_all_plans_move_together_and_stay_shared(model: DynamicModel) -> None:
    before = [logits_of(model.variant(name), images()) for name in model.plans]
    assert model.to(torch.float64) is model
    for name, expected in zip(model.plans, before, strict=True):
        variant = model.variant(name)
        assert {tensor.dtype for tensor in variant.state_dict().values()} == {torch.float64}
        answer = logits_of(variant, images().double())
        assert torch.allclose(answer.float(), expected, atol=1e-4)
    shared = {id(parameter) for parameter in model.base.parameters()}
    assert {id(parameter) for parameter in model.variant("dear").parameters()} == shared


def test_state_dict_holds_the_base_once_and_all_plans(model: DynamicModel) -> None:
    state = model.state_dict()
    assert {name for name in state if name.startswith("base.")} == {
        f"base.{name}" for name in base().state_dict()
    }
    assert any(name.startswith("plan.cheap.") for name in state)
    assert not any(name.startswith("plan.dear.") for name in state)
    expected = logits_of(model.variant("cheap"), images())
    kept = {name: tensor.clone() for name, tensor in state.items()}
    with torch.no_grad():
        for tensor in state.values():
            tensor.zero_()
    assert not torch.equal(logits_of(model.variant("cheap"), images()), expected)
    model.load_state_dict(kept)
    assert torch.equal(logits_of(model.variant("cheap"), images()), expected)
    with pytest.raises(RuntimeError, match="another dynamic model"):
        model.load_state_dict({**kept, "base.more": torch.zeros(1)})


def test_copies_are_independent(model: DynamicModel) -> None:
    copy = deepcopy(model)
    copy.set_plan("cheap")
    with torch.no_grad():
        next(iter(copy.base.parameters())).zero_()
    assert model.plan == "dear"
    with torch.no_grad():
        assert torch.equal(model(images()), logits_of(variants()["dear"], images()))
        assert not torch.equal(copy(images(), plan="dear"), model(images()))


def test_threads_use_plans_of_their_own(model: DynamicModel) -> None:
    expected = {name: logits_of(variants()[name], images(2)) for name in model.plans}
    wrong: list[str] = []

    def work(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(50):
            name = model.plans[int(torch.randint(3, (), generator=generator))]
            model.set_plan(name)  # another thread may switch again before the call
            with torch.no_grad():
                if not torch.equal(model(images(2), plan=name), expected[name]):
                    wrong.append(name)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("budget", "name"),
    [("0.9x", "dear"), ("0.89x", "middle"), ("4.8ms", "middle"), ("3.2ms", "cheap"),
     ("1.6mJ", "cheap"), ("1s", "dear")],
)  # fmt: skip
def test_a_budget_takes_the_dearest_plan_within_it(
    model: DynamicModel, budget: str, name: str
) -> None:
    assert model.set_budget(budget) == name
    assert model.plan == name


def test_a_budget_below_all_plans(model: DynamicModel, caplog: pytest.LogCaptureFixture) -> None:
    assert model.set_budget("0.1x") == "cheap"
    assert "no plan fits latency <= 0.1x" in caplog.text
    model.set_plan("dear")
    with pytest.raises(InfeasibleError, match=r"the cheapest, cheap, takes 3\.2 ms"):
        model.set_budget("1us", strict=True)
    assert model.plan == "dear"
    for wrong in ("fast", "5", "-1ms", "0x", "5mm2", "x"):
        with pytest.raises(BudgetError, match="is not a budget"):
            model.set_budget(wrong)


def test_an_unknown_plan_is_refused(model: DynamicModel) -> None:
    with pytest.raises(PlanError, match="no plan 'middling'") as error:
        model.set_plan("middling")
    assert "cheap, middle, dear" in error.value.hint
    with pytest.raises(PlanError, match="no plan"):
        model(images(), plan="middling")
    assert model.plan == "dear"


def test_each_kind_of_bundle_names_the_other(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is a dynamic bundle, of several plans"):
        load_bundle(bundle)
    variant = variants()["cheap"]
    save_bundle(
        tmp_path, variant, name="test_vit", arguments={"num_classes": 5, "img_size": 32},
        base_weights_sha256=weights_hash(base()), data_config=DataConfig.of_model(variant),
    )  # fmt: skip
    with pytest.raises(BundleError, match="is a plain bundle, of one plan"):
        load_dynamic(tmp_path)
    assert torch.equal(logits_of(trex.load(tmp_path), images()), logits_of(variant, images()))
    with pytest.raises(BundleError, match="holds its base"):
        trex.load(bundle, base())
    with pytest.raises(BundleError, match="is not a dynamic bundle"):
        load_dynamic(tmp_path / "nowhere")


def test_damage_is_named(bundle: Path, tmp_path: Path) -> None:
    def copied(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in bundle.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    changed = copied("changed")
    config = json.loads((changed / "dynamic.json").read_text())
    config["plans"][0]["plan"] = "5=class"
    (changed / "dynamic.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match="was changed after it was written"):
        load_dynamic(changed)
    cut = copied("cut")
    data = (cut / WEIGHTS).read_bytes()
    (cut / WEIGHTS).write_bytes(data[:-8])
    with pytest.raises(BundleError, match="cannot be read"):
        load_dynamic(cut)
    (cut / WEIGHTS).write_bytes(data[:-8] + bytes(8))
    with pytest.raises(BundleError, match="is not the file that belongs to"):
        load_dynamic(cut)
    (cut / WEIGHTS).unlink()
    with pytest.raises(BundleError, match=r"has no model\.safetensors"):
        load_dynamic(cut)
    field = copied("field")
    del config["plans"][0]["parts"]
    (field / "dynamic.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match=r"is damaged: plans\.0\.parts"):
        load_dynamic(field)


def test_a_variant_of_shared_parameters_changes_nothing_of_its_base() -> None:
    model = base()
    before = logits_of(model, images())
    variant = variant_of(model, PLANS["cheap"][0])
    assert plan_of(model) is None
    assert torch.equal(logits_of(model, images()), before)
    assert torch.equal(
        logits_of(variant, images()),
        logits_of(trex.apply_plan(base(), PLANS["cheap"][0]), images()),
    )
