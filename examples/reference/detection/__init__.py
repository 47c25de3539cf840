"""A spatio-temporal detector of actions in the manner of AVA (https://arxiv.org/abs/1705.08421)."""
