"""Replaces whole blocks by others, all or none."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from vov3d.surgery.hooks import check_no_hooks
from vov3d.surgery.placing import check_takes_new_parameters
from vov3d.surgery.tracing import copied, with_own_state


def replace_blocks(
    model: nn.Module,
    blocks: Mapping[str, Callable[[nn.Module], nn.Module]],
    clip_shape: tuple[int, ...] | Sequence[tuple[int, ...]] = (1, 3, 8, 64, 64),
) -> list[str]:
    """Replaces blocks of a model, in place: bottlenecks by `D2plus1D`, chains of them by `TOSA`.

    A copy of the model is run on the meta device before and after, or with random numbers if its code needs values; if
    the output of a new block has another shape than that of the old one, the model is left unchanged.

    Args:
        model: Any module.
        blocks: Functions that make a new block from the old one, by wildcards for names, as in
            `{"blocks.4.res_blocks.*": lambda old: vov3d.D2plus1D(192, 432, 192)}`. The first that matches a name is
            used; modules inside a replaced block are not matched. A block of several names stays one at those that
            match.
        clip_shape: Shape `(B, C, T, H, W)` of an input that the model takes; a list of shapes if it takes a list of
            clips, as for SlowFast's two pathways.

    Returns:
        Names of the blocks that were replaced.

    Raises:
        ValueError: If a wildcard has no function or matches nothing, the model does not take `clip_shape`, an old block
            has hooks, a new one does not fit, or the model is wrapped for several processes.
    """
    _check(blocks, clip_shape)
    check_takes_new_parameters(model)
    found = _matches(model, blocks)
    for name in found:
        check_no_hooks(name, model.get_submodule(name))
    wanted, values = _wanted(model, list(found), clip_shape)
    old = {name: model.get_submodule(name) for name in found}
    new: dict[tuple[int, int], nn.Module] = {}
    try:
        for name, make in found.items():
            block = id(old[name]), id(make)
            if block not in new:  # a block of several names stays one
                new[block] = _made(name, make, old[name])
            model.set_submodule(name, new[block])
        given = _shapes(model, list(found), clip_shape, values)
    except Exception as e:
        _restore(model, old)
        raise ValueError(f"the model does not run with the new blocks, and is unchanged: {e}") from e
    wrong = [f"{name} gives {given[name]}, not {wanted[name]}" for name in found if given[name] != wanted[name]]
    if wrong:
        _restore(model, old)
        raise ValueError(f"new blocks do not fit, and the model is unchanged: {'; '.join(wrong)}")
    return list(found)


def _matches(model: nn.Module, blocks: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, _ in model.named_modules(remove_duplicate=False):
        inside = any(name.startswith(f"{outer}.") for outer in found)
        pattern = next((p for p in blocks if name and fnmatchcase(name, p)), None)
        if pattern is not None and not inside:
            found[name] = blocks[pattern]
    unused = [p for p in blocks if not any(fnmatchcase(name, p) for name in found)]
    if unused:
        names = ", ".join([name for name, _ in model.named_children()][:8])
        raise ValueError(f"no module is named {', '.join(map(repr, unused))}; the model's children are {names}")
    return found


def _check(blocks: Any, clip_shape: Any) -> None:
    """Raises ValueError unless blocks are functions by wildcards, and the shape is one."""
    if not isinstance(blocks, Mapping):
        raise ValueError(f"blocks must be a dictionary of functions by wildcards for names, got {blocks!r:.100}")
    for pattern, make in blocks.items():
        if isinstance(make, nn.Module) or not callable(make):
            raise ValueError(
                f"blocks[{pattern!r}] is a {type(make).__name__}: give a function that makes a new block from the old"
                " one, such as lambda old: vov3d.D2plus1D(24, 54, 24)"
            )
    if isinstance(clip_shape, torch.Tensor) or any(isinstance(size, torch.Tensor) for size in clip_shape):
        raise ValueError("clip_shape is the shape of an input, not the input itself: give clip.shape")


def _made(name: str, make: Callable[[nn.Module], nn.Module], old: nn.Module) -> nn.Module:
    """Makes a new block on the device and in the precision and the mode of the old one, which it may contain."""
    modes = {module: module.training for module in old.modules()}
    new: Any = make(old)
    if not isinstance(new, nn.Module):
        raise ValueError(f"the function for {name} gives {new!r:.100}, which is no module")
    parameter = next(old.parameters(), None)
    if parameter is not None:
        new = new.to(parameter.device, parameter.dtype)
    new.train(old.training)
    for module, training in modes.items():
        module.training = training
    return new


def _wanted(model: nn.Module, names: list[str], clip_shape: Any) -> tuple[dict[str, Any], bool]:
    """Returns the outputs of the old blocks, and whether the model's code needs values to compute them."""
    for values in (False, True):
        try:
            return _shapes(model, names, clip_shape, values), values
        except Exception as e:  # of any code: on meta perhaps since there are no values, which the second pass has
            error = e
    raise ValueError(f"the model does not run on clip_shape={clip_shape}: {error or type(error).__name__}") from error


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else value


def _shapes(model: nn.Module, names: list[str], clip_shape: Any, values: bool) -> dict[str, Any]:
    """Returns the output of each named block, with shapes for tensors.

    A copy of the model runs, since its code may keep what it computes.

    Args:
        model: The model.
        names: Names of the blocks.
        clip_shape: Shape of an input, or a list of them.
        values: Whether to compute with random numbers, not on the meta device, where tensors have no values.
    """
    tensors = {id(t): t for m in model.modules() for t in tree_leaves(dict(vars(m))) if isinstance(t, torch.Tensor)}
    floats = (t for t in (*model.parameters(), *tensors.values()) if t.is_floating_point())
    first = next(floats, torch.empty(0))
    device = first.device if values else torch.device("meta")
    model = with_own_state(model) if values else copied(model, {i: _on_meta(t) for i, t in tensors.items()}).eval()
    inputs: dict[str, Any] = {}
    shapes: dict[str, Any] = {}
    for name in names:
        block = model.get_submodule(name)
        block.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args}))
        block.register_forward_hook(lambda _, args, out, name=name: shapes.update({name: tree_map(_shape, out)}))
    several = not all(isinstance(size, int) for size in clip_shape)
    sizes = clip_shape if several else [clip_shape]
    clips = [first.new_empty(size, device=device) for size in sizes]
    if values:
        clips = [clip.normal_(generator=torch.Generator(device).manual_seed(0)) for clip in clips]
    try:
        with torch.no_grad(), nullcontext() if values else device:
            model(clips if several else clips[0])
    except Exception as e:
        failed = next((name for name in names if name in inputs and name not in shapes), None)
        if failed is None:
            raise
        given = ", ".join(str(tree_map(_shape, value)) for value in inputs[failed])
        raise ValueError(f"{failed} fails for an input of {given}: {e or type(e).__name__}") from e
    missing = [name for name in names if name not in shapes]
    if missing:
        raise ValueError(f"the model does not run {', '.join(missing)}")
    return shapes


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    empty = tensor.detach().to("meta")
    return nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty


def _restore(model: nn.Module, old: Mapping[str, nn.Module]) -> None:
    for name, module in old.items():
        model.set_submodule(name, module)
