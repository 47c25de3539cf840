"""Enlarges the map of a layer to the resolution of the frames, so that both show the same place."""

import torch


def enlarged(maps: torch.Tensor, size: tuple[int, int], stride: int) -> torch.Tensor:
    """Enlarges maps by linear interpolation between the centres of their receptive fields.

    All strided convolutions of the networks have odd kernels that are padded by half of their size, rounded down.
    Position i of a map is therefore centred on pixel `stride * i`, and not on the middle of the i-th part of the frame.

    Args:
        maps: `(T, H', W')`.
        size: Height and width of the frames.
        stride: Pixels from one position to the next.

    Returns:
        `(T, H, W)`.
    """
    for dim in (1, 2):
        count = maps.shape[dim]
        place = (torch.arange(size[dim - 1], dtype=maps.dtype, device=maps.device) / stride).clamp(max=count - 1)
        before = place.floor().long()
        after = (before + 1).clamp(max=count - 1)
        weight = (place - before).view(-1, *[1] * (2 - dim))
        maps = torch.lerp(maps.index_select(dim, before), maps.index_select(dim, after), weight)
    return maps


def stride_of(layer: str, reductions: list[int], frame: tuple[int, int], found: tuple[int, int]) -> int:
    """Returns the spatial stride of a layer.

    Args:
        layer: Its name.
        reductions: Strides of stem and stages.
        frame: Height and width of the frames.
        found: Height and width of its output.

    Raises:
        ValueError: If the output's size is that of no stride.
    """
    parts = layer.split(".")
    own = {"stem": 0, "stages": int(parts[1]) + 1 if len(parts) > 1 and parts[0] == "stages" else -1}
    first = reductions[own.get(parts[0], -1)]
    for stride in (first, first // 2, first * 2):  # inside a block, the stride may not have come yet
        if stride and all(-(-whole // stride) == part for whole, part in zip(frame, found, strict=True)):
            return stride
    raise ValueError(f"layer {layer!r} gives maps of {found[0]}x{found[1]} for frames of {frame[0]}x{frame[1]}")
