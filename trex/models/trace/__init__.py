"""From any PyTorch image model to an `Architecture`, by watching one forward pass without data."""

from trex.models.trace.tracer import trace_architecture

__all__ = ["trace_architecture"]
