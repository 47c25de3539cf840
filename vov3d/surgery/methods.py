"""Finds methods that were set on modules, in place of those of their classes."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from vov3d.layers.conv import FastForm

# Tools that leave hooks and methods on models. Those of torch.nn.utils are seen by the tensors that they add; the
# others convert, move or watch values and leave the outputs as they are.
_TOOLS = ("accelerate.", "deepspeed.", "torch.distributed.", "torch.nn.utils.", "wandb.")


def is_of_tool(code: Any) -> bool:
    """Returns whether a hook, or what took the place of a method, is code of such a tool."""
    while isinstance(code, functools.partial):
        code = code.func
    code = getattr(code, "__func__", code)
    origin = code.__module__ if inspect.isfunction(code) else type(code).__module__
    return f"{origin}.".startswith(_TOOLS)


def set_methods(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yields the methods that modules of a model have in place of those of their classes.

    Yields:
        Name of the module and of the method, as in `"stages.1", "forward"`.
    """
    for place, module in model.named_modules():
        for name, value in vars(module).items():
            method = getattr(type(module), name, None)
            if inspect.isfunction(method) and type(value) is not FastForm and not _runs(module, value, method):
                yield place, name


def _runs(module: nn.Module, value: Any, method: Callable[..., Any]) -> bool:
    """Returns whether a callable is a method, bound, compiled or wrapped by a tool."""
    hooked = is_of_tool(getattr(module, "_hf_hook", None))  # of Accelerate, for parts on several devices
    wrapped = hooked or is_of_tool(value) or hasattr(value, "_torchdynamo_orig_callable")
    while (code := getattr(value, "__func__", value)) is not method:
        if not wrapped or not hasattr(code, "__wrapped__"):
            return False
        value = code.__wrapped__
    return True
