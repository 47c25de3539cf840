"""Building blocks on clips `(B, C, T, H, W)`: plain modules, independent of the models that use them."""

from vov3d.layers.bottleneck import D2plus1D
from vov3d.layers.choosing import set_conv_forms
from vov3d.layers.conv import MIDDLE_CONVS, ConvNormAct3d
from vov3d.layers.head import ClassifierHead3d
from vov3d.layers.squeeze_excite import SqueezeExcite3d
from vov3d.layers.stem import Stem3d
from vov3d.layers.tosa import TOSA

__all__ = [
    "MIDDLE_CONVS",
    "TOSA",
    "ClassifierHead3d",
    "ConvNormAct3d",
    "D2plus1D",
    "SqueezeExcite3d",
    "Stem3d",
    "set_conv_forms",
]
