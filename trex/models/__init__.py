"""The registry and adapters of the model families; importing it adds TReX's own to timm."""

from trex.models import digits as _digits
from trex.models import lvvit as _lvvit
from trex.models import uniform as _uniform
from trex.models import variant as _variant

del _digits, _lvvit, _uniform, _variant
