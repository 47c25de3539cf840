"""Counts the cost of a network on the meta device: parameters, multiply-adds, activations, shapes.

Multiply-adds are those of convolutions and linear layers, as in the paper's Tables 2 and 8; activations are the
elements of the outputs of these layers.
"""

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vov3d.layers.checks import check_counts
from vov3d.models.registry import create_model


class Budget(NamedTuple):
    """Cost of a network for one clip, counted as in the paper.

    Attributes:
        params: Parameters.
        macs: Multiply-adds of convolutions, linear layers and matrix products.
        activations: Elements of the outputs of convolutions and linear layers.
        stages: Name and output shape `(C, T, H, W)` of stem and stages, in order; empty if they were not requested.
    """

    params: int
    macs: int
    activations: int
    stages: tuple[tuple[str, tuple[int, ...]], ...] = ()


def measure_budget(model_name: str, num_frames: int = 16, size: int = 224, **kwargs: Any) -> Budget:
    """Counts the cost of a model for one clip of `num_frames` frames of `size` x `size` pixels.

    Args:
        model_name: Name of a model, with or without a tag.
        num_frames: Frames of the clip.
        size: Height and width in pixels.
        **kwargs: Arguments of `create_model`, such as `conv` or `num_classes`.

    Raises:
        ValueError: If there is no such model or the clip is too small.
    """
    check_counts(num_frames=num_frames, size=size)
    model: Any = create_model(model_name, device="meta", **kwargs).eval()
    clip = torch.empty(1, model.in_chans, num_frames, size, size, device="meta")
    stages: dict[str, tuple[int, ...]] = {}
    modules = dict(model.named_modules())
    for info in model.feature_info:
        name = info["module"]
        # With features_only, timm renames the parts or keeps the network inside, and drops those that are not needed.
        part = next((modules[n] for n in (name, name.replace(".", "_"), f"model.{name}") if n in modules), None)
        if part is not None:
            part.register_forward_hook(
                lambda module, args, output, name=name: stages.update({name: tuple(output.shape[1:])})
            )
    return budget_of(model, clip)._replace(stages=tuple(stages.items()))


def budget_of(model: nn.Module, clip: torch.Tensor) -> Budget:
    """Counts any network by running it once on one clip `(1, C, T, H, W)`; on the meta device nothing is computed."""
    sizes: list[int] = []
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Conv3d | nn.Linear)]
    hooks = [m.register_forward_hook(lambda module, args, output: sizes.append(output.numel())) for m in layers]
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(clip)
    finally:
        for hook in hooks:
            hook.remove()
    params = sum(p.numel() for p in model.parameters())
    return Budget(params, counter.get_total_flops() // 2, sum(sizes))
