"""A backbone for Detectron2."""

from functools import cache
from typing import Any

from torch import nn

from vov3d.adapters.pooled import PooledBackbone

__all__ = ["detectron2_backbone"]


def detectron2_backbone(model: nn.Module, pool: str = "avg") -> PooledBackbone:
    """Wraps a 3D network as a `detectron2.modeling.Backbone`, for its `FPN` (as `bottom_up`) or a meta architecture.

    It adds to `PooledBackbone` `output_shape()`, a `ShapeSpec` for each map by its name (`"0"`, `"1"`, ...), and
    `size_divisibility`, the largest stride. Detectron2 passes images; give it clips `(C * T, H, W)`, with
    `MODEL.PIXEL_MEAN` and `PIXEL_STD` of C * T values.

    Args:
        model: As for `PooledBackbone`.
        pool: As for `PooledBackbone`.

    Returns:
        The backbone.

    Raises:
        ValueError: As `PooledBackbone`.
        ImportError: If Detectron2 is not installed.
    """
    return _backbone_class()(model, pool)


@cache
def _backbone_class() -> Any:
    try:
        from detectron2.layers import ShapeSpec
        from detectron2.modeling import Backbone
    except ImportError as error:
        raise ImportError(
            "detectron2_backbone needs Detectron2, which is not on PyPI: "
            "pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"
        ) from error

    class Detectron2Backbone(PooledBackbone, Backbone):
        """See `detectron2_backbone`."""

        @property
        def size_divisibility(self) -> int:
            """Height and width are padded to a multiple of this."""
            return max(self.strides)

        def output_shape(self) -> dict[str, Any]:
            """Returns channels and stride of each map."""
            shapes = zip(self.map_chs, self.strides, strict=True)
            return {str(i): ShapeSpec(channels=chs, stride=stride) for i, (chs, stride) in enumerate(shapes)}

    return Detectron2Backbone
