"""Text encoders of the `transformers` library: BERT, RoBERTa and ELECTRA classifiers."""

from __future__ import annotations

from trex.models.bert.model import TextClassifier, from_transformers, pack_inputs

__all__ = ["TextClassifier", "from_transformers", "pack_inputs"]
