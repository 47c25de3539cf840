"""Which frames of a video make the clips for a model, and one pass over the video for all of them."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch

from vov3d.video._layout import stack_pictures
from vov3d.video.reader import VideoReader
from vov3d.video.sampling import clip_indices, clip_times, random_clip_indices, random_clip_times

Clip = tuple[int, ...]


def plan_clips(cfg: Mapping[str, Any], reader: VideoReader, num_clips: int = 1) -> list[Clip]:
    """The frames of each clip of a video, for evaluation.

    A file of constant rate follows `clip_indices`. One of variable rate is planned by time (`clip_times`), and the
    frames shown nearest to those times are taken. Frames in an array that are exactly one clip are taken as they are.

    Args:
        cfg: a model's `pretrained_cfg`; `num_frames`, `sampling` and, for dense sampling, `frame_stride` are used.
        reader: the video.
        num_clips: clips in the plan.

    Returns:
        `num_clips` tuples of `cfg["num_frames"]` rising indices.

    Raises:
        ValueError: as `clip_indices`.
    """
    if reader.backend == "memory" and reader.num_frames == cfg["num_frames"]:
        return [tuple(range(reader.num_frames))] * num_clips
    drawn = cfg["sampling"] == "segment" and num_clips > 1
    key = reader.content_key() if drawn else 0
    if reader.variable:
        plan = clip_times(cfg, float(reader.timestamps[-1]), num_clips, key)
        return [tuple(reader.at_times(times)) for times in plan]
    return [tuple(clip) for clip in clip_indices(cfg, reader.num_frames, reader.fps, num_clips, key)]


def plan_random_clip(cfg: Mapping[str, Any], reader: VideoReader, rng: random.Random) -> Clip:
    """The frames of a clip drawn at random, for training; files of variable rate by time, as in `plan_clips`.

    Args:
        cfg: a model's `pretrained_cfg`, as for `plan_clips`.
        reader: the video.
        rng: the source of chance.

    Returns:
        `cfg["num_frames"]` rising indices.

    Raises:
        ValueError: as `clip_indices`.
    """
    if reader.variable:
        return tuple(reader.at_times(random_clip_times(cfg, float(reader.timestamps[-1]), rng)))
    return tuple(random_clip_indices(cfg, reader.num_frames, reader.fps, rng))


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
