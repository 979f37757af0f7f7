"""A model's accuracy with a chip's errors: few bits, converters, noisy cells. Needs torch."""

from trex.noise.apply import (
    is_non_ideal,
    make_non_ideal,
    non_ideal_layers,
    remove_non_ideal,
    set_noise,
)
from trex.noise.physics import (
    ADC_RANGES,
    ENCODINGS,
    MODES,
    AdcRange,
    Encoding,
    Mode,
    NoiseSettings,
)

__all__ = [
    "ADC_RANGES",
    "ENCODINGS",
    "MODES",
    "AdcRange",
    "Encoding",
    "Mode",
    "NoiseSettings",
    "is_non_ideal",
    "make_non_ideal",
    "non_ideal_layers",
    "remove_non_ideal",
    "set_noise",
]
