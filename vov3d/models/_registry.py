"""timm's registry, seen through our own models: names, tags, entry points, and `create_model`."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
from timm.models import load_model_config_from_hf, parse_model_name, split_model_name_tag
from timm.models._hub import load_model_config_from_path
from torch import nn

from vov3d.models._hub import HUB_ERRORS, hub_error, require_answer

_PACKAGE = __name__.split(".")[0] + "."


def is_model(model_name: str) -> bool:
    """Whether a name is a model of this package.

    Args:
        model_name: Name, with or without a tag.
    """
    name = split_model_name_tag(model_name)[0]
    return timm.is_model(name) and timm.model_entrypoint(name).__module__.startswith(_PACKAGE)


def list_models(filter: str | Iterable[str] = "", pretrained: bool = False) -> list[str]:
    """Names of this package's models, sorted.

    Args:
        filter: Wildcards, as in `"vov3d_*"`; all if empty.
        pretrained: Lists `model.tag` for each set of weights instead.
    """
    return [name for name in timm.list_models(filter, pretrained=pretrained) if is_model(name)]


def list_pretrained(filter: str | Iterable[str] = "") -> list[str]:
    """Names `model.tag` of all published weights, sorted.

    Args:
        filter: Wildcards, as in `"vov3d_*"`; all if empty.
    """
    return list_models(filter, pretrained=True)


def model_entrypoint(model_name: str) -> Callable[..., nn.Module]:
    """The function that builds a model.

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
    **kwargs: Any,
) -> nn.Module:
    """Creates a model, as `timm.create_model` does, from a name, a saved folder or the Hub.

    Nothing is looked up on the network unless `pretrained` is set or the name begins with `hf-hub:`.

    Args:
        model_name: `"vov3d_m"`, `"vov3d_m.ssv2_f16"`, `"local-dir:folder"` or `"hf-hub:org/name"`.
        pretrained: Loads the weights of the tag, the folder or the repository.
        checkpoint_path: Loads this file instead, in any of the published formats or our own. Unless
            `num_classes` is given, the model takes the file's number of classes.
        pretrained_cfg_overlay: Fields that replace those of the pretrained configuration.
        **kwargs: `num_classes`, `in_chans`, `global_pool`, `drop_rate`, `drop_path_rate`, `conv`,
            `features_only`, `out_indices`, `pretrained_cfg`, `cache_dir`, and all arguments of the model.

    Returns:
        The model in train mode; with `features_only` a module that returns a list of feature maps.

    Raises:
        ValueError: If the name, a tag or an argument is not known or allowed.
        FileNotFoundError: If the checkpoint or the folder is not there.
        vov3d.WeightsError: If weights cannot be had, read or fitted; nothing is loaded then.
    """
    overlay = dict(pretrained_cfg_overlay or {})
    if checkpoint_path:
        overlay["file"] = str(checkpoint_path)
        overlay["source"] = None
        pretrained = True
    _check_name(model_name, kwargs.get("cache_dir"))
    return timm.create_model(model_name, pretrained, pretrained_cfg_overlay=overlay or None, **kwargs)


def _check_name(model_name: str, cache_dir: str | Path | None) -> None:
    """Raises unless the name, or the configuration that it leads to, is of a model of this package."""
    source, name = parse_model_name(model_name)
    if not source and name != model_name:  # older timm drops what stands before the last slash
        raise ValueError(f"{model_name!r} has no source prefix; use 'hf-hub:{model_name}' or 'local-dir:{model_name}'")
    try:
        if source == "hf-hub":
            repo, _, revision = name.partition("@")
            require_answer(repo, "config.json", revision or None, cache_dir)
            name = load_model_config_from_hf(name, cache_dir=cache_dir)[1]
        elif source == "local-dir":
            name = load_model_config_from_path(name)[1]
    except (KeyError, TypeError, ValueError) as e:
        raise ValueError(f"{model_name}: its config.json does not describe a model ({e!r})") from e
    except HUB_ERRORS as e:
        if source != "hf-hub":
            raise
        raise hub_error(name, e) from e
    _require_model(name, model_name)


def _require_model(name: str, given: str = "") -> None:
    if is_model(name):
        return
    near = get_close_matches(name, list_models(), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"its models are {', '.join(list_models())}"
    where = f" (in {given})" if given not in ("", name) else ""
    raise ValueError(f"vov3d has no model {name!r}{where}; {hint}")
