"""Finding plans.

`trex.search(model, data, device, budget="0.6x")` calls `trex.api.search.search`, which says more:
`help(trex.api.search.search)`.
"""
