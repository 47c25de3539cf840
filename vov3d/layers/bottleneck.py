"""D(2+1)D and its siblings: the bottlenecks of VoV3D and X3D.

Paper: https://arxiv.org/abs/2012.00317, section III.C, Tables 1 and 4. The 3D depthwise convolution of X3D's
bottleneck becomes a spatial and a temporal depthwise convolution in series. All five forms of the middle
convolution share this class, so that T-OSA and D(2+1)D can be switched on and off independently (Table 3).
"""

from typing import Any

import torch
from timm.layers import DropPath
from torch import nn

from vov3d.layers.causal import CausalPad3d, CausalSqueezeExcite3d
from vov3d.layers.checks import check_counts, check_flags, check_rate
from vov3d.layers.conv import conv3d, keeps_layout, middle_convs, refuse_scripting
from vov3d.layers.norm_act import LayerType, create_act, create_norm, start_at_zero
from vov3d.layers.squeeze_excite import SqueezeExcite3d


class D2plus1D(nn.Module):
    """Bottleneck: 1x1x1 expand, middle convolution(s), squeeze-and-excitation, 1x1x1 project, shortcut.

    1x1x1 conv, BN, ReLU -> 1 x k x k depthwise (stride here) -> t x 1 x 1 depthwise -> BN -> SE -> SiLU
    -> 1x1x1 conv, BN -> plus the shortcut -> ReLU. Drops into any 3D CNN: `D2plus1D(24, 54, 24)(x)`.
    Source: https://arxiv.org/abs/2012.00317, section III.C, Tables 1 and 4.

    Args:
        in_chs: Channels of the input.
        mid_chs: Channels of the middle convolution.
        out_chs: Channels of the output.
        stride: Spatial stride; time is never strided.
        kernel_size: Spatial size of the middle convolution, odd.
        temporal_kernel_size: Temporal size of the middle convolution, odd.
        se_ratio: Width of squeeze-and-excitation relative to `mid_chs`; 0 for none.
        shortcut: True adds the input if shapes match, False adds nothing; the output of a module is always added
            (a projection, as in X3D).
        act_layer: Activation after the expansion and at the end.
        norm_layer: Norm, a name or a class.
        conv: Middle convolution, one of `vov3d.layers.MIDDLE_CONVS`.
        mid_act_layer: Activation after the middle convolution.
        drop_path: Rate of stochastic depth on the residual branch.
        zero_init_last: Starts the last norm at zero, so that the block starts as its shortcut.
        causal: Each output frame depends on no later frame: the temporal convolution is padded before the clip only,
            and squeeze-and-excitation averages over the frames so far.
        device: Device of the parameters.
        dtype: Floating type of the parameters.

    Shape:
        `(B, in_chs, T, H, W)` to `(B, out_chs, T, ceil(H / stride), ceil(W / stride))`.

    Raises:
        ValueError: If `conv`, a layer, channels, a size, the stride, a rate or the shortcut is not allowed, or the norm
            has no weight to start at zero.
    """

    def __init__(
        self,
        in_chs: int,
        mid_chs: int,
        out_chs: int,
        stride: int = 1,
        kernel_size: int = 3,
        temporal_kernel_size: int = 3,
        se_ratio: float = 1 / 16,
        shortcut: bool | nn.Module = True,
        act_layer: LayerType = "relu",
        norm_layer: LayerType = "batchnorm3d",
        conv: str = "d2plus1d",
        mid_act_layer: LayerType = "silu",
        drop_path: float = 0.0,
        zero_init_last: bool = False,
        causal: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        check_counts(in_chs=in_chs, mid_chs=mid_chs, out_chs=out_chs)
        check_rate("drop_path", drop_path or 0)
        check_flags(zero_init_last=zero_init_last, causal=causal)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv_pw = conv3d(in_chs, mid_chs, (1, 1), **dd)
        self.bn1 = create_norm(norm_layer, mid_chs, **dd)
        self.act1 = create_act(act_layer)

        middle = middle_convs(conv, mid_chs, (temporal_kernel_size, kernel_size), stride, **dd)
        self._middle: tuple[str, ...] = ()
        for name, module in middle.items():
            if causal and module.kernel_size[0] > 1:
                self.pad = CausalPad3d.before(module)
                self._middle += ("pad",)
            self.add_module(name, module)
            self._middle += (name,)
        self.bn2 = create_norm(norm_layer, mid_chs, **dd)
        squeeze_excite = CausalSqueezeExcite3d if causal else SqueezeExcite3d
        self.se = squeeze_excite(mid_chs, se_ratio, **dd) if se_ratio else nn.Identity()
        self.act2 = create_act(mid_act_layer)

        self.conv_pwl = conv3d(mid_chs, out_chs, (1, 1), **dd)
        self.bn3 = create_norm(norm_layer, out_chs, **dd)
        if zero_init_last:
            start_at_zero(self.bn3)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        if not (shortcut is None or isinstance(shortcut, (bool, nn.Module))):
            raise ValueError(f"shortcut must be True, False or a module whose output is added, got {shortcut!r}")
        added = shortcut if isinstance(shortcut, nn.Module) else None
        if shortcut is True and stride == 1 and in_chs == out_chs:
            added = nn.Identity()
        self.shortcut = added
        self.act3 = create_act(act_layer)

    __prepare_scriptable__ = refuse_scripting

    @keeps_layout
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the block."""
        residual = None if self.shortcut is None else self.shortcut(x)
        x = self.act1(self.bn1(self.conv_pw(x)))
        for name in self._middle:
            x = getattr(self, name)(x)
        x = self.act2(self.se(self.bn2(x)))
        x = self.drop_path(self.bn3(self.conv_pwl(x)))
        return self.act3(x if residual is None else x + residual)
