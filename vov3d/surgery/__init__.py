"""Rewrites any `nn.Module`: factorizes convolutions, replaces blocks, folds, recalibrates or freezes batch norms."""

from vov3d.surgery.blocks import replace_blocks
from vov3d.surgery.factorization import Factorization, FactorizedConv3d, FactorizedLayer, factorize
from vov3d.surgery.folding import fold_batchnorm
from vov3d.surgery.statistics import freeze_batchnorm, recalibrate

__all__ = [
    "Factorization",
    "FactorizedConv3d",
    "FactorizedLayer",
    "factorize",
    "fold_batchnorm",
    "freeze_batchnorm",
    "recalibrate",
    "replace_blocks",
]
