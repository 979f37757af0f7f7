"""Recipes are read strictly, and say what is contradictory."""

from pathlib import Path

import finetune_cases as cases
import pytest
import yaml

from trex.training.finetune import RecipeError, load_recipe, shipped_recipes

GOOD = {
    "description": "d",
    "epochs": 1,
    "batch_size": 2,
    "optimizer": {"lr": 0.1, "lr_new": 0.1},
    "losses": {"kl": 1},
}


def test_what_is_shipped() -> None:
    assert list(shipped_recipes()) == [
        "extra_images",
        "few_images",
        "few_steps",
        "imagenet",
        "paper_deit",
        "paper_lvvit",
    ]
    labels = {name: load_recipe(name).losses.labels for name in shipped_recipes()}
    assert labels == {
        "extra_images": "none", "few_images": "none", "few_steps": "none", "imagenet": "hard",
        "paper_deit": "hard", "paper_lvvit": "token",
    }  # fmt: skip


def test_the_papers_losses() -> None:
    deit, lvvit = load_recipe("paper_deit"), load_recipe("paper_lvvit")
    assert (deit.losses.ce, deit.losses.kl, deit.losses.class_kl) == (1.0, 0.1, 0.5)
    assert (lvvit.losses.dense, deit.epochs, lvvit.epochs) == (0.2, 30, 30)


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"epoch": 3}, "epoch: is not a known field", "did you mean 'epochs'?"),
        ({"optimizer": {"lr": "1e-5", "lr_new": 0.1}}, "optimizer.lr: '1e-5' is text", "1.0e-05"),
        ({"epochs": 0}, "epochs: 0 is not allowed", "above 0"),
        ({"losses": {}}, "losses: are all 0", "kl"),
        ({"losses": {"ce": 1, "dense": 1}}, "losses.ce: is in the dense loss", "0"),
        ({"losses": {"dense": 1}, "augment": {"cutmix": 1}}, "augment: mixed", "0"),
        (
            {"teacher": {"mode": "cached"}, "augment": {"mixup": 1}},
            "teacher.mode: a cache",
            "live",
        ),
        ({"teacher": {"mode": "cached"}, "losses": {"encoders": 1}}, "teacher.mode", "live"),
        ({"stages": [{"from_epoch": 1, "train": "all"}]}, "stages: do not begin", "order"),
        ({"stages": [{"from_epoch": 0, "train": "some"}]}, "train: 'some'", "'consumers'"),
        ({"augment": {"scale": [0.9, 0.1]}}, "augment.scale: is no range", "0.35"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: dict, message: str, hint: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({**GOOD, **change}))
    with pytest.raises(RecipeError) as raised:
        load_recipe(file)
    assert message in raised.value.message
    assert hint in raised.value.hint


def test_no_such_recipe() -> None:
    with pytest.raises(RecipeError, match="did you mean 'few_images'"):
        load_recipe("few_image")


def test_other_values_than_the_files(tmp_path: Path) -> None:
    changed = load_recipe("few_images", {"epochs": 48, "schedule.final_share": 0.1})
    shipped = load_recipe("few_images")
    assert (changed.epochs, changed.schedule.final_share) == (48, 0.1)
    assert changed.schedule.warmup_epochs == shipped.schedule.warmup_epochs
    assert changed.losses == shipped.losses
    assert changed.description == "few_images, but epochs=48, schedule.final_share=0.1"

    file = tmp_path / "bare.yaml"
    file.write_text(yaml.safe_dump(GOOD))
    assert load_recipe(file, {"selection.share": 0.2}).selection.share == 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "few_images.yaml with the given flags: epochs: 0 is not allowed"),
        ({"optimizer.rate": 1.0}, "with the given flags: optimizer.rate: is not a known field"),
        ({"epochs.most": 3}, "epochs.most cannot be set: epochs has no fields by name"),
    ],
)
def test_other_values_that_cannot_be(changes: dict, message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        load_recipe("few_images", changes)
    assert message in raised.value.message


def test_labels_asked_for() -> None:
    both = cases.recipe(losses={"ce": 1.0, "kl": 2.0})
    assert both.with_labels(None) is both
    assert both.with_labels("hard") is both
    unlabelled = both.with_labels("none")
    assert (unlabelled.losses.ce, unlabelled.losses.kl) == (0.0, 2.0)
    with pytest.raises(RecipeError, match="every loss of the recipe reads labels"):
        cases.recipe(losses={"ce": 1.0}).with_labels("none")
    with pytest.raises(RecipeError, match=r"no loss of the recipe reads them[^$]*losses\.dense"):
        both.with_labels("token")


def test_texts_are_not_mixed() -> None:
    with pytest.raises(RecipeError, match="mixes images, and these are texts"):
        load_recipe("few_images").check_inputs(pixels=False)
    load_recipe("few_images").check_inputs(pixels=True)
    load_recipe("few_steps").check_inputs(pixels=False)
    load_recipe("few_images", {"augment.mix_probability": 0}).check_inputs(pixels=False)


def test_what_never_mixes_can_be_cached() -> None:
    changes = {"augment.mix_probability": 0, "teacher.mode": "cached"}
    assert not load_recipe("few_images", changes).augment.mixes
    with pytest.raises(RecipeError, match="a cache holds"):
        load_recipe("few_images", {"teacher.mode": "cached"})
