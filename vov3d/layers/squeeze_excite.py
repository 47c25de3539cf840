"""Squeeze-and-excitation on clips (https://arxiv.org/abs/1709.01507), pooled over time as well as space.

Width: timm's `make_divisible(chs * ratio, 8)`, never more than 10% below `chs * ratio`; the two 1x1x1
convolutions keep their biases. timm's module is 2-D and rounds differently.
"""

import torch
from timm.layers import make_divisible
from torch import nn

from vov3d.layers.checks import check_counts, check_positive


class SqueezeExcite3d(nn.Module):
    """Scales each channel by a gate computed from its mean over the whole clip.

    Source: https://arxiv.org/abs/1709.01507; time is pooled as well as space.

    Args:
        chs: Channels in and out.
        se_ratio: Width of the squeezed layer relative to `chs`.
        device: Device of the parameters.
        dtype: Floating type of the parameters.

    Shape:
        `(B, C, T, H, W)` to the same.

    Raises:
        ValueError: If `chs` is not a whole number of at least 1, or `se_ratio` not a positive number.
    """

    def __init__(self, chs: int, se_ratio: float = 1 / 16, device=None, dtype=None) -> None:
        super().__init__()
        check_counts(chs=chs)
        check_positive("se_ratio", se_ratio, "leave the module out for none")
        mid_chs = make_divisible(chs * se_ratio, 8)
        self.fc1 = nn.Conv3d(chs, mid_chs, 1, device=device, dtype=dtype)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv3d(mid_chs, chs, 1, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gates the channels."""
        gate = x.mean((2, 3, 4), keepdim=True)
        return x * self.fc2(self.act(self.fc1(gate))).sigmoid()
