"""Several plans in one model, and what chooses among them as it runs.

    model = trex.load("DIR")
    model.set_budget("5ms")

`load` opens plain bundles too.
"""

from trex.runtime.adaptive import Cascade, EarlyExits
from trex.runtime.bundle import load, load_dynamic, save_dynamic
from trex.runtime.control import BudgetController, QueueController
from trex.runtime.dynamic import DynamicModel, Point
from trex.runtime.simulate import simulate
from trex.runtime.ways import load_adaptive

__all__ = [
    "BudgetController",
    "Cascade",
    "DynamicModel",
    "EarlyExits",
    "Point",
    "QueueController",
    "load",
    "load_adaptive",
    "load_dynamic",
    "save_dynamic",
    "simulate",
]
