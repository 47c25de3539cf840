"""Efficient video 3D CNNs: VoV3D, X3D and their building blocks.

`VideoClassifier`, from a file to a label, and what deploys a model are imported when first asked for; the classifier
needs the extra `video`, files of other runtimes the extra `deploy`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vov3d.hub import convert, convert_state_dict, from_pretrained, publish, push_to_hub, save_pretrained
from vov3d.labels import class_names, load_labels
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
    measure_budget,
    model_entrypoint,
)
from vov3d.surgery import factorize, fold_batchnorm, freeze_batchnorm, recalibrate, replace_blocks

if TYPE_CHECKING:
    from vov3d.deploy import export, load_exported, optimize_for_inference, streaming
    from vov3d.live import StreamClassifier
    from vov3d.video import VideoClassifier

__version__ = "0.1.0"

__all__ = [
    "TOSA",
    "X3D",
    "ClassifierHead3d",
    "ConvNormAct3d",
    "D2plus1D",
    "SqueezeExcite3d",
    "StreamClassifier",
    "VideoClassifier",
    "VideoPretrainedCfg",
    "VoV3D",
    "WeightsError",
    "__version__",
    "class_names",
    "convert",
    "convert_state_dict",
    "create_model",
    "export",
    "factorize",
    "fold_batchnorm",
    "freeze_batchnorm",
    "from_pretrained",
    "is_model",
    "list_models",
    "list_pretrained",
    "load_exported",
    "load_labels",
    "measure_budget",
    "model_entrypoint",
    "optimize_for_inference",
    "publish",
    "push_to_hub",
    "recalibrate",
    "replace_blocks",
    "save_pretrained",
    "streaming",
]


_LATE = {
    "StreamClassifier": "vov3d.live",
    "VideoClassifier": "vov3d.video",
    "export": "vov3d.deploy",
    "load_exported": "vov3d.deploy",
    "optimize_for_inference": "vov3d.deploy",
    "streaming": "vov3d.deploy",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module 'vov3d' has no attribute {name!r}")
