"""This package's models in timm's registry: names, tags, entry points, and `create_model`."""

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any

import timm
from timm.models import parse_model_name, split_model_name_tag
from torch import nn

from vov3d.models.saved import plain, read_saved
from vov3d.weights.config import resolve_cfg
from vov3d.weights.tasks import make_task

_PACKAGE = __name__.split(".")[0] + "."


def is_model(model_name: str) -> bool:
    """Returns whether a name is a model of this package.

    Args:
        model_name: Name, with or without a tag.
    """
    name = split_model_name_tag(model_name)[0]
    return timm.is_model(name) and timm.model_entrypoint(name).__module__.startswith(_PACKAGE)


def list_models(filter: str | Iterable[str] = "", pretrained: bool = False) -> list[str]:
    """Returns the names of this package's models, sorted.

    Args:
        filter: Wildcards, as in `"vov3d_*"`; all if empty.
        pretrained: Lists `model.tag` for each set of weights instead.
    """
    return [name for name in timm.list_models(filter, pretrained=pretrained) if is_model(name)]


def list_pretrained(filter: str | Iterable[str] = "") -> list[str]:
    """Returns the names `model.tag` of all published weights, sorted.

    Args:
        filter: Wildcards, as in `"vov3d_*"`; all if empty.
    """
    return list_models(filter, pretrained=True)


def model_entrypoint(model_name: str) -> Callable[..., nn.Module]:
    """Returns the function that builds a model.

    Args:
        model_name: Name, with or without a tag.

    Raises:
        ValueError: If this package has no such model.
    """
    _require_model(model_name)
    return timm.model_entrypoint(model_name)


def create_model(
    model_name: str,
    pretrained: bool = False,
    *,
    checkpoint_path: str | Path | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    task: str | None = None,
    heads: Mapping[str, int] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Creates a model, as `timm.create_model` does, from a name, a saved folder or the Hub.

    The network is used only if `pretrained` is set or the name begins with `hf-hub:`.

    Args:
        model_name: `"vov3d_m"`, `"vov3d_m.ssv2_f16"`, `"local-dir:folder"` or `"hf-hub:org/name"`.
        pretrained: Loads the weights of the tag, the folder or the repository.
        checkpoint_path: Loads this file instead, in any of the published formats or this package's. Unless
            `num_classes` is given, the model takes the file's number of classes.
        pretrained_cfg_overlay: Fields that replace those of the pretrained configuration.
        revision: Branch, tag or commit of the repository on the Hub. With a published tag, only its repository is
            then used.
        token: For repositories of the Hub that are not public; that of `hf auth login` if None.
        task: Meaning of the outputs: `"single"`, `"multilabel"`, `"regression"` or `"multihead"`. If None, that of
            the weights, and `"single"` for a new classifier.
        heads: For `"multihead"`: number of classes of each head by its name, such as `{"verb": 97, "noun": 300}`; the
            model has as many outputs as their sum.
        **kwargs: `num_classes`, `in_chans`, `global_pool`, `drop_rate`, `drop_path_rate`, `conv`,
            `features_only`, `out_indices`, `pretrained_cfg`, `cache_dir` (folder for downloads), and all arguments of
            the model.

    Returns:
        The model in train mode; with `features_only` a module that returns a list of feature maps.

    Raises:
        ValueError: If the name or a tag is not known, or an argument has a value that is not allowed.
        TypeError: If the model has no argument of that name.
        FileNotFoundError: If the checkpoint or the folder does not exist.
        vov3d.WeightsError: If weights cannot be found, read or fitted; nothing is loaded.
    """
    overlay = dict(pretrained_cfg_overlay or {})
    if task is not None or heads:
        if isinstance(heads, Mapping):
            heads = {name: plain(classes) for name, classes in heads.items()}
        found = make_task(task or "multihead", heads)
        overlay |= {"task": found.name, "heads": dict(found.heads) or None}
        if found.heads:
            kwargs.setdefault("num_classes", sum(classes for _, classes in found.heads))
    source, name = _parsed(model_name)
    if checkpoint_path:
        overlay["file"] = _file(checkpoint_path)
        overlay["source"] = None
        pretrained = True
    if revision is not None:
        if checkpoint_path or source == "local-dir":
            raise ValueError(f"revision={revision!r} has no effect on local files; leave it out")
        name = f"{name.partition('@')[0]}@{revision}" if source else name
        if not source:
            overlay["hf_hub_id"] = f"{_hub_id(name, overlay)}@{revision}"
    if source:
        saved = read_saved(source, name, kwargs.get("cache_dir"), token)
        _require_model(saved.architecture, model_name)
        if kwargs.get("pretrained_cfg"):
            raise ValueError(f"{model_name} has its own pretrained_cfg; give pretrained_cfg_overlay to change fields")
        given = {k: v for k, v in kwargs.items() if v is not None}
        kwargs = {**saved.model_args, **given, "pretrained_cfg": saved.pretrained_cfg}
        kwargs["pretrained_model_args"] = saved.model_args
        name = saved.architecture
    _require_model(name, model_name)
    if token is not None:
        kwargs["token"] = token
    model: Any = timm.create_model(name, pretrained, pretrained_cfg_overlay=overlay or None, **kwargs)
    getattr(model, "_model_args", {}).pop("token", None)  # timm keeps all arguments, and models may be pickled
    return model


def _file(checkpoint_path: Any) -> str:
    """Returns the name of a checkpoint's file."""
    if not isinstance(checkpoint_path, str | PathLike):
        raise ValueError(
            f"checkpoint_path is a {type(checkpoint_path).__name__}: give the name of a file; tensors are loaded by"
            " pretrained=True, pretrained_cfg_overlay={'state_dict': tensors}"
        )
    if re.match("https?://", str(checkpoint_path)):
        raise ValueError(
            f"checkpoint_path={checkpoint_path!r} is an address: download it and give the file, or use pretrained=True,"
            " pretrained_cfg_overlay={'url': address}"
        )
    return str(Path(checkpoint_path).expanduser())


def _parsed(model_name: str) -> tuple[str | None, str]:
    """Splits a name into its source, if any, and the rest."""
    if not isinstance(model_name, str):
        raise ValueError(
            f"model_name must be a name such as 'vov3d_m', or a folder as 'local-dir:FOLDER', got {model_name!r:.100}"
        )
    if "/" in model_name and not re.match(r"[\w-]{2,}:", model_name):
        missing = "" if Path(model_name).expanduser().is_dir() else ", and there is no such folder"
        raise ValueError(
            f"{model_name}: has no source prefix{missing}; use 'local-dir:{model_name}' for a folder, or"
            f" 'hf-hub:{model_name}' for a repository of the Hub"
        )
    source, name = parse_model_name(model_name)
    return source or None, name


def _hub_id(name: str, overlay: dict[str, Any]) -> str:
    """Returns the repository of a tag."""
    model, tag = split_model_name_tag(name)
    _require_model(model, name)
    return str(resolve_cfg(model, tag or None, overlay).hf_hub_id).partition("@")[0]


def _require_model(name: str, given: str = "") -> None:
    if is_model(name):
        return
    near = get_close_matches(name.lower(), list_models(), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"its models are {', '.join(list_models())}"
    where = f" (in {given})" if given not in ("", name) else ""
    raise ValueError(f"vov3d has no model {name!r}{where}; {hint}")
