"""T-OSA with one of its choices undone, to find which of them costs accuracy."""

from typing import Any

import torch

from vov3d.layers import TOSA, D2plus1D
from vov3d.layers.conv import conv3d
from vov3d.layers.norm_act import start_at_zero


class LastAlone(TOSA):
    """T-OSA without aggregation: the 1x1x1 convolution reads the last bottleneck alone.

    Takes the arguments of `TOSA`.
    """

    def __init__(self, in_chs: int, mid_chs: int, out_chs: int, **kwargs: Any) -> None:
        super().__init__(in_chs, mid_chs, out_chs, **kwargs)
        self.conv_agg = conv3d(mid_chs // 2, out_chs, (1, 1), device=kwargs["device"], dtype=kwargs["dtype"])

    def temporal_receptive_fields(self) -> list[int]:
        """Returns that of the feature that is read."""
        return super().temporal_receptive_fields()[-1:]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the block."""
        shortcut = self.shortcut(x)
        for layer in self.layers:
            x = layer(x)
        return self.act(self.drop_path(self.bn_agg(self.conv_agg(x))) + shortcut)


class FullWidth(TOSA):
    """T-OSA whose bottlenecks output all of their middle channels, not half.

    Takes the arguments of `TOSA`.
    """

    def __init__(self, in_chs: int, mid_chs: int, out_chs: int, **kwargs: Any) -> None:
        super().__init__(in_chs, mid_chs, out_chs, **kwargs)
        for i in range(len(self.layers)):
            self.layers[i] = D2plus1D(
                mid_chs if i else in_chs,
                mid_chs,
                mid_chs,
                stride=1 if i else kwargs["stride"],
                se_ratio=0 if kwargs["se_every_other"] and i % 2 else kwargs["se_ratio"],
                conv=kwargs["conv"],
                device=kwargs["device"],
                dtype=kwargs["dtype"],
            )
        agg_chs = len(self.layers) * mid_chs + (in_chs if self.aggregates_input else 0)
        self.conv_agg = conv3d(agg_chs, out_chs, (1, 1), device=kwargs["device"], dtype=kwargs["dtype"])


class StartedAtZero(TOSA):
    """T-OSA whose bottlenecks start as their shortcuts, like those of X3D; the first has none and starts as it is.

    Takes the arguments of `TOSA`.
    """

    def __init__(self, in_chs: int, mid_chs: int, out_chs: int, **kwargs: Any) -> None:
        super().__init__(in_chs, mid_chs, out_chs, **kwargs)
        for layer in self.layers:
            if isinstance(layer, D2plus1D) and layer.shortcut is not None:
                start_at_zero(layer.bn3)
