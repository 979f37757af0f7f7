"""Texts: tokenisers, data sets, and a small BERT trained from nothing."""
