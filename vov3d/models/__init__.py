"""The networks, one file per paper, and the registry of their names."""

from vov3d.models.budget import Budget, measure_budget
from vov3d.models.registry import create_model, is_model, list_models, list_pretrained, model_entrypoint
from vov3d.models.summary import Summary
from vov3d.models.vov3d import VoV3D, vov3d_l, vov3d_m, vov3d_n
from vov3d.models.x3d import X3D, x3d_l, x3d_m, x3d_s, x3d_xs
from vov3d.weights.config import VideoPretrainedCfg
from vov3d.weights.state_dict import WeightsError

__all__ = [
    "X3D",
    "Budget",
    "Summary",
    "VideoPretrainedCfg",
    "VoV3D",
    "WeightsError",
    "create_model",
    "is_model",
    "list_models",
    "list_pretrained",
    "measure_budget",
    "model_entrypoint",
    "vov3d_l",
    "vov3d_m",
    "vov3d_n",
    "x3d_l",
    "x3d_m",
    "x3d_s",
    "x3d_xs",
]
