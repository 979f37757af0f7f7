"""What a model and a plan cost on a chip."""

from trex.hardware.chip import SCHEDULES, Chip, Schedule
from trex.hardware.compare import ScheduleCosts, compare_schedules
from trex.hardware.cost import Cost, Share, Sums, price
from trex.hardware.device import Basis, Device, is_measured, load_device
from trex.hardware.layers import LayerCosts, price_layers
from trex.hardware.load import load_chip
from trex.hardware.measured import MeasuredDevice
from trex.hardware.prices import ACCOUNTINGS, Accounting, Densities, DeviceAccounting
from trex.hardware.published import ChipReport, Comparison, check_chip
from trex.hardware.table import CostTable, PlanArrays, PlanCosts
from trex.hardware.workload import EncoderWork, Workload, encoder_work, without_dead_rows, workload

__all__ = [
    "ACCOUNTINGS",
    "SCHEDULES",
    "Accounting",
    "Basis",
    "Chip",
    "ChipReport",
    "Comparison",
    "Cost",
    "CostTable",
    "Densities",
    "Device",
    "DeviceAccounting",
    "EncoderWork",
    "LayerCosts",
    "MeasuredDevice",
    "PlanArrays",
    "PlanCosts",
    "Schedule",
    "ScheduleCosts",
    "Share",
    "Sums",
    "Workload",
    "check_chip",
    "compare_schedules",
    "encoder_work",
    "is_measured",
    "load_chip",
    "load_device",
    "price",
    "price_layers",
    "without_dead_rows",
    "workload",
]
