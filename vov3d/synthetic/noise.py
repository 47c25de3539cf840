"""Clips without content, for comparing networks: noise and drifting textures."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F


def random_clips(in_chans: int, shapes: Iterable[tuple[int, int, int, int]]) -> Iterator[torch.Tensor]:
    """Makes Gaussian noise, the same every time.

    Args:
        in_chans: Channels.
        shapes: Batch, frames, height and width of each clip.

    Yields:
        Clips `(B, in_chans, T, H, W)`.
    """
    generator = torch.Generator().manual_seed(0)
    for batch, *clip in shapes:
        yield torch.randn(batch, in_chans, *clip, generator=generator)


def moving_clips(cfg: dict[str, Any], frames: int, size: int, count: int) -> Iterator[torch.Tensor]:
    """Makes smooth, drifting textures, the same every time: closer to film than noise is.

    Args:
        cfg: A model's `pretrained_cfg`; `input_size`, `mean` and `std` are used.
        frames: Frames of a clip.
        size: Height and width in pixels.
        count: Number of clips.

    Yields:
        Normalised clips `(1, C, frames, size, size)`.
    """
    generator = torch.Generator().manual_seed(1)
    in_chans = cfg["input_size"][0]
    mean, std = (torch.tensor(cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
    if len(mean) != in_chans:  # the configuration is for RGB
        mean, std = mean.mean(), std.mean()
    for _ in range(count):
        large = size + 2 * frames
        coarse = (torch.rand(1, in_chans, n, n, generator=generator) for n in (5, 12, 40))
        texture = torch.cat([F.interpolate(c, (large, large), mode="bicubic") for c in coarse]).mean(0).clamp(0, 1)
        down, right = torch.randint(0, 3, (2,), generator=generator).tolist()
        views = [texture[:, down * t : down * t + size, right * t : right * t + size] for t in range(frames)]
        yield torch.stack([(view - mean) / std for view in views], 1)[None]
