"""TReX: attention reuse for pretrained vision transformers, under a hardware budget."""

__version__ = "0.1.0"
