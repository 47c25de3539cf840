"""Converts weights from the formats of older codebases to saved folders, and back."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from timm.models import split_model_name_tag
from torch import nn

from vov3d.hub.card import model_card
from vov3d.hub.saving import write_folder
from vov3d.models import WeightsError, create_model, list_pretrained
from vov3d.models.family import Family, families
from vov3d.models.identify import Identity, identify
from vov3d.weights.config import VideoPretrainedCfg, resolve_cfg, unnamed_protocol
from vov3d.weights.state_dict import read_state_dict

# Fields of a tag that hold for its own weights only, not for other weights of the same network.
_NO_CLAIMS: dict[str, Any] = dict(tag=None, top1=None, top5=None, gmacs_per_view=None, license=None, origin_url=None)


def convert(
    file: str | Path,
    folder: str | Path,
    model_name: str | None = None,
    label_names: Sequence[str] | None = None,
    conv: str | None = None,
) -> tuple[Identity, nn.Module]:
    """Converts a checkpoint of any known format to a folder that `create_model("local-dir:folder")` loads.

    Architecture, width, number of classes and input channels are read from the tensors. If several models are one
    network (X3D-XS, S and M), `model_name` decides, else the name of a published file, else it is M.

    Args:
        file: A checkpoint of PySlowFast, PyTorchVideo, or with this package's names.
        folder: The folder to write; made if it does not exist. Other files in it stay.
        model_name: `model` or `model.tag` of the weights. A tag adds its sampling, class names, published accuracy
            and licence, which weights of other origin do not get.
        label_names: Class names in index order.
        conv: `"d1plus2d"` for weights of D(1+2)D, whose tensors look like those of D(2+1)D.

    Returns:
        The recognised network, and the model.

    Raises:
        FileNotFoundError: If there is no such file.
        vov3d.WeightsError: If it holds no weights, or weights of another network.
        ValueError: If names do not fit.
    """
    file = Path(file)
    state_dict = read_state_dict(file)
    found = _identified(state_dict, file)
    name = _published_name(file, found, model_name)
    args: dict[str, Any] = {**found.model_args, **({"conv": conv} if conv else {})}
    model: Any = create_model(
        name or found.base,
        checkpoint_path=file,
        pretrained_cfg_overlay=None if name and "." in name else _unpublished(found),
        num_classes=found.num_classes,
        in_chans=found.in_chans,
        **args,
    )
    with file.open("rb") as f:
        sha256 = hashlib.file_digest(f, "sha256").hexdigest()
    source = {"file": file.name, "sha256": sha256, "format": found.format}
    write_folder(model, Path(folder), label_names, source, model_card(model, str(folder), label_names, source))
    return found, model


def _identified(state_dict: Mapping[str, torch.Tensor], origin: object) -> Identity:
    found = identify(dict(state_dict))
    if found is None:
        raise WeightsError(
            f"{origin}: its {len(state_dict)} tensors, {', '.join(list(state_dict)[:3])}, ..., are not those of a VoV3D"
            " or X3D in a format of vov3d, PySlowFast or PyTorchVideo; load it into the network that it was saved from"
        )
    return found


def _published_name(file: Path, found: Identity, model_name: str | None) -> str | None:
    """Returns the requested model or tag, or the tag that was published under the file's name."""
    if model_name:
        model, tag = split_model_name_tag(model_name)
        if model not in found.variants:
            raise WeightsError(f"{file}: this file holds {found}, not {model}")
        classes = resolve_cfg(model, tag or None, None).num_classes
        if tag and classes != found.num_classes:
            raise WeightsError(f"{file}: has {found.num_classes} classes, but {model_name} has {classes}")
        return model_name
    for name in list_pretrained():
        cfg = _cfg(name)
        same = PurePosixPath(str(cfg.url)).name == file.name and cfg.num_classes == found.num_classes
        if same and cfg.architecture in found.variants:
            return name
    return None


def _cfg(name: str) -> VideoPretrainedCfg:
    model, tag = split_model_name_tag(name)
    return resolve_cfg(model, tag, None)


def _unpublished(found: Identity) -> dict[str, Any]:
    """Returns the fields of weights without a tag: Kinetics and Something-Something are known by their class counts."""
    label_set = "k400" if found.num_classes == 400 else None
    return {**_NO_CLAIMS, "label_set": label_set, **unnamed_protocol(found.num_classes)}


def convert_state_dict(model: nn.Module | Mapping[str, torch.Tensor], to: str) -> dict[str, torch.Tensor]:
    """Renames tensors to those of an older codebase.

    The tensors are the same, with one exception: X3D has a norm that PyTorchVideo lacks, in the shortcut that keeps
    its width. If it was trained, it is folded into its neighbours, which gives the same outputs in evaluation.

    Args:
        model: A VoV3D or X3D with its published middle convolution, or its state dict in any known format.
        to: `"slowfast"` or, for X3D, `"pytorchvideo"`.

    Returns:
        The tensors; `torch.save({"model_state": tensors}, file)` makes a file that both codebases load.

    Raises:
        ValueError: If the format has no names for the network, or the model is neither a network nor tensors by name.
        vov3d.WeightsError: If the tensors are not those of a network of this package.
    """
    if not isinstance(model, nn.Module | Mapping):
        raise ValueError(f"expected a network or its state dict, got {model!r:.80}; for a file use vov3d.convert")
    given = model.state_dict() if isinstance(model, nn.Module) else dict(model)
    found = _identified(given, type(model).__name__)
    family = next(family for family in families() if found.base in family.variants)
    conv = getattr(model, "model_args", found.model_args).get("conv", family.conv)
    _check_format(family, found, conv, to)
    return family.formats[to](family.filter_fn(dict(given), model))  # type: ignore[arg-type]


def _check_format(family: Family, found: Identity, conv: str, to: str) -> None:
    if to not in family.formats:
        known = ", ".join(sorted(family.formats))
        raise ValueError(f"format {to!r} has no {found.base}; it can be written as {known}")
    if conv != family.conv:
        raise ValueError(f"format {to!r} has no names for conv={conv!r}, only for {family.conv!r} of {found.base}")
