"""Checks the settings and class names of a model before a pipeline opens any file."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from vov3d.labels import class_names as names_of_model
from vov3d.labels import in_order
from vov3d.layers.checks import is_count, is_positive

_CFG_KEYS = ("num_frames", "sampling", "input_size", "mean", "std", "interpolation")


def checked_cfg(model: nn.Module, stride: float | None, num_frames: int | None) -> Mapping[str, Any]:
    """Returns the model's `pretrained_cfg`, checked to be complete, with the caller's settings in it."""
    cfg: Any = getattr(model, "pretrained_cfg", None)
    lacking = [key for key in _CFG_KEYS if not isinstance(cfg, Mapping) or cfg.get(key) is None]
    if lacking:
        parts: dict[str, Any] = {name: getattr(model, name, None) for name in ("module", "model")}
        inner = next((name for name, part in parts.items() if hasattr(part, "pretrained_cfg")), None)
        build = "build the model with vov3d.create_model, or set them with pretrained_cfg_overlay"
        cure = f"give the network inside it, .{inner}" if inner else build
        raise ValueError(f"{type(model).__name__}.pretrained_cfg lacks {', '.join(lacking)}: {cure}")
    change: dict[str, Any] = {}
    if num_frames is not None:
        if not is_count(num_frames):
            raise ValueError(f"num_frames is {num_frames!r}: a clip needs at least one, and a whole number")
        change["num_frames"] = num_frames
    if stride is not None:
        if not is_positive(stride):
            raise ValueError(f"stride {stride!r} must be positive and finite")
        if cfg["sampling"] == "segment":
            raise ValueError(
                f"stride={stride:g} would have no effect: this model takes its {cfg['num_frames']} frames from equal "
                "segments of the whole video (sampling 'segment'); leave it out, or use a model with dense sampling"
            )
        change["frame_stride"] = stride
    return {**cfg, **change}


def checked_names(model: nn.Module, names: Sequence[str] | None) -> list[str]:
    """Returns one name for each class of the model."""
    num_classes: Any = getattr(model, "num_classes", 0)
    if num_classes < 1:
        raise ValueError("the model has no classes (num_classes=0): build it with some, or call reset_classifier")
    if names is None:
        names = names_of_model(model)
    if names is None:
        return [f"class {index}" for index in range(num_classes)]
    listed: Any = in_order(names)
    if listed is None or len(listed) != num_classes:
        given = f"a {type(names).__name__}, not a list of them in index order" if listed is None else len(listed)
        raise ValueError(f"class_names must be {num_classes} names, one a class of the model; got {given}")
    if strange := [name for name in listed if not isinstance(name, str)]:
        raise ValueError(f"class_names must be texts, in index order, got {strange[0]!r:.50}")
    return listed
