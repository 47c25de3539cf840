"""The stem of X3D (https://arxiv.org/abs/2004.04730) and VoV3D: space first, then time, no pooling."""

from typing import Any

import torch
import torch.fx
from torch import nn

from vov3d.layers.causal import CausalPad3d
from vov3d.layers.checks import check_counts, check_flags
from vov3d.layers.conv import conv3d, keeps_layout, refuse_scripting
from vov3d.layers.norm_act import LayerType, create_act, create_norm


def check_numbers(x: torch.Tensor) -> None:
    """Raises TypeError unless `x` is a tensor, and ValueError if it holds whole numbers, such as bytes of pictures."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"expected a clip as a torch.Tensor, got {type(x).__name__}")
    if not (x.is_floating_point() or x.is_complex() or x.is_quantized):
        raise ValueError(
            f"expected a clip of floating-point numbers, normalised as the model wants them, got {x.dtype};"
            " vov3d.video.eval_transform makes it of pictures"
        )


def check_clip(x: torch.Tensor, in_chans: int, min_size: int) -> None:
    """Raises ValueError unless `x` is a clip of `in_chans` channels, its frames at least `min_size` pixels a side."""
    check_numbers(x)
    if x.ndim != 5:
        raise ValueError(f"expected a clip (B, C, T, H, W), got {x.ndim} dimensions of sizes {tuple(x.shape)}")
    if x.shape[1] != in_chans:
        raise ValueError(f"expected {in_chans} channels in (B, C, T, H, W), got {x.shape[1]} in {tuple(x.shape)}")
    if x.shape[2] < 1:
        raise ValueError(f"expected a clip (B, C, T, H, W) with at least one frame, got sizes {tuple(x.shape)}")
    if x.shape[3] < min_size or x.shape[4] < min_size:
        raise ValueError(
            f"the strides need clips of at least {min_size}x{min_size} pixels, got {x.shape[3]}x{x.shape[4]};"
            " enlarge the clip"
        )


torch.fx.wrap("check_clip")  # symbolic tracing cannot follow its branches


class Stem3d(nn.Module):
    """1x3x3 conv with stride (1, 2, 2) -> depthwise 5x1x1 conv -> BN -> ReLU.

    Args:
        in_chans: Channels of the clip.
        out_chs: Channels of the output.
        temporal_kernel_size: Temporal kernel size, odd.
        act_layer: Activation, a timm name or a class.
        norm_layer: Norm, a name or a class.
        min_size: Smallest height and width that the network after the stem takes.
        causal: Each output frame depends on no later frame: the temporal convolution is padded before the clip only.
        device: Device of the parameters.
        dtype: Floating type of the parameters.

    Shape:
        `(B, in_chans, T, H, W)` to `(B, out_chs, T, ceil(H / 2), ceil(W / 2))`.

    Raises:
        ValueError: If channels are not whole numbers of at least 1.
    """

    def __init__(
        self,
        in_chans: int,
        out_chs: int,
        temporal_kernel_size: int = 5,
        act_layer: LayerType = "relu",
        norm_layer: LayerType = "batchnorm3d",
        min_size: int = 2,
        causal: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_counts(in_chans=in_chans, out_chs=out_chs)
        check_flags(causal=causal)
        self.in_chans = in_chans
        self.min_size = min_size
        self.conv_s = conv3d(in_chans, out_chs, (1, 3), stride=2, **dd)
        self.conv_t = conv3d(out_chs, out_chs, (temporal_kernel_size, 1), groups=out_chs, **dd)
        self.pad = CausalPad3d.before(self.conv_t) if causal else nn.Identity()
        self.bn = create_norm(norm_layer, out_chs, **dd)
        self.act = create_act(act_layer)

    __prepare_scriptable__ = refuse_scripting

    @keeps_layout
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Halves height and width.

        Raises:
            ValueError: If the clip has another number of dimensions or channels, no frames, or is too small.
        """
        check_clip(x, self.in_chans, self.min_size)
        return self.act(self.bn(self.conv_t(self.pad(self.conv_s(x)))))
