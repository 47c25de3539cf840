"""Causal layers: each frame of the output depends only on that frame of the clip and those before it.

Convolutions are padded at the beginning only, and squeeze-and-excitation and pooling average over the frames so far.
Parameters keep their names and shapes, so that training can start from weights of a usual network.
"""

import torch
import torch.fx
import torch.nn.functional as F
from torch import nn

from vov3d.layers.squeeze_excite import SqueezeExcite3d


class CausalPad3d(nn.Module):
    """Pads a clip with frames of zeros at the beginning, as many as a temporal convolution needs.

    Args:
        frames: Number of frames.

    Shape:
        `(B, C, T, H, W)` to `(B, C, frames + T, H, W)`.
    """

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    @classmethod
    def before(cls, conv: nn.Conv3d) -> "CausalPad3d":
        """Returns the padding for a temporal convolution, and removes the convolution's own padding in time."""
        assert not isinstance(conv.padding, str)
        conv.padding = (0, *conv.padding[1:])
        return cls(conv.kernel_size[0] - 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pads a clip."""
        return F.pad(x, (0, 0, 0, 0, self.frames, 0))

    def extra_repr(self) -> str:
        """Returns the number of frames for `repr`."""
        return str(self.frames)


@torch.fx.wrap  # the number of frames is unknown in symbolic tracing
def running_mean(x: torch.Tensor) -> torch.Tensor:
    """Averages over the frames so far and all positions, from `(B, C, T, H, W)` to `(B, C, T, 1, 1)`."""
    counts = torch.arange(1, x.shape[2] + 1, device=x.device).to(x.dtype)
    return x.mean((3, 4), keepdim=True).cumsum(2) / counts.view(-1, 1, 1)


class CausalSqueezeExcite3d(SqueezeExcite3d):
    """Squeeze-and-excitation whose gate is computed for each frame, from the mean over the frames so far.

    Shape:
        `(B, C, T, H, W)` to the same.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gates the channels of each frame."""
        return x * self.fc2(self.act(self.fc1(running_mean(x)))).sigmoid()
