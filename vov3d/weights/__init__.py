"""Pretrained weights: configuration, sources, and reading files without running code."""
