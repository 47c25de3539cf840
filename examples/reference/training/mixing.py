"""Mixup and CutMix for clips `(B, C, T, H, W)`.

timm's CutMix cuts the last two of four dimensions; on clips that would be time and height, with labels mixed for an
area that was never replaced. Here the box is one of height and width, the same in all frames.
"""

import numpy as np
import torch
import torch.nn.functional as F


def mix(
    clips: torch.Tensor, labels: torch.Tensor, num_classes: int, mixup: float, cutmix: float, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixes each clip of a batch with the one before it.

    Args:
        clips: `(B, C, T, H, W)`; not changed.
        labels: int64 `(B,)`, or shares of the classes `(B, num_classes)`.
        num_classes: Number of classes.
        mixup: Alpha of the Beta distribution of the share of a clip; 0 for none.
        cutmix: Alpha of that of the box; with both, each batch is mixed by one of them.
        rng: Source of all random numbers.

    Returns:
        Mixed clips, and the share of each class `(B, num_classes)`: with CutMix by the visible area.
    """
    cut = cutmix > 0 and (mixup == 0 or rng.random() < 0.5)
    alpha = cutmix if cut else mixup
    share = float(rng.beta(alpha, alpha))
    others = clips.roll(1, 0)
    if cut:
        height, width = clips.shape[-2:]
        rows, columns = box(height, width, share, rng)
        clips = clips.clone()
        clips[..., rows, columns] = others[..., rows, columns]
        share = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    else:
        clips = share * clips + (1 - share) * others
    targets = (labels if labels.ndim == 2 else F.one_hot(labels, num_classes)).to(clips.dtype)
    return clips, share * targets + (1 - share) * targets.roll(1, 0)


def box(height: int, width: int, share: float, rng: np.random.Generator) -> tuple[slice, slice]:
    """Draws a box at a random place, of about `1 - share` of the area where the border does not cut it."""
    side = (1 - share) ** 0.5
    slices = []
    for length in (height, width):
        centre, half = rng.uniform(0, length), side * length / 2
        start, stop = round(max(centre - half, 0)), round(min(centre + half, length))
        slices.append(slice(start, stop))
    return slices[0], slices[1]
