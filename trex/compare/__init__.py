"""TReX beside other ways to make a vision transformer cheaper, on the same chip.

`trex.compare(model, device)` calls `trex.api.compare.compare`, which says more:
`help(trex.api.compare.compare)`.
"""
