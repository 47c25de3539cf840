"""Norm and activation layers by name.

timm's activation factory works for clips. Its norm factory has 2-D layers only, so the few norms that take
`(B, C, T, H, W)` are named here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.layers import GroupNorm1, create_act_layer
from torch import nn

from vov3d.layers.checks import check_layer

LayerType = str | Callable[..., nn.Module]

_NORM_LAYERS: dict[str, Callable[..., nn.Module]] = {
    "batchnorm": nn.BatchNorm3d,
    "batchnorm3d": nn.BatchNorm3d,
    "syncbatchnorm": nn.SyncBatchNorm,
    "instancenorm3d": partial(nn.InstanceNorm3d, affine=True),
    "groupnorm1": GroupNorm1,
}


def create_norm(norm_layer: LayerType, num_features: int, device=None, dtype=None) -> nn.Module:
    """Builds a norm layer for clips.

    Args:
        norm_layer: A name (`"batchnorm3d"`, `"syncbatchnorm"`, `"instancenorm3d"`, `"groupnorm1"`) or
            anything callable that takes the number of channels.
        num_features: Channels.
        device: Device of the parameters.
        dtype: Floating type of the parameters.

    Raises:
        ValueError: If the name is not known, or the value builds no layer.
    """
    if isinstance(norm_layer, str):
        name = norm_layer.replace("_", "").lower()
        if name not in _NORM_LAYERS:
            raise ValueError(f"norm_layer={norm_layer!r} is not known; use one of {', '.join(_NORM_LAYERS)} or a class")
        norm_layer = _NORM_LAYERS[name]
    check_layer("norm_layer", norm_layer)
    return norm_layer(num_features, device=device, dtype=dtype)


def start_at_zero(norm: Any) -> None:
    """Sets the weight of a norm to zero, for `zero_init_last=True`.

    Raises:
        ValueError: If it has none.
    """
    if not isinstance(getattr(norm, "weight", None), nn.Parameter):
        raise ValueError(
            f"zero_init_last=True starts a norm's weight at zero, but {norm} has none; give zero_init_last=False"
        )
    nn.init.zeros_(norm.weight)


def create_act(act_layer: LayerType | None) -> nn.Module:
    """Builds an activation: a timm name such as `"relu"` or `"silu"`, a class, or None for the identity.

    Raises:
        ValueError: If the name is not known to timm, or the value builds no layer.
    """
    if act_layer is None:
        return nn.Identity()
    if not isinstance(act_layer, str):
        check_layer("act_layer", act_layer)
    try:
        # Only ReLU works in place: it keeps no input for its gradient.
        act = create_act_layer(act_layer, inplace=True if act_layer in ("relu", nn.ReLU) else None)
    except KeyError:
        raise ValueError(
            f"act_layer={act_layer!r} is not an activation of timm; try 'relu', 'silu' or a class"
        ) from None
    assert act is not None
    return act
