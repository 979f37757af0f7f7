"""Fine-tuning: winning back what a fitted variant lost, from few images or many."""

from trex.training.finetune.job import Job, finetune
from trex.training.finetune.recipe import Recipe, RecipeError, load_recipe, shipped_recipes

__all__ = ["Job", "Recipe", "RecipeError", "finetune", "load_recipe", "shipped_recipes"]
