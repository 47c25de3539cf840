"""Rewriting of any `nn.Module`: convolutions factorized, blocks exchanged, statistics of norms renewed or frozen."""

from vov3d.surgery.blocks import replace_blocks
from vov3d.surgery.factorization import Factorization, FactorizedConv3d, FactorizedLayer, factorize
from vov3d.surgery.statistics import freeze_batchnorm, recalibrate

__all__ = [
    "Factorization",
    "FactorizedConv3d",
    "FactorizedLayer",
    "factorize",
    "freeze_batchnorm",
    "recalibrate",
    "replace_blocks",
]
