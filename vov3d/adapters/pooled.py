"""A 3D network whose feature maps are pooled over time: a 2D backbone with motion features, for 2D heads."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["PooledBackbone"]

_POOLS = ("avg", "max", "middle")


class PooledBackbone(nn.Module):
    """A 3D network as a 2D backbone, like torchvision's `BackboneWithFPN`.

    Args:
        model: A network made with `features_only=True`; `out_indices` selects its maps.
        pool: Pooling over time: `"avg"`, `"max"`, or `"middle"`, the middle frame of each map.
        fpn_chs: Channels of a feature pyramid (torchvision's) over the pooled maps; None for no pyramid.

    Attributes:
        out_channels: Channels of the maps if all have the same number, as with a pyramid; else a tuple.

    Shape:
        `(B, C, T, H, W)`, or `(B, C * T, H, W)` with the frames of a channel one after the other, to maps
        `(B, out_channels, H / stride, W / stride)`.

    Raises:
        ValueError: If the model does not return a list of feature maps, or the pooling is not known.
        ImportError: If a pyramid is requested and torchvision is not installed.
    """

    def __init__(self, model: nn.Module, pool: str = "avg", fpn_chs: int | None = None) -> None:
        super().__init__()
        if pool not in _POOLS:
            raise ValueError(f"pool={pool!r} is not known; use one of {', '.join(map(repr, _POOLS))}")
        channels, self.strides = _channels_and_strides(model)
        convs = (m.in_channels for m in model.modules() if isinstance(m, nn.Conv3d))
        self.in_chans: int = getattr(model, "in_chans", None) or next(convs)  # optimized models have no Conv3d
        self.model = model
        self.pool = pool
        self.fpn = None if fpn_chs is None else _pyramid(channels, fpn_chs)
        self.map_chs = channels if fpn_chs is None else (fpn_chs,) * len(channels)
        self.out_channels: int | tuple[int, ...] = self.map_chs[0] if len(set(self.map_chs)) == 1 else self.map_chs

    def forward(self, clip: torch.Tensor) -> "OrderedDict[str, torch.Tensor]":
        """Computes the maps of clips.

        Args:
            clip: `(B, C, T, H, W)`, normalised for the model; or `(B, C * T, H, W)`, as from `clip.flatten(1, 2)`, for
                detectors that take images: they resize, pad and stack clips in this form without changes.

        Returns:
            Maps `(B, C, H, W)` by their number from `"0"`, finest first.

        Raises:
            ValueError: If the clip has another number of dimensions, or channels that do not divide into frames.
        """
        if clip.ndim == 4 and clip.shape[1] % self.in_chans == 0:
            clip = clip.unflatten(1, (self.in_chans, -1))
        if clip.ndim != 5:
            raise ValueError(
                f"expected a clip (B, {self.in_chans}, T, H, W) or (B, {self.in_chans} * T, H, W), got "
                f"{tuple(clip.shape)}"
            )
        found = self.model(clip)
        found = found.values() if isinstance(found, Mapping) else found  # made with feature_cls="dict"
        maps = OrderedDict((str(i), self._pooled(x)) for i, x in enumerate(found))
        return maps if self.fpn is None else self.fpn(maps)

    def _pooled(self, x: torch.Tensor) -> torch.Tensor:
        if self.pool == "middle":
            return x[:, :, x.shape[2] // 2]
        return x.mean(2) if self.pool == "avg" else x.amax(2)


def _channels_and_strides(model: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the channels and spatial strides of a model's maps."""
    info: Any = getattr(model, "feature_info", None)
    if not hasattr(info, "channels"):  # a whole network has a list of all its maps there
        raise ValueError(
            f"{type(model).__name__} does not return a list of feature maps; make it with "
            "vov3d.create_model(..., features_only=True)"
        )
    return tuple(info.channels()), tuple(info.reduction())


def _pyramid(channels: tuple[int, ...], out_chs: int) -> nn.Module:
    try:
        from torchvision.ops import FeaturePyramidNetwork
    except ImportError as error:
        raise ImportError("fpn_chs needs torchvision: pip install torchvision") from error
    return FeaturePyramidNetwork(list(channels), out_chs)
