"""T-OSA, temporal one-shot aggregation: features of growing temporal receptive field, aggregated once.

Paper: https://arxiv.org/abs/2012.00317, section III.B, Figure 1. Five bottlenecks run in series; the outputs of all
of them, and the block's input if nothing is strided, are concatenated and mixed by one 1x1x1 convolution.
"""

from typing import Any

import torch
from timm.layers import DropPath
from torch import nn

from vov3d.layers.bottleneck import D2plus1D
from vov3d.layers.checks import check_counts, check_flags, check_rate
from vov3d.layers.conv import ConvNormAct3d, conv3d, keeps_layout, refuse_scripting
from vov3d.layers.norm_act import LayerType, create_act, create_norm, start_at_zero


class TOSA(nn.Module):
    """Bottlenecks in series -> concatenate -> 1x1x1 conv, BN -> plus the shortcut -> ReLU.

    `TOSA(24, 48, 40, stride=2)(x)`. Source: https://arxiv.org/abs/2012.00317, section III.B, Figure 1.

    Args:
        in_chs: Channels of the input.
        mid_chs: Middle channels of each bottleneck, even; each outputs half as many.
        out_chs: Channels of the output.
        num_blocks: Bottlenecks in series.
        stride: Spatial stride, of the first bottleneck; time is never strided.
        conv: Middle convolution, one of `vov3d.layers.MIDDLE_CONVS`.
        se_every_other: Squeeze-and-excitation in the 1st, 3rd, 5th ... bottleneck only, else in all.
        drop_path: Rate of stochastic depth on the aggregated branch.
        kernel_size: Spatial size of the middle convolutions, odd.
        temporal_kernel_size: Temporal size of the middle convolutions, odd.
        se_ratio: Width of squeeze-and-excitation relative to `mid_chs`; 0 for none.
        act_layer: Activation of the 1x1x1 convolutions and of the sums.
        mid_act_layer: Activation after the middle convolutions.
        norm_layer: Norm, a name or a class.
        zero_init_last: Starts the aggregation's norm at zero, so that the block starts as its shortcut.
        causal: Each output frame depends on no later frame, as in `D2plus1D`.
        device: Device of the parameters.
        dtype: Floating type of the parameters.

    Shape:
        `(B, in_chs, T, H, W)` to `(B, out_chs, T, ceil(H / stride), ceil(W / stride))`.

    Raises:
        ValueError: If `mid_chs` is odd, `conv` or a layer's name unknown, channels, `num_blocks`, a size, the stride or
            a rate not one number that is allowed, or the norm has no weight to start at zero.
    """

    def __init__(
        self,
        in_chs: int,
        mid_chs: int,
        out_chs: int,
        num_blocks: int = 5,
        stride: int = 1,
        conv: str = "d2plus1d",
        se_every_other: bool = True,
        drop_path: float = 0.0,
        kernel_size: int = 3,
        temporal_kernel_size: int = 3,
        se_ratio: float = 1 / 16,
        act_layer: LayerType = "relu",
        mid_act_layer: LayerType = "silu",
        norm_layer: LayerType = "batchnorm3d",
        zero_init_last: bool = True,
        causal: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        check_counts(in_chs=in_chs, mid_chs=mid_chs, out_chs=out_chs, num_blocks=num_blocks)
        check_rate("drop_path", drop_path or 0)
        check_flags(se_every_other=se_every_other, zero_init_last=zero_init_last, causal=causal)
        if mid_chs % 2:
            raise ValueError(f"mid_chs must be even, since each bottleneck outputs half of it, got {mid_chs}")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        layer_chs = mid_chs // 2
        self.layers = nn.ModuleList(
            D2plus1D(
                layer_chs if i else in_chs,
                mid_chs,
                layer_chs,
                stride=1 if i else stride,
                kernel_size=kernel_size,
                temporal_kernel_size=temporal_kernel_size,
                se_ratio=0 if se_every_other and i % 2 else se_ratio,
                conv=conv,
                act_layer=act_layer,
                mid_act_layer=mid_act_layer,
                norm_layer=norm_layer,
                causal=causal,
                **dd,
            )
            for i in range(num_blocks)
        )
        self.aggregates_input = stride == 1
        agg_chs = num_blocks * layer_chs + (in_chs if self.aggregates_input else 0)
        self.conv_agg = conv3d(agg_chs, out_chs, (1, 1), **dd)
        self.bn_agg = create_norm(norm_layer, out_chs, **dd)
        if zero_init_last:
            start_at_zero(self.bn_agg)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_chs != out_chs:
            self.shortcut = ConvNormAct3d(in_chs, out_chs, stride=stride, norm_layer=norm_layer, act_layer=None, **dd)
        self.act = create_act(act_layer)

    def temporal_receptive_fields(self) -> list[int]:
        """Returns the temporal receptive field of each concatenated feature, in frames, in concatenation order.

        Figure 1: 1 (the input, if it is aggregated), 3, 5, 7, 9, 11 for temporal kernels of 3. Squeeze-and-
        excitation, which pools over the whole clip, is not counted.
        """
        fields, seen = ([1] if self.aggregates_input else []), 1
        for layer in self.layers:
            seen += sum(m.kernel_size[0] - 1 for m in layer.modules() if isinstance(m, nn.Conv3d))
            fields.append(seen)
        return fields

    __prepare_scriptable__ = refuse_scripting

    @keeps_layout
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the block."""
        shortcut = self.shortcut(x)
        features = [x] if self.aggregates_input else []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        x = self.bn_agg(self.conv_agg(torch.cat(features, 1)))
        return self.act(self.drop_path(x) + shortcut)
