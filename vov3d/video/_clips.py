"""One pass over a video for all clips of a plan, keeping only the frames that a clip to come needs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch

from vov3d.video._layout import stack_pictures
from vov3d.video.reader import VideoReader
from vov3d.video.sampling import clip_indices

Clip = tuple[int, ...]


def plan_clips(cfg: Mapping[str, Any], reader: VideoReader, num_clips: int) -> list[Clip]:
    """The frames of each clip of a video; frames in an array that are exactly one clip are taken as they are."""
    if reader.backend == "memory" and reader.num_frames == cfg["num_frames"]:
        return [tuple(range(reader.num_frames))] * num_clips
    plan = clip_indices(cfg, reader.num_frames, reader.fps, num_clips)
    return [tuple(reader.at_constant_rate(clip)) for clip in plan]


def stream_clips(
    reader: VideoReader, clips: Sequence[Clip], transform: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[tuple[Clip, torch.Tensor]]:
    """Reads clips in the order in which they are complete.

    Memory holds the frames of the clips that overlap, not those of the video.

    Args:
        reader: the video.
        clips: distinct clips, each of rising indices.
        transform: applied once to each frame `(C, H, W)`, such as `EvalTransform.resize`.

    Yields:
        Each clip with its frames `(T, C, H', W')`.
    """
    order = sorted(clips, key=lambda clip: (clip[-1], clip))
    # the first frame that a clip or one behind it in the order needs
    needed = list(accumulate(reversed([clip[0] for clip in order]), min))[::-1]
    held: dict[int, torch.Tensor] = {}
    at = 0
    for index, frame in reader.stream({index for clip in order for index in clip}, transform):
        held[index] = frame
        while at < len(order) and order[at][-1] == index:
            yield order[at], stack_pictures([held[i] for i in order[at]])
            at += 1
            held = {i: kept for i, kept in held.items() if at < len(order) and i >= needed[at]}
