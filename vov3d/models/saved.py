"""Reads the `config.json` of saved models and checks that its values are within bounds.

A folder or a repository describes a network and its weights; it must not select files, addresses or code on the
machine that loads it. Everything is checked before anything is built.
"""

import inspect
import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from vov3d.labels import LABEL_SETS, check_text
from vov3d.models.family import Family
from vov3d.weights.hub_client import CONFIG, HUB_ERRORS, download_file, hub_error
from vov3d.weights.tasks import TASKS

_logger = logging.getLogger(__name__)

_LARGEST_FILE = 1 << 24  # bytes
_MOST_CLASSES = 1_000_000
_MOST_CHANNELS = 1 << 16
_MOST_BLOCKS = 1000
_MOST_PARAMS = 1 << 28  # 1 GiB of weights
_SPARE_PARAMS = 1 << 24  # for a classifier of more classes than the file's

SOURCES = ("local-dir", "hf-hub")
_TOP = {
    "architecture",
    "num_classes",
    "num_features",
    "global_pool",
    "model_args",
    "pretrained_cfg",
    "label_names",
    "label_descriptions",
    "source",
}


class Saved(NamedTuple):
    """The configuration of a saved model, as read.

    Attributes:
        architecture: Name of the model.
        pretrained_cfg: Its fields, with the folder or repository that they came from.
        model_args: Arguments that build it.
    """

    architecture: str
    pretrained_cfg: dict[str, Any]
    model_args: dict[str, Any]


def read_saved(source: str, name: str, cache_dir: str | Path | None, token: str | bool | None) -> Saved:
    """Reads the `config.json` of a folder or a repository.

    Args:
        source: `"local-dir"` or `"hf-hub"`.
        name: The folder, or `org/name`, or `org/name@revision`.
        cache_dir: Folder for the Hub client's downloads.
        token: For repositories that are not public.

    Raises:
        FileNotFoundError: If the folder has none.
        ValueError: If it does not describe a model.
        WeightsError: If the Hub does not serve it.
    """
    if source == "hf-hub":
        try:
            path, place = download_file(name, CONFIG, cache_dir, token), {"hf_hub_id": name, "source": source}
        except HUB_ERRORS as e:
            raise hub_error(name, e) from e
    else:
        name = str(Path(name).expanduser())
        path, place = Path(name) / CONFIG, {"file": name, "source": source}
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, so {name} is not the folder of a saved model")
    where = f"{source}:{name}"
    try:
        config = _parsed(path)
    except (KeyError, TypeError, ValueError, RecursionError) as e:
        raise ValueError(f"{where}: its config.json does not describe a model ({e!r:.300})") from e
    if "model_type" not in config:  # whose other keys are those of transformers
        _warn_of(where, [key for key in config if key not in _TOP])
    cfg = dict(config["pretrained_cfg"])
    cfg |= {key: config[key] for key in ("num_classes", "label_names", "label_descriptions") if key in config}
    return Saved(config["architecture"], without_places(where, cfg) | place, dict(config.get("model_args") or {}))


def _parsed(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"it is larger than {_LARGEST_FILE:,} bytes")
    config = json.loads(path.read_text(encoding="utf-8-sig"))  # editors of Windows add the mark
    if not isinstance(config, dict) or "architecture" not in config:
        raise ValueError("it names no architecture: neither this package nor timm saved it")
    if "pretrained_cfg" not in config:  # timm's older form
        labels = {"label_names": config.pop("labels")} if "labels" in config else {}
        config = {"architecture": config.pop("architecture"), "pretrained_cfg": config | labels}
    if not isinstance(config["architecture"], str) or len(config["architecture"]) > 100:
        raise ValueError("its architecture is not a name")
    for key in ("pretrained_cfg", "model_args"):
        if not isinstance(config.get(key) or {}, dict):
            raise ValueError(f"its {key} is a {type(config[key]).__name__}, not an object")
    return config


def without_places(where: str, cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a configuration without those that locate weights; logs one warning that names these."""
    places = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load", "packaged")
    _warn_of(where, [key for key in places if cfg.get(key)])
    return {key: value for key, value in cfg.items() if key not in places}


def _warn_of(where: str, keys: Sequence[str]) -> None:
    if keys:
        names = ", ".join(f"{key!r:.50}" for key in keys[:10])
        _logger.warning("%s: its config.json sets %s, which a saved model may not; left out", where, names)


# --- bounds ----------------------------------------------------------------------------------------------------------


def _integer(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and math.isfinite(value) and low <= value <= high


def _text(longest: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and check_text(value, longest) is None


def _pattern(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: any(value is known or (type(value) is type(known) and value == known) for known in values)


def _list(item: Callable[[Any], bool], low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and low <= len(value) <= high and all(map(item, value))


def _or_list(item: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: item(value) or _list(item, 0, 100)(value)


def _size(value: Any) -> bool:
    return _list(_integer(1, 1 << 13), 3, 3)(value) and value[0] <= 1024


def _descriptions(value: Any) -> bool:
    return (
        isinstance(value, Mapping) and len(value) <= _MOST_CLASSES and all(map(_text(2000), (*value, *value.values())))
    )


def _heads(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) <= 8
        and all(_text(100)(name) and _integer(1, _MOST_CLASSES)(classes) for name, classes in value.items())
    )


_WORD = r"[\w.+-]{1,100}"
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "architecture": _pattern(_WORD),
    "tag": _pattern(_WORD),
    "input_size": _size,
    "test_input_size": _size,
    "min_input_size": _size,
    "fixed_input_size": _one_of(True, False),
    "interpolation": _one_of("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos", "random"),
    "crop_pct": _number(0.01, 100),
    "test_crop_pct": _number(0.01, 100),
    "crop_mode": _pattern(_WORD),
    "mean": _list(_number(-1e6, 1e6), 1, 1024),
    "std": _list(_number(1e-6, 1e6), 1, 1024),
    "num_classes": _integer(0, _MOST_CLASSES),
    "label_offset": _integer(0, _MOST_CLASSES),
    "label_names": _list(_text(500), 0, _MOST_CLASSES),
    "label_descriptions": _descriptions,
    "pool_size": _list(_integer(1, 1 << 13), 2, 2),
    "test_pool_size": _list(_integer(1, 1 << 13), 2, 2),
    "first_conv": _or_list(_pattern(_WORD)),
    "classifier": _or_list(_pattern(_WORD)),
    "license": _pattern(r"[\w.+-][\w.+ -]{0,99}"),
    "description": _text(10_000),
    "origin_url": _pattern(r"https?://[\w.:/?#@!&+,;=%~-]{1,500}"),
    "paper_name": _or_list(_text(1000)),
    "paper_ids": _or_list(_pattern(r"[\w.:/-]{1,100}")),
    "notes": _or_list(_text(10_000)),
    "num_frames": _integer(1, 10_000),
    "frame_stride": _integer(1, 10_000),
    "sampling": _one_of("dense", "segment"),
    "clip_seconds": _number(1e-3, 1e6),
    "label_set": _one_of(*LABEL_SETS),
    "pretrained_on": _one_of(*LABEL_SETS),
    "views": _list(_integer(1, 1000), 2, 2),
    "top1": _number(0, 100),
    "top5": _number(0, 100),
    "gmacs_per_view": _number(0, 1e9),
    "temperature": _number(1e-3, 1e3),
    "task": _one_of(*TASKS),
    "heads": _heads,
    "causal": _one_of(True, False),
    "sha256": _pattern("[0-9a-f]{64}"),
}


def check_saved(where: str, family: Family, cfg: Mapping[str, Any], args: Mapping[str, Any]) -> None:
    """Raises ValueError if a saved configuration or its arguments leave their bounds.

    Args:
        where: The folder or repository, for the message.
        family: That of the model.
        cfg: Fields of the pretrained configuration.
        args: Arguments of the model; values of the caller that JSON cannot hold are accepted.
    """
    for key, value in cfg.items():
        fits = _FIELDS.get(key)
        if fits is not None and value is not None and not fits(value):
            raise ValueError(f"{where}: its config.json has {key}={value!r:.100}, which no model can have")
    own = own_arguments(family)
    for key, value in args.items():
        if key in own and not _is_argument(key, value):
            raise ValueError(f"{where}: its model_args have {key}={value!r:.100}, which no model accepts")
    depths, num_blocks = args.get("depths", ()), args.get("num_blocks", 1)
    if isinstance(depths, list | tuple) and sum(depths) * num_blocks > _MOST_BLOCKS:
        blocks = sum(depths) * num_blocks
        raise ValueError(f"{where}: its model_args ask for {blocks:,} blocks; the limit is {_MOST_BLOCKS:,}")


def plain(value: Any) -> Any:
    """Returns numbers and lists of NumPy, PyTorch or a configuration tool as Python's, which files can hold."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Sequence | Iterator) and not isinstance(value, str | bytes):
        return (list if isinstance(value, list) else tuple)(map(plain, value))
    return value


def own_arguments(family: Family) -> set[str]:
    """Returns the names of the arguments that a saved model may have: all but device and dtype."""
    return {*inspect.signature(family.model_cls).parameters} - {"device", "dtype"}


def _is_argument(key: str, value: Any) -> bool:
    if isinstance(value, bool | None) or callable(value):
        return True
    if isinstance(value, str):
        return re.fullmatch(r"\w{0,50}", value) is not None
    if isinstance(value, list | tuple):
        return _list(_integer(1, _MOST_CHANNELS), 1, 16)(value)
    if type(value) is float:
        return math.isfinite(value) and 0 <= value <= 64
    return type(value) is not int or 0 <= value <= (_MOST_CLASSES if key == "num_classes" else _MOST_CHANNELS)


def check_params(where: str, model: nn.Module, weights: Mapping[str, torch.Tensor] | None) -> None:
    """Raises ValueError if a network on the meta device is far larger than its weights, or than any of this package.

    Args:
        where: The folder or repository, for the message.
        model: The network.
        weights: The weights to load, if any.
    """
    params = sum(p.numel() for p in model.parameters())
    most = _MOST_PARAMS if weights is None else 2 * sum(v.numel() for v in weights.values()) + _SPARE_PARAMS
    if params > most:
        raise ValueError(f"{where}: its config.json asks for {params:,} parameters, far more than it has weights")
