"""Fitting variants in closed form, on a few hundred unlabelled images.

`trex.fit(model, plan, data)` calls `trex.api.fit.fit`, which says more: `help(trex.api.fit.fit)`.
"""
