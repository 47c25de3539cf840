"""Compares a network, module by module on the meta device, with the one that its configuration builds."""

import warnings
from typing import Any

import torch
from timm.layers import DropPath
from torch import nn

from vov3d.surgery.kinds import is_batch_norm, is_only
from vov3d.surgery.methods import is_of_tool, set_methods
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
    "on the instance": "del module.forward, or the method that is named",
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
    if problems := [*_other_modules(model, again), *_other_tensors(model, again), *_set_methods(model)]:
        text = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        signs = " ".join((*problems, *model.state_dict())).lower()
        cures = [cure for sign, cure in _CURES.items() if sign in signs]
        cure = f"undo it first ({'; '.join(cures)})" if cures else "undo it"
        raise ValueError(
            f"cannot save this {type(model).__name__}: it is no longer what its configuration builds, and would not"
            f" load as it is: {text}. Either {cure}, or keep its tensors with torch.save(model.state_dict(), file) and"
            " load them after making the same changes to a new model"
        )
    if hooked := _hooked(model):
        warnings.warn(
            f"saved without the forward hooks of {', '.join(hooked[:3])}{', ...' if len(hooked) > 3 else ''}: if they"
            " change values, the loaded model gives other outputs",
            stacklevel=2,
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
    own, others = (dict(network.named_modules(remove_duplicate=False)) for network in (model, wanted))
    problems: dict[str, str] = {}
    for name in [*others, *(name for name in own if name not in others)]:
        have, want = own.get(name), others.get(name)
        if any(name.startswith(f"{outer}.") for outer in problems) or _is_dropped(name, own, others):
            continue  # a difference of its parent is reported already
        if have is None or want is None:
            problems[name] = f"{name} was {'removed' if have is None else f'added, a {type(have).__name__}'}"
        elif _kind(have) != _kind(want):
            own_parts = " with tensors or code of its own" if _title(have) == _title(want) else ""
            problems[name] = f"{name} is a {_title(have)}{own_parts}, not a {_title(want)}"
        elif _settings(have) != _settings(want):
            problems[name] = f"{name} has other settings ({have.extra_repr()}; not {want.extra_repr()})"
        elif isinstance(want, nn.Sequential | nn.ModuleList) and (order := _other_order(have, want)):
            problems[name] = f"{name} runs its layers in the order {', '.join(order)}"
    return list(problems.values())


def _other_order(have: nn.Module, want: nn.Module) -> list[str]:
    """Returns the names of the layers of a series in their order, if it is not the one that is wanted."""
    own, others = ([name for name, _ in series.named_children()] for series in (have, want))
    differs = [name for name in own if name in others] != [name for name in others if name in own]
    return own if differs else []


def _title(module: nn.Module) -> str:
    known = type(module).__module__.startswith(("torch.nn.modules", "vov3d.", "timm."))
    return type(module).__qualname__ if known else f"{type(module).__module__}.{type(module).__qualname__}"


def _is_dropped(name: str, own: dict[str, nn.Module], others: dict[str, nn.Module]) -> bool:
    """Returns whether one of two networks has no such attribute, and the layer of the other does nothing in evaluation.

    A None in place of a layer is no such case: of a shortcut, it adds nothing, where an Identity adds the input.
    """
    have, want = own.get(name), others.get(name)
    outer, _, last = name.rpartition(".")
    if have is None:
        return want is not None and _kind(want) == "Identity" and not hasattr(own.get(outer), last)
    return want is None and _kind(have) == "Identity" and not hasattr(others.get(outer), last)


def _set_methods(model: nn.Module) -> list[str]:
    """Returns which methods were set on modules of a network; a file holds only those of their classes."""
    return [f"{name or 'the model'} has a {method} that was set on the instance" for name, method in set_methods(model)]


def _hooked(model: nn.Module) -> list[str]:
    """Returns the modules with forward hooks, which may change values or only watch them, but for those of tools."""
    return [
        name or "the model"
        for name, module in model.named_modules()
        if not all(map(is_of_tool, [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]))
    ]


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
