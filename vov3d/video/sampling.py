"""Chooses the frames and the square crops of a video that make up a network's views.

Two sampling schemes are published with the weights. *Dense* sampling takes one window of
`stride * clip_len` frames of a 30 frames-per-second video and spreads `clip_len` points over it (Kinetics).
*Segment* sampling cuts the whole video into `clip_len` parts and takes one frame of each (Something-Something).
Both follow the arithmetic of PySlowFast's loaders to the digit (https://github.com/facebookresearch/SlowFast), with
which the published weights were trained and evaluated. Several clips of segments are random in the authors' loaders;
here they come from seeds of our own. Videos of variable frame rate are planned by time.
"""

import math
import random
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch

from vov3d.layers.checks import is_count, is_positive

__all__ = [
    "Views",
    "clip_indices",
    "clip_times",
    "crop_boxes",
    "dense_indices",
    "parse_views",
    "random_clip_indices",
    "random_clip_times",
    "random_dense_indices",
    "segment_indices",
]

_REFERENCE_FPS = 30  # strides count frames of a video at this rate


class Views(NamedTuple):
    """Number of views of a video.

    Attributes:
        num_clips: clips, at different times.
        num_crops: square crops of each clip, 1 or 3.
    """

    num_clips: int
    num_crops: int


def parse_views(text: str) -> Views:
    """Reads a number of views in the notation of papers.

    Args:
        text: clips and crops, such as `"1x1"`, `"2x3"` or `"10x3"`.

    Returns:
        The two numbers.

    Raises:
        ValueError: for anything but at least one clip and 1 or 3 crops.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,5})x([13])", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(
            f"views {text!r} cannot be read: give CLIPSxCROPS such as 1x1, 2x3 or 10x3, with at least one clip "
            "and 1 or 3 crops"
        )
    return Views(int(match[1]), int(match[2]))


def dense_indices(
    num_frames: int, fps: float, clip_len: int, stride: float, clip: float = 0, num_clips: int = 1
) -> list[int]:
    """Returns the frames of one clip of a dense plan.

    The clip spans `stride * clip_len * fps / 30` frames, so that it lasts equally long at every frame rate; the
    clips start at equal distances. A video shorter than the span repeats its last frame.

    Args:
        num_frames: frames in the video.
        fps: frames per second of the video.
        clip_len: frames in the clip (T).
        stride: distance of neighbouring frames, in frames at 30 per second (tau).
        clip: which clip, from 0 to `num_clips`; may be fractional: 0.5 of 1 is the middle of the video.
        num_clips: clips in the plan.

    Returns:
        `clip_len` indices in increasing order, each in `[0, num_frames - 1]`.

    Raises:
        ValueError: for an empty video, a rate, length or stride that is not positive, or a clip out of range.
    """
    span = _dense_span(num_frames, fps, clip_len, stride)
    if num_clips < 1 or not 0 <= clip <= num_clips:
        raise ValueError(f"clip {clip} of {num_clips}: a clip lies between 0 and the number of clips, at least 1")
    return _spread(max(num_frames - span, 0) * clip / num_clips, span, clip_len, num_frames)


def random_dense_indices(num_frames: int, fps: float, clip_len: int, stride: float, rng: random.Random) -> list[int]:
    """Returns the frames of a dense clip that starts anywhere in the video, for training.

    Args:
        num_frames: frames in the video.
        fps: frames per second of the video.
        clip_len: frames in the clip (T).
        stride: distance of neighbouring frames, in frames at 30 per second (tau).
        rng: the random generator, used once per call.

    Returns:
        `clip_len` indices in increasing order, each in `[0, num_frames - 1]`.

    Raises:
        ValueError: for an empty video, or a rate, length or stride that is not positive.
    """
    span = _dense_span(num_frames, fps, clip_len, stride)
    return _spread(rng.uniform(0, max(num_frames - span, 0)), span, clip_len, num_frames)


def segment_indices(num_frames: int, clip_len: int, rng: random.Random | None = None) -> list[int]:
    """Returns one frame of each of `clip_len` equal parts of the whole video.

    Args:
        num_frames: frames in the video.
        clip_len: parts, and frames in the clip (T).
        rng: picks a frame of each part uniformly, ends included, for training; without it the middle is taken.

    Returns:
        `clip_len` indices in increasing order, each in `[0, num_frames - 1]`.

    Raises:
        ValueError: for an empty video or clip.
    """
    _check_counts(num_frames, clip_len)
    size = (num_frames - 1) / clip_len
    edges = [round(size * part) for part in range(clip_len + 1)]  # half to even, as the published loader rounds
    if rng is None:
        return [(start + end) // 2 for start, end in pairwise(edges)]
    return [rng.randint(start, end) for start, end in pairwise(edges)]


def clip_indices(cfg: Mapping[str, Any], num_frames: int, fps: float, num_clips: int, key: int = 0) -> list[list[int]]:
    """Returns the frames of every clip of a multi-view plan.

    A single dense clip is taken from the middle of the video, where the action is: the published plan for several
    clips would put it at the very start. A single clip of a segment plan takes the middle frame of each part;
    of several, each takes a random frame of each part, as the authors' loaders do for Something-Something. The
    choice depends on `key`, the clip's number and `num_frames` alone, so that it can be repeated.

    Args:
        cfg: a model's `pretrained_cfg`; `num_frames`, `sampling` and, for dense sampling, `frame_stride` are used.
        num_frames: frames in the video.
        fps: frames per second of the video.
        num_clips: clips in the plan.
        key: seed for several clips of a segment plan: `VideoReader.content_key` of the video.

    Returns:
        `num_clips` lists of `cfg["num_frames"]` indices.

    Raises:
        ValueError: for an unknown sampling, a missing stride, an empty video or a plan without clips.
    """
    clip_len, stride = _checked(cfg, num_clips)
    if stride is None:
        if num_clips == 1:
            return [segment_indices(num_frames, clip_len)]
        draws = (random.Random(f"{key} {clip} {num_frames}") for clip in range(num_clips))
        return [segment_indices(num_frames, clip_len, rng) for rng in draws]
    return [dense_indices(num_frames, fps, clip_len, stride, place, num_clips) for place in _places(num_clips)]


def random_clip_indices(cfg: Mapping[str, Any], num_frames: int, fps: float, rng: random.Random) -> list[int]:
    """Returns the frames of a random clip, for training, by the model's sampling scheme.

    Args:
        cfg: a model's `pretrained_cfg`, as for `clip_indices`.
        num_frames: frames in the video.
        fps: frames per second of the video.
        rng: the random generator.

    Returns:
        `cfg["num_frames"]` indices in increasing order, each in `[0, num_frames - 1]`.

    Raises:
        ValueError: as `clip_indices`.
    """
    clip_len, stride = _checked(cfg, 1)
    if stride is None:
        return segment_indices(num_frames, clip_len, rng)
    return random_dense_indices(num_frames, fps, clip_len, stride, rng)


def clip_times(cfg: Mapping[str, Any], last: float, num_clips: int, key: int = 0) -> list[list[float]]:
    """Returns the plan of `clip_indices` in seconds, for a video of variable frame rate.

    Frames of such a file cannot be counted by its average rate, which may be ten times below that of every part
    of it. The frames of a dense clip are exactly `stride / 30` seconds apart, segments have equal lengths in time.

    Args:
        cfg: a model's `pretrained_cfg`, as for `clip_indices`.
        last: seconds from the first frame to the last.
        num_clips: clips in the plan.
        key: as for `clip_indices`.

    Returns:
        `num_clips` lists of `cfg["num_frames"]` rising times; those after `last` mean the last frame.

    Raises:
        ValueError: as `clip_indices`, and for a last frame before the first.
    """
    clip_len, stride = _checked(cfg, num_clips)
    if stride is None:
        plan = clip_indices(cfg, _ticks(last), _REFERENCE_FPS, num_clips, key)
        return [[index / _REFERENCE_FPS for index in clip] for clip in plan]
    room = _room(last, clip_len, stride)
    return [_apart(room * place / num_clips, clip_len, stride) for place in _places(num_clips)]


def random_clip_times(cfg: Mapping[str, Any], last: float, rng: random.Random) -> list[float]:
    """Returns `random_clip_indices` in seconds, for a video of variable frame rate; see `clip_times`.

    Args:
        cfg: a model's `pretrained_cfg`, as for `clip_indices`.
        last: seconds from the first frame to the last.
        rng: the random generator.

    Returns:
        `cfg["num_frames"]` rising times.

    Raises:
        ValueError: as `clip_times`.
    """
    clip_len, stride = _checked(cfg, 1)
    if stride is None:
        return [index / _REFERENCE_FPS for index in segment_indices(_ticks(last), clip_len, rng)]
    return _apart(rng.uniform(0, _room(last, clip_len, stride)), clip_len, stride)


def crop_boxes(height: int, width: int, size: int, num_crops: int) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """Returns the positions of square crops in a frame whose short side is resized to the crop size.

    Args:
        height: rows of the frame.
        width: columns of the frame.
        size: rows and columns of a crop, in pixels.
        num_crops: 1 for the centre; 3 for left, centre and right, or top, centre and bottom of an upright frame.

    Returns:
        The height and width of the resized frame, and the top and left of each crop in it.

    Raises:
        ValueError: for sizes below 1, or another number of crops.
    """
    if min(height, width, size) < 1:
        raise ValueError(f"frame {height}x{width} and crop {size} need at least one pixel per side")
    if num_crops not in (1, 3):
        raise ValueError(f"{num_crops} crops: 1 (centre) or 3 (along the long side) are known")
    height, width = _resized(height, width, size)
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    if num_crops == 1:
        return (height, width), [(top, left)]
    if height > width:
        return (height, width), [(0, left), (top, left), (height - size, left)]
    return (height, width), [(top, 0), (top, left), (top, width - size)]


def _resized(height: int, width: int, size: int) -> tuple[int, int]:
    """Returns height and width with the short side at `size`, the long side floored."""
    if min(height, width) == size:
        return height, width
    # divided first, as published: multiplying first would floor to another number now and then
    if width < height:
        return math.floor(height / width * size), size
    return size, math.floor(width / height * size)


def _checked(cfg: Mapping[str, Any], num_clips: int) -> tuple[int, float | None]:
    """Checks a plan and returns the frames of a clip and their stride, which is None for segments."""
    if num_clips < 1:
        raise ValueError(f"a plan needs at least one clip, not {num_clips}")
    clip_len, stride, sampling = cfg["num_frames"], cfg.get("frame_stride"), cfg["sampling"]
    if sampling == "segment":
        return clip_len, None
    if sampling != "dense":
        raise ValueError(f"pretrained_cfg has sampling {sampling!r}: 'dense' and 'segment' are known")
    if stride is None:
        raise ValueError("pretrained_cfg has dense sampling but no frame_stride: set it, e.g. to 5")
    return clip_len, stride


def _places(num_clips: int) -> Sequence[float]:
    """Returns the starts of dense clips, as fractions of the range of possible starts, times the number of clips."""
    return [0.5] if num_clips == 1 else range(num_clips)


def _ticks(last: float) -> int:
    """Returns the number of frames at 30 per second from the first frame of a video to the last."""
    if not 0 <= last < math.inf:
        raise ValueError(f"a video whose last frame is shown after {last} seconds has nothing to sample")
    return round(last * _REFERENCE_FPS) + 1


def _room(last: float, clip_len: int, stride: float) -> float:
    """Returns the seconds by which a dense clip can be moved."""
    return max(_ticks(last) - _dense_span(1, _REFERENCE_FPS, clip_len, stride), 0) / _REFERENCE_FPS


def _apart(start: float, clip_len: int, stride: float) -> list[float]:
    """Returns the times of the frames of a dense clip."""
    return [start + number * stride / _REFERENCE_FPS for number in range(clip_len)]


def _check_counts(num_frames: int, clip_len: int) -> None:
    """Raises an error for an empty video or an empty clip."""
    if not is_count(num_frames):
        raise ValueError(f"a video of {num_frames!r} frames has nothing to sample: it needs at least one")
    if not is_count(clip_len):
        raise ValueError(f"a clip of {clip_len!r} frames is empty: it needs at least one, and a whole number")


def _dense_span(num_frames: int, fps: float, clip_len: int, stride: float) -> float:
    """Returns the length of a dense clip in frames of this video."""
    _check_counts(num_frames, clip_len)
    if not is_positive(fps) or not is_positive(stride):
        raise ValueError(f"fps {fps!r} and stride {stride!r} must both be positive and finite")
    return stride * clip_len * fps / _REFERENCE_FPS


def _spread(start: float, span: float, clip_len: int, num_frames: int) -> list[int]:
    """Returns `clip_len` even points from `start` to `start + span - 1`, clamped to the video and truncated."""
    # float32 on purpose: in float64 one clip in a hundred would differ from the published loader by a frame
    points = torch.linspace(start, start + span - 1, clip_len, device="cpu", dtype=torch.float32)
    indices = points.double().clamp(0, num_frames - 1).long().tolist()
    return list(accumulate(indices, max))  # a span below one frame would run backwards
