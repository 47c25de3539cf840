"""Measures of trained networks: how odd in time their kernels are, and which features T-OSA reads."""

from typing import Any

import torch
from torch import nn

import vov3d


@torch.no_grad()
def odd_in_time(model: nn.Module) -> list[float]:
    """Returns, per stage, the share of the middle convolutions' energy that is odd in time.

    The odd part changes its sign when time runs backwards. Only it depends on the direction of a motion; it is a third
    in random kernels of three frames.
    """
    found = []
    for stage in model.get_submodule("stages").children():
        odd = total = 0.0
        for module in stage.modules():
            if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1:
                weight = module.weight
                odd += float((weight - weight.flip(2)).square().sum()) / 4
                total += float(weight.square().sum())
        found.append(round(odd / total, 4))
    return found


@torch.inference_mode()
def aggregated_shares(model: nn.Module, clips: torch.Tensor) -> dict[int, float]:
    """Returns the share that features of each temporal receptive field have in the outputs of T-OSA's aggregations.

    The part of a source is the variance that it contributes to the outputs, over clips and places; shares of a module
    add up to 1 and are averaged over modules that have that source.

    Args:
        model: The network; without T-OSA the answer is empty.
        clips: Clips `(B, 3, T, H, W)`.
    """
    shares: dict[int, list[float]] = {}

    def read(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        fields, conv = module.temporal_receptive_fields(), module.conv_agg
        width = module.layers[0].conv_pwl.out_channels
        widths = [conv.in_channels - width * len(module.layers), *[width] * len(module.layers)][-len(fields) :]
        parts = []
        for x, weight in zip(inputs[0].split(widths, 1), conv.weight.flatten(1).split(widths, 1), strict=True):
            out = torch.einsum("bcthw,oc->bothw", x, weight)
            parts.append(float(out.var((0, 2, 3, 4)).sum()))
        for field, part in zip(fields, parts, strict=True):
            shares.setdefault(field, []).append(part / sum(parts))

    hooks = [
        module.conv_agg.register_forward_pre_hook(lambda _, inputs, tosa=module: read(tosa, inputs))
        for module in model.modules()
        if isinstance(module, vov3d.TOSA)
    ]
    try:
        model.eval()(clips)
    finally:
        for hook in hooks:
            hook.remove()
    return {field: round(sum(parts) / len(parts), 4) for field, parts in sorted(shares.items())}
