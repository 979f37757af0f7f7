"""Fitting variants in closed form, on a few hundred unlabelled images."""
