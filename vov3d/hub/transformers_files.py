"""Files and keys by which Hugging Face transformers loads a saved model; written without transformers.

The classes that they name are in `vov3d.adapters.transformers`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

MODEL_TYPE = "vov3d"
PROCESSOR = "video_preprocessor_config.json"
LOADER = "modeling_vov3d.py"

LOADER_SOURCE = '''\
"""Imports the classes of the package vov3d, for transformers with trust_remote_code=True."""

from vov3d.adapters.transformers import (  # noqa: F401
    VoV3DConfig,
    VoV3DForVideoClassification,
    VoV3DModel,
    VoV3DVideoProcessor,
)
'''

_MODULE = LOADER.removesuffix(".py")
AUTO_MAP = {
    "AutoConfig": f"{_MODULE}.VoV3DConfig",
    "AutoModel": f"{_MODULE}.VoV3DModel",
    "AutoModelForVideoClassification": f"{_MODULE}.VoV3DForVideoClassification",
}
PROCESSOR_AUTO_MAP = {"AutoVideoProcessor": f"{_MODULE}.VoV3DVideoProcessor"}

PROBLEM_TYPES = {"multilabel": "multi_label_classification", "regression": "regression"}
"""Values of transformers' `problem_type` by the task of a model; without one it is a single label."""

_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers


def model_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of transformers for `config.json`.

    Args:
        config: The configuration of a saved model.
    """
    classes = config["num_classes"]
    names = config.get("label_names")
    problem = PROBLEM_TYPES.get(config["pretrained_cfg"].get("task"))
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["VoV3DForVideoClassification" if classes else "VoV3DModel"],
        "auto_map": AUTO_MAP,
        "dtype": "float32",
        "num_frames": config["pretrained_cfg"]["num_frames"],
        **({"problem_type": problem} if problem else {}),
        **(label_maps(names or default_names(classes)) if classes else {}),
    }


def label_maps(names: Sequence[str]) -> dict[str, Any]:
    """Returns `id2label` and `label2id` of class names; of equal names, `label2id` has the first."""
    indices = {name: index for index, name in reversed(list(enumerate(names)))}
    return {"id2label": {str(i): name for i, name in enumerate(names)}, "label2id": indices}


def default_names(num_classes: int) -> list[str]:
    """Returns the names that transformers gives to classes without names."""
    return [f"LABEL_{index}" for index in range(num_classes)]


def processor_fields(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of the video processor's file.

    Args:
        cfg: A model's `pretrained_cfg`.

    Raises:
        ValueError: If the interpolation is neither bilinear nor bicubic.
    """
    size = (cfg.get("test_input_size") or cfg["input_size"])[-1]
    interpolation = cfg["interpolation"]
    if interpolation not in _RESAMPLE:
        raise ValueError(
            f"pretrained_cfg has interpolation {interpolation!r}: {' and '.join(_RESAMPLE)} are known to the video"
            " processor; set it with pretrained_cfg_overlay"
        )
    return {
        "video_processor_type": "VoV3DVideoProcessor",
        "auto_map": PROCESSOR_AUTO_MAP,
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "resample": _RESAMPLE[interpolation],
        "image_mean": list(cfg["mean"]),
        "image_std": list(cfg["std"]),
        "num_frames": cfg["num_frames"],
        "sampling": cfg["sampling"],
        "frame_stride": cfg.get("frame_stride"),
    }


def interpolation_of(resample: int | str | None) -> str | None:
    """Returns the name of an interpolation by its name or its number in Pillow; None if it is not supported."""
    return next((name for name, number in _RESAMPLE.items() if resample in (name, number)), None)
