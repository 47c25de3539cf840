"""Checks that a network can be explained, and leaves it as it was found."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vov3d.models.network import VideoNetwork

_REASONS = {
    "OptimizedModel": "an optimized model keeps no gradients; explain the original",
    "ExportedModel": "an exported file runs outside PyTorch and gives no gradients; explain the model that it was"
    " made from",
    "ExportedStream": "an exported file runs outside PyTorch and gives no gradients; explain the model that it was"
    " made from",
    "StreamingNetwork": "a stream takes single frames and not clips; explain the model that it was made from",
}


def check_network(model: Any) -> VideoNetwork:
    """Returns the model if it can be explained.

    Raises:
        ValueError: If it is optimized, exported, a stream, no network of this package, or has no classes.
    """
    for kind in type(model).__mro__:
        if kind.__module__.startswith("vov3d.deploy") and kind.__name__ in _REASONS:
            raise ValueError(f"{type(model).__name__} cannot be explained: {_REASONS[kind.__name__]}")
    if not isinstance(model, VideoNetwork):
        raise ValueError(f"{type(model).__name__} cannot be explained: {_instead(model)}")
    if model.num_classes < 1:
        raise ValueError("the model has no classes (num_classes=0), so no output to explain: build it with some")
    if any(p.is_meta for p in model.parameters()):
        raise ValueError("the model is on the meta device and has no weights: create it on a real one")
    return model


def _instead(model: Any) -> str:
    """Returns what to give in place of another object."""
    inner = [name for name, part in model.named_modules() if isinstance(part, VideoNetwork)] if _is(model) else []
    if len(inner) == 1:
        return f"give the network inside it, model.get_submodule({inner[0]!r})"
    return "give a model of vov3d.create_model, with its classifier"


def _is(model: Any) -> bool:
    return isinstance(model, nn.Module)


@contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """Puts a model in eval mode without gradients of its parameters, and back to how it was."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, needed in wanted:
            parameter.requires_grad_(needed)


def place_of(model: nn.Module) -> dict[str, torch.device | torch.dtype]:
    """Returns device and precision of a network's parameters."""
    parameter = next(model.parameters())
    return {"device": parameter.device, "dtype": parameter.dtype}


def name_of(model: VideoNetwork) -> str:
    """Returns a model's name with its tag."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    return ".".join(filter(None, (cfg.get("architecture") or type(model).__name__, cfg.get("tag"))))
