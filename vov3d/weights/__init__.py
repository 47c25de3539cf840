"""Pretrained weights: their configuration, where they come from, and reading them from files without running code."""
