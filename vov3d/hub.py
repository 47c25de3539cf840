"""Saved models: a folder of `model.safetensors` and `config.json` in timm's form, with the video fields.

The folder is what a repository of the Hub holds: `create_model("local-dir:folder", pretrained=True)` and
`create_model("hf-hub:org/name", pretrained=True)` read the same two files.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch
from timm.models._pretrained import filter_pretrained_cfg
from torch import nn

from vov3d.labels import class_names, load_labels

CONFIG = "config.json"
WEIGHTS = "model.safetensors"

# What a published tag says of its weights, and a model of other classes does not inherit.
_CLAIMS = ("tag", "label_set", "top1", "top5", "views", "gmacs_per_view")


def save_pretrained(model: nn.Module, folder: str | Path, label_names: Sequence[str] | None = None) -> Path:
    """Saves weights, configuration and class names of a model made by `create_model`.

    Both files are written beside the folder first and then moved into it, so that an interruption or a full disk
    leaves what was there before.

    Args:
        model: The model; it is not changed.
        folder: Where to; made if it is not there. Other files in it stay.
        label_names: Class names in index order; those that the model knows itself if None.

    Returns:
        The folder.

    Raises:
        ValueError: If the model was not made by `create_model`, gives features only, has arguments that JSON
            cannot hold, or another number of classes than names.
    """
    if not getattr(model, "pretrained_cfg", {}).get("architecture") or not hasattr(model, "reset_classifier"):
        raise ValueError(
            f"cannot save a {type(model).__name__}: only whole models made by create_model know how to be made again;"
            " pass your widths and depths to create_model('vov3d_m', depths=..., ...)"
        )
    names = list(label_names) if label_names is not None else class_names(model)
    if names is not None and len(names) != model.num_classes:
        raise ValueError(f"got {len(names)} label_names for a model of {model.num_classes} classes")
    config = _config(model, names)
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as tmp:
        tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        safetensors.torch.save_file(tensors, Path(tmp) / WEIGHTS, metadata={"format": "pt"})
        (Path(tmp) / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
        folder.mkdir(exist_ok=True)
        for name in (WEIGHTS, CONFIG):
            os.replace(Path(tmp) / name, folder / name)
    return folder


def _config(model: Any, names: list[str] | None) -> dict[str, Any]:
    """The `config.json` of timm: how to build the model, and how its weights want their clips."""
    args = {**model.model_args, "in_chans": model.in_chans, "num_classes": model.num_classes}
    args["global_pool"] = model.head.global_pool.pool_type
    for key, value in args.items():
        try:
            json.dumps(value)
        except TypeError:
            raise ValueError(
                f"cannot save {key}={value!r} in a file; name layers by strings, such as norm_layer='syncbatchnorm'"
            ) from None
    cfg = filter_pretrained_cfg(model.pretrained_cfg, remove_source=True)
    label_set = cfg.get("label_set")
    inherits = not label_set or (names is not None and tuple(names) == load_labels(label_set))
    dropped = {"architecture", "state_dict", "label_names", "custom_load", *(() if inherits else _CLAIMS)}
    cfg = {k: v for k, v in cfg.items() if k not in dropped} | {"num_classes": model.num_classes}
    for key in ("input_size", "test_input_size"):
        cfg[key] = (model.in_chans, *cfg.get(key, cfg["input_size"])[1:])
    config = {
        "architecture": model.pretrained_cfg["architecture"],
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "global_pool": args["global_pool"],
        "model_args": args,
        "pretrained_cfg": cfg,
    }
    return config | ({"label_names": names} if names else {})
