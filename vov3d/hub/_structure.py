"""Compares a network, module by module on the meta device, with the one that its configuration builds."""

from typing import Any

import torch
from timm.layers import DropPath
from torch import nn

from vov3d.surgery.kinds import is_batch_norm, is_only
from vov3d.surgery.recipe import Recipe, follow_recipe, read_recipe
from vov3d.surgery.statistics import FrozenBatchNorm

# Layers of one kind give the same outputs in evaluation, given the same tensors.
_KINDS: dict[type[nn.Module], str] = {
    nn.Identity: "Identity",
    nn.Dropout: "Identity",
    DropPath: "Identity",
}

# Traces of changes in the names of tensors or types, and how to undo the changes.
_CURES = {
    "parametri": "torch.nn.utils.parametrize.remove_parametrizations",
    "weight_orig": "torch.nn.utils.prune.remove, or torch.nn.utils.remove_spectral_norm",
    "weight_g": "torch.nn.utils.remove_weight_norm",
    "lora": "merge_and_unload() of the PEFT model",
}


def recipe_of(model: nn.Module, fresh: nn.Module) -> Recipe:
    """Returns the surgery that turns the network built from a model's arguments into the model.

    Args:
        model: The network.
        fresh: The network built from its arguments, on the meta device; it is changed.

    Raises:
        ValueError: If the network differs by more than such surgery; names the place, and what to do.
    """
    recipe = read_recipe(model, fresh)
    again = follow_recipe(fresh, recipe) if recipe else fresh
    if problems := [*_other_modules(model, again), *_other_tensors(model, again)]:
        text = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        signs = " ".join((*problems, *model.state_dict())).lower()
        cures = [cure for sign, cure in _CURES.items() if sign in signs]
        cure = f"undo it first ({'; '.join(cures)})" if cures else "undo it"
        raise ValueError(
            f"cannot save this {type(model).__name__}: it is no longer what its configuration builds, and would not"
            f" load: {text}. Either {cure}, or keep its tensors with torch.save(model.state_dict(), file) and load them"
            " after making the same changes to a new model"
        )
    return recipe


def _kind(module: nn.Module) -> str | type[nn.Module]:
    if is_batch_norm(module) or type(module) is FrozenBatchNorm:
        return "BatchNorm3d"
    if is_only(module, nn.Conv3d):
        return "Conv3d"
    return _KINDS.get(type(module), type(module))


def _settings(module: nn.Module) -> Any:
    """Returns the settings of a layer that affect its outputs."""
    if isinstance(module, nn.Conv3d):
        padding = module.padding if isinstance(module.padding, str) else tuple(module.padding)
        return module.kernel_size, module.stride, padding, module.dilation, module.groups, module.padding_mode
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return module.num_features, module.eps, module.affine, module.track_running_stats
    if _kind(module) == "Identity" or next(module.children(), None) is not None:
        return None
    return module.extra_repr().replace("inplace=True", "").replace("inplace=False", "")


def _other_modules(model: nn.Module, wanted: nn.Module) -> list[str]:
    own, others = dict(model.named_modules()), dict(wanted.named_modules())
    problems: dict[str, str] = {}
    for name in [*others, *(name for name in own if name not in others)]:
        have, want = own.get(name), others.get(name)
        if any(name.startswith(f"{outer}.") for outer in problems) or _is_dropped(have, want):
            continue  # a difference of its parent is reported already
        if have is None or want is None:
            problems[name] = f"{name} was {'removed' if have is None else f'added, a {type(have).__name__}'}"
        elif _kind(have) != _kind(want):
            problems[name] = f"{name} is a {_title(have)}, not a {_title(want)}"
        elif _settings(have) != _settings(want):
            problems[name] = f"{name} has other settings ({have.extra_repr()}; not {want.extra_repr()})"
    return list(problems.values())


def _title(module: nn.Module) -> str:
    known = type(module).__module__.startswith(("torch.nn.modules", "vov3d.", "timm."))
    return type(module).__qualname__ if known else f"{type(module).__module__}.{type(module).__qualname__}"


def _is_dropped(have: nn.Module | None, want: nn.Module | None) -> bool:
    """Returns whether one of the two is missing and the other does nothing in evaluation."""
    there = have if want is None else want if have is None else None
    return there is not None and _kind(there) == "Identity"


def _other_tensors(model: nn.Module, wanted: nn.Module) -> list[str]:
    own, others = model.state_dict(), wanted.state_dict()
    problems = []
    for name in [*others, *(name for name in own if name not in others)]:
        have, want = own.get(name), others.get(name)
        if not isinstance(have, torch.Tensor) or want is None:
            problems.append(f"the tensor {name} {'is new' if have is not None else 'is missing'}")
        elif have.shape != want.shape:
            problems.append(f"{name} is {tuple(have.shape)}, not {tuple(want.shape)}")
        elif have.dtype != want.dtype:
            problems.append(f"{name} is {have.dtype}, not {want.dtype}; call model.float()")
        elif have.is_meta:
            problems.append(f"{name} is on the meta device, which holds no weights")
    return problems
