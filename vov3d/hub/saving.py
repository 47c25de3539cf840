"""Saved models: a folder of `model.safetensors`, `config.json`, and a card where there is one."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch
from timm.models._pretrained import filter_pretrained_cfg
from torch import nn

from vov3d.labels import class_names, load_labels
from vov3d.models._weights import digest

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"

# What a tag says of its own weights, and neither a model trained further nor another one inherits.
_CLAIMS = ("tag", "top1", "top5", "views", "gmacs_per_view", "temperature")
_TERMS = ("license", "origin_url")


def save_pretrained(model: nn.Module, folder: str | Path, label_names: Sequence[str] | None = None) -> Path:
    """Saves weights, configuration and class names of a model made by `create_model`.

    Files are written beside the folder first and then moved into it, so that an interruption or a full disk leaves
    what was there before.

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
    return write_folder(model, Path(folder), label_names)


def write_folder(
    model: Any, folder: Path, label_names: Sequence[str] | None, source: Mapping[str, str] | None = None, card: str = ""
) -> Path:
    """`save_pretrained`, with what the weights were made from and a model card, for those that have them."""
    config = describe(model, label_names) | ({"source": dict(source)} if source else {})
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as tmp:
        tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        # save_file would make a file that only its owner can read
        content = safetensors.torch.save(tensors, metadata={"format": "pt", **(source or {})})
        (Path(tmp) / WEIGHTS).write_bytes(content)
        (Path(tmp) / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
        if card:
            (Path(tmp) / CARD).write_text(card, encoding="utf-8")
        folder.mkdir(exist_ok=True)
        for name in (WEIGHTS, CONFIG, *([CARD] if card else [])):
            os.replace(Path(tmp) / name, folder / name)
    return folder


def describe(model: Any, label_names: Sequence[str] | None = None) -> dict[str, Any]:
    """The `config.json` of timm: how to build the model, how its weights want their clips, what is known of them.

    Raises:
        ValueError: As `save_pretrained`.
    """
    if not getattr(model, "pretrained_cfg", {}).get("architecture") or not hasattr(model, "reset_classifier"):
        raise ValueError(
            f"cannot save a {type(model).__name__}: only whole models made by create_model know how to be made again;"
            " pass your widths and depths to create_model('vov3d_m', depths=..., ...)"
        )
    names = list(label_names) if label_names is not None else class_names(model)
    if names is not None and len(names) != model.num_classes:
        raise ValueError(f"got {len(names)} label_names for a model of {model.num_classes} classes")
    config = {
        "architecture": model.pretrained_cfg["architecture"],
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "global_pool": model.head.global_pool.pool_type,
        "model_args": _arguments(model),
        "pretrained_cfg": known_cfg(model, names),
    }
    return config | ({"label_names": names} if names else {})


def _arguments(model: Any) -> dict[str, Any]:
    args = {**model.model_args, "in_chans": model.in_chans, "num_classes": model.num_classes}
    args["global_pool"] = model.head.global_pool.pool_type
    for key, value in args.items():
        try:
            json.dumps(value)
        except TypeError:
            raise ValueError(
                f"cannot save {key}={value!r} in a file; name layers by strings, such as norm_layer='syncbatchnorm'"
            ) from None
    return args


def known_cfg(model: Any, names: list[str] | None) -> dict[str, Any]:
    """The pretrained configuration, without what does not hold for the model's weights and their class names."""
    cfg = filter_pretrained_cfg(model.pretrained_cfg, remove_source=True)
    dropped = {"architecture", "state_dict", "label_names", "custom_load", "packaged"}
    if not names or not cfg.get("label_set") or tuple(names) != load_labels(cfg["label_set"]):
        dropped.add("label_set")
    if "label_set" in dropped or model.weights_digest != digest(model):
        dropped.update(_CLAIMS)
    if model.weights_digest is None:
        dropped.update(_TERMS)
    cfg = {k: v for k, v in cfg.items() if k not in dropped} | {"num_classes": getattr(model, "num_classes", 0)}
    for key in ("input_size", "test_input_size"):
        cfg[key] = (model.in_chans, *cfg.get(key, cfg["input_size"])[1:])
    return cfg
