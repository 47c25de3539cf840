"""Stacking pictures without moving their pixels about."""

from collections.abc import Sequence

import torch


def stack_pictures(pictures: Sequence[torch.Tensor]) -> torch.Tensor:
    """As `torch.stack`, of `(..., C, H, W)`; pixels that lie together, as decoders give them, stay together.

    Turning them into planes takes as long as decoding does, and the networks want them together on CPUs.
    """
    if pictures[0].stride(-3) != 1:
        return torch.stack(list(pictures))
    return torch.stack([picture.movedim(-3, -1) for picture in pictures]).movedim(-1, -3)
