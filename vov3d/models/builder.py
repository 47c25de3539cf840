"""Builds registered models through timm, with or without weights.

timm resolves arguments and wraps features. Weights are read and fitted here: timm's loader drops a 3-D stem that it
cannot adapt, and loads non-strictly as soon as the classifier differs.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from inspect import signature
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from timm.models import PretrainedCfg, build_model_with_cfg
from torch import nn

from vov3d.models.family import Family
from vov3d.models.identify import identify
from vov3d.models.network import VideoNetwork
from vov3d.models.saved import SOURCES, check_params, check_saved, own_arguments, plain, without_places
from vov3d.surgery.recipe import Recipe, follow_recipe
from vov3d.weights.config import forget_classifier, resolve_cfg, unnamed_protocol
from vov3d.weights.sources import fetch
from vov3d.weights.state_dict import CLASSIFIER, STEM, StateDict, WeightsError, differences, digest, load_weights, some
from vov3d.weights.tasks import task_of

# Arguments of one use of a model, which are not saved with it.
_NOT_SAVED = ("device", "dtype", "drop_rate", "drop_path_rate", "features_only", "out_indices", "feature_cls")


def build_video_model(
    family: Family,
    variant: str,
    pretrained: bool,
    model_args: Mapping[str, Any],
    *,
    pretrained_cfg: str | Mapping[str, Any] | PretrainedCfg | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    surgery: Recipe | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Builds a model of the registry; entry points call this.

    Args:
        family: The family that the variant belongs to.
        variant: Name of the model.
        pretrained: Loads weights.
        model_args: Arguments that make the variant; `kwargs` override them.
        pretrained_cfg: Tag, dictionary or configuration; the variant's default tag if None.
        pretrained_cfg_overlay: Fields that replace those of the configuration.
        cache_dir: Folder for downloads.
        token: For repositories of the Hub that are not public.
        surgery: Changes made to a saved model after it was built, in order.
        **kwargs: Arguments of the model, `features_only` and its companions.

    Raises:
        ValueError: If a tag, a field or an argument is not known or allowed.
        FileNotFoundError: If a weights file is missing.
        vov3d.WeightsError: If weights cannot be found, read or fitted.
    """
    _check_pretrained(variant, pretrained)
    saved_args = kwargs.pop("pretrained_model_args", {})  # those of a saved model, which are in kwargs too
    kwargs = {key: plain(value) for key, value in kwargs.items()}
    pretrained_cfg_overlay = {key: plain(value) for key, value in (pretrained_cfg_overlay or {}).items()}
    place = _place(pretrained_cfg)
    if place and isinstance(pretrained_cfg, Mapping):
        pretrained_cfg = _checked(place, family, pretrained_cfg, {**saved_args, **kwargs}, saved_args)
    cfg: Any = resolve_cfg(variant, pretrained_cfg, pretrained_cfg_overlay)
    # get_default_device() of PyTorch 2.6 does not know `with torch.device(...)`
    if pretrained and torch.device(kwargs.get("device") or torch.empty(0).device).type == "meta":
        raise ValueError("the meta device holds no weights; leave out pretrained, or use another device")
    to_published = partial(_to_published, family=family, model_args={**model_args, "num_classes": cfg.num_classes})
    weights = fetch(cfg, cache_dir, to_published, token) if pretrained else None
    # A file is described by its tensors, a folder or a repository by its config.json.
    from_file = bool(cfg.file) and cfg.source != "local-dir"
    adopt_classes = from_file and "num_classes" not in kwargs
    if from_file and weights and not pretrained_cfg and (tag := family.tag_of(weights[0])):
        cfg = resolve_cfg(variant, tag, pretrained_cfg_overlay)
    requested = _title(variant, kwargs.get("conv", family.conv), family)

    def construct(**model_kwargs: Any) -> nn.Module:
        # Weights are loaded before timm wraps the model for features_only.
        _check_known(variant, family, model_kwargs)
        if place:  # sizes come from a file: they are compared with the weights before memory is allocated
            try:
                skeleton = follow_recipe(family.model_cls(**{**model_kwargs, "device": "meta"}), surgery or [])
            except (TypeError, ValueError, RuntimeError) as e:
                raise ValueError(f"{place}: its config.json does not build a model: {e}") from e
            check_params(place, skeleton, weights[0] if weights else None)
        model = family.model_cls(**model_kwargs)
        if surgery:
            model = follow_recipe(model, surgery)
        if weights is not None:
            load_weights(
                model,
                *weights,
                filter_fn=family.filter_fn,
                adopt_classes=adopt_classes,
                headless=cfg.num_classes == 0,
                explain=partial(_explain, family=family, requested=requested),
            )
        return model

    if cfg.causal:
        kwargs.setdefault("causal", True)
    given = {k: v for k, v in kwargs.items() if k not in _NOT_SAVED}
    kwargs = {**model_args, **kwargs}
    if kwargs.get("features_only"):
        levels = _num_maps(family.model_cls, kwargs)
        kwargs.setdefault("out_indices", tuple(range(levels)))  # timm's default is five maps
        _check_levels(kwargs["out_indices"], levels)
    features = dict(flatten_sequential=True)
    model: Any = build_model_with_cfg(construct, variant, False, pretrained_cfg=cfg, feature_cfg=features, **kwargs)
    if not kwargs.get("features_only") and "pool_size" not in pretrained_cfg_overlay:
        _fit_window(model)
    if not hasattr(model, "in_chans"):  # of features_only; timm before 1.0.31 leaves it out
        model.in_chans = kwargs.get("in_chans", cfg.input_size[0])
    if surgery:
        given["surgery"] = surgery
    model.model_args = given  # what save_pretrained needs to build the model again
    # The configuration describes its own weights, not a file of another origin.
    described = weights is not None and (not from_file or pretrained_cfg is not None)
    model.weights_digest = digest(model) if described else None
    if not described:
        model.pretrained_cfg.pop("temperature", None)
    classes = getattr(model, "num_classes", cfg.num_classes)
    if classes not in (0, cfg.num_classes):
        forget_classifier(model.pretrained_cfg, keep=pretrained_cfg_overlay)
    _fit_task(model, pretrained_cfg_overlay)
    _check_names(model, pretrained_cfg_overlay.get("label_names"))
    if adopt_classes and classes != cfg.num_classes:
        # The default tag does not describe this file.
        for key in ("top1", "top5"):
            model.pretrained_cfg.pop(key, None)
        model.pretrained_cfg |= unnamed_protocol(model.num_classes)
    if isinstance(model, VideoNetwork):
        model.remember_names()
    return model


def _check_pretrained(variant: str, pretrained: Any) -> None:
    """Raises ValueError for text, which Python takes for True: a tag's name, a file, or the word false."""
    if isinstance(pretrained, str | Path):
        raise ValueError(
            f"pretrained={str(pretrained)!r} chooses no weights; give True or False, and name a tag in the model's name"
            f" ({variant + '.TAG'!r}) and a file as checkpoint_path=..."
        )


def _check_known(variant: str, family: Family, kwargs: Mapping[str, Any]) -> None:
    """Raises TypeError for arguments that the model does not have; those of a saved model were checked before."""
    own = own_arguments(family)
    if unknown := sorted(kwargs.keys() - own - {"device", "dtype"}):
        raise TypeError(f"{variant} has no argument {some(unknown)}; those of the model are {', '.join(sorted(own))}")


def _check_names(model: Any, names: Any) -> None:
    """Raises ValueError unless given class names are one for each class; a model without a head keeps any."""
    classes = getattr(model, "num_classes", None)
    if names is not None and classes and (isinstance(names, str) or len(names) != classes):
        raise ValueError(f"label_names must be {classes} names, one for each class, got {len(names)}: {names!r:.100}")


def _num_maps(model_cls: Any, kwargs: Mapping[str, Any]) -> int:
    """Returns the number of feature maps that a network has, those of its stem and of each stage."""
    known = signature(model_cls).parameters
    if "depths" in known:
        return 1 + len(kwargs.get("depths", known["depths"].default))
    given = {key: value for key, value in kwargs.items() if key in known}
    return len(model_cls(**{**given, "device": "meta"}).feature_info)


def _check_levels(out_indices: Any, levels: int) -> None:
    """Raises ValueError unless `out_indices` chooses among this many feature maps, as a number of them or a list."""
    several = not isinstance(out_indices, Integral) and isinstance(out_indices, Iterable)
    chosen = list(out_indices) if several else [out_indices]
    low, high = (-levels, levels - 1) if several else (1, levels)
    if not chosen or not all(isinstance(i, Integral) and low <= int(i) <= high for i in chosen):
        raise ValueError(
            f"out_indices={out_indices!r} does not choose among {levels} feature maps: give a list of numbers from 0 to"
            f" {levels - 1}, or from -1 to {-levels}; or one number, of maps from the last"
        )
    places = [int(i) % levels for i in chosen] if several else []
    if places != sorted({*places}):  # timm gives the maps in the network's order, each once
        raise ValueError(
            f"out_indices={out_indices!r} must rise, without repeats: maps come from the finest to the coarsest"
        )


def _place(pretrained_cfg: Any) -> str | None:
    """Returns the folder or the repository from which we or timm read a configuration."""
    if not isinstance(pretrained_cfg, Mapping) or pretrained_cfg.get("source") not in SOURCES:
        return None
    source = pretrained_cfg["source"]
    return f"{source}:{pretrained_cfg['file' if source == 'local-dir' else 'hf_hub_id']}"


def _checked(
    place: str, family: Family, cfg: Mapping[str, Any], args: Mapping[str, Any], saved_args: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns a checked saved configuration whose weights come only from the folder or repository it was read from."""
    own = "file" if cfg["source"] == "local-dir" else "hf_hub_id"
    kept = {key: cfg[key] for key in ("source", own)}
    fields = without_places(place, {k: v for k, v in cfg.items() if k not in kept})
    if unknown := saved_args.keys() - own_arguments(family) - {"surgery"}:
        raise ValueError(f"{place}: its model_args have {some(sorted(unknown))}, which no model of this package takes")
    check_saved(place, family, fields, args)
    return fields | kept


def _fit_window(model: Any) -> None:
    """Adapts the window of the weights to the larger map of the training crop if stages are dilated."""
    cfg, size = model.pretrained_cfg, model.pretrained_cfg["input_size"][1:]
    strides = 2 ** len(model.feature_info), model.feature_info[-1]["reduction"]
    published, own = (tuple(-(-pixels // stride) for pixels in size) for stride in strides)
    if tuple(cfg.get("pool_size") or ()) == published:
        cfg["pool_size"] = own


def _fit_task(model: Any, overlay: Mapping[str, Any]) -> None:
    """Sets the task that the caller asks for; a new classifier does not keep the task of the weights."""
    cfg, outputs = model.pretrained_cfg, getattr(model, "num_classes", None)
    if outputs is None:  # feature maps
        return
    if overlay.get("task") not in (None, "single"):
        cfg["num_classes"] = outputs
    elif cfg.get("task") == "single" or cfg.get("num_classes") != outputs:
        cfg.pop("task", None)
        cfg.pop("heads", None)
    task_of(model)


def _to_published(state_dict: StateDict, family: Family, model_args: Mapping[str, Any]) -> StateDict:
    """Renames the tensors of a published file to those of its model; raises an error unless they are exactly those."""
    model = family.model_cls(**model_args, device="meta")
    state = family.filter_fn(dict(state_dict), model)
    if problems := differences(model, state):
        raise WeightsError(f"does not hold this tag's network: {'; '.join(problems)}")
    return state


def _fits(state_dict: StateDict, model: nn.Module, family: Family) -> bool:
    own, given = model.state_dict(), family.filter_fn(dict(state_dict), model)
    names = (own.keys() | given.keys()) - {STEM, *CLASSIFIER}
    return all(k in own and k in given and own[k].shape == given[k].shape for k in names)


def _title(variant: str, conv: str, family: Family) -> str:
    return variant if conv == family.conv else f"{variant}(conv={conv!r})"


def _explain(state_dict: StateDict, model: nn.Module, family: Family, requested: str) -> str | None:
    if _fits(state_dict, model, family):
        return None  # the requested architecture; only stem or classifier differ
    found = identify(state_dict)
    if found and requested in (found.title, *(() if found.model_args else found.variants)):
        wanted = identify(model.state_dict())  # the request differs in other arguments than its name says
        requested = wanted.title if wanted else requested
    return f"this file holds {found}, not {requested}" if found else None
