"""Efficient video 3D CNNs: VoV3D, X3D and their building blocks."""

from vov3d.layers import TOSA, ClassifierHead3d, ConvNormAct3d, D2plus1D, SqueezeExcite3d
from vov3d.models import (
    X3D,
    VideoPretrainedCfg,
    VoV3D,
    WeightsError,
    create_model,
    is_model,
    list_models,
    list_pretrained,
    model_entrypoint,
)

__version__ = "0.1.0"

__all__ = [
    "TOSA",
    "X3D",
    "ClassifierHead3d",
    "ConvNormAct3d",
    "D2plus1D",
    "SqueezeExcite3d",
    "VideoPretrainedCfg",
    "VoV3D",
    "WeightsError",
    "__version__",
    "create_model",
    "is_model",
    "list_models",
    "list_pretrained",
    "model_entrypoint",
]
