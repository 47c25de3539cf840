"""Checks the contribution of each frame by taking it away."""

import torch
from torch import nn

from vov3d.interpret._clip import clip_of, scores_of
from vov3d.interpret._network import check_network, left_as_found, place_of
from vov3d.interpret._target import Wanted, find_target
from vov3d.interpret.gradcam import averaged
from vov3d.video.sources import Source
from vov3d.weights.tasks import task_of

__all__ = ["FILLS", "occlusion"]

FILLS = ("neighbours", "mean")
"""Replacements of a frame: the mean of the frames before and after it, or the clip's mean colour."""


def occlusion(
    model: nn.Module,
    clip: Source,
    target: Wanted = None,
    *,
    fill: str = "neighbours",
    fps: float | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Measures by how much an output falls when a frame is taken away, for each frame.

    It needs no gradients and one pass for each frame, so that it checks `Explanation.per_frame` in another way.

    Args:
        model: As for `explain`.
        clip: As for `explain`.
        target: As for `explain`.
        fill: One of `FILLS`.
        fps: As for `explain`.
        backend: As for `explain`.

    Returns:
        float32 `(T,)`: the output of the whole clip minus that without the frame; above 0 where the frame speaks for
        the output.

    Raises:
        ValueError: As `explain`, or for a clip of one frame.
        VideoError: If the video gives no frames.
    """
    network = check_network(model)
    if fill not in FILLS:
        raise ValueError(f"fill is {fill!r}: use one of {', '.join(FILLS)}")
    with left_as_found(network), torch.inference_mode():
        found = clip_of(network, clip, fps, backend)
        values = found.values.to(**place_of(network))  # type: ignore[call-overload]
        if values.shape[2] < 2:
            raise ValueError("a clip of one frame has no other that could stand for it")
        whole = averaged(network(values))
        scores = scores_of(network, whole) if found.scores is None else found.scores
        _, indices = find_target(task_of(network), scores, found.names, target)
        without = [averaged(network(_without(values, t, fill))) for t in range(values.shape[2])]
        drops = whole[:, indices].sum(1) - torch.cat(without)[:, indices].sum(1)
    return drops.float().cpu().clone()


def _without(clip: torch.Tensor, frame: int, fill: str) -> torch.Tensor:
    """Returns a clip whose frame is replaced."""
    changed = clip.clone()
    if fill == "mean":
        changed[:, :, frame] = clip.mean((2, 3, 4))[..., None, None]
    else:
        near = [t for t in (frame - 1, frame + 1) if 0 <= t < clip.shape[2]]
        changed[:, :, frame] = clip[:, :, near].mean(2)
    return changed
