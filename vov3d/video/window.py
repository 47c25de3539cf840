"""Clips over frames that keep coming, and at regular times of a whole video."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import torch

from vov3d.layers.checks import is_count, is_positive
from vov3d.video.reader import VideoReader
from vov3d.video.sampling import dense_indices, segment_indices
from vov3d.video.transforms import EvalTransform


class SlidingWindow:
    """The clips over a stream of frames; a frame that several clips share is transformed once.

    Attributes:
        length: frames of a window.
    """

    def __init__(
        self, cfg: Mapping[str, Any], transform: EvalTransform, hop: int, fps: float, seconds: float | None
    ) -> None:
        """Plans the clips.

        Raises:
            ValueError: for settings that do not fit the model.
        """
        if not is_count(hop):
            raise ValueError(f"hop is {hop!r}: it must be a whole number of frames, at least 1")
        if not is_positive(fps):
            raise ValueError(f"fps {fps!r} must be positive and finite")
        self._transform, self._hop = transform, hop
        self.length, self._offsets = _plan(cfg, fps, seconds)
        # frame i has offset o in a window if i - o, where that window starts, is a multiple of the hop
        self._used = {offset % hop for offset in self._offsets}

    def clips(self, frames: Iterable[np.ndarray | torch.Tensor]) -> Iterator[tuple[int, torch.Tensor]]:
        """Yields at every hop the number of the newest frame and the clip `(num_crops, C, T, S, S)` that ends there."""
        kept: dict[int, torch.Tensor] = {}
        shape: tuple[int, ...] | None = None
        newest = -1
        for newest, frame in enumerate(frames):
            picture = as_picture(frame, newest)
            if shape is not None and tuple(picture.shape) != shape:
                raise ValueError(
                    f"frame {newest} is {tuple(picture.shape)}, those before it {shape}: all must have one size"
                )
            shape = tuple(picture.shape)
            if newest % self._hop in self._used:
                kept[newest] = self._transform(picture[None])
            start = newest + 1 - self.length
            if start >= 0 and start % self._hop == 0:
                yield newest, torch.cat([kept[start + offset] for offset in self._offsets], dim=2)
                kept = {number: view for number, view in kept.items() if number >= start + self._hop}
        if newest + 1 < self.length:
            raise ValueError(f"the frames ended after {newest + 1}; a window takes {self.length}")


@dataclass(frozen=True)
class ShotClip:
    """A clip within one shot.

    Attributes:
        start: its first frame.
        end: the frame behind its last.
        shot: the first frame of its shot.
        crops: uint8 `(T, C, S, S)` of each crop.
    """

    start: int
    end: int
    shot: int
    crops: list[torch.Tensor]


class ShotWindows:
    """Clips at regular times of each shot, the first at its beginning, and the frames that they share, each cut once.

    A shot that is shorter than a window is one clip, of the frames that it has. What is left behind the last window of
    a shot, less than the distance of two windows, is in no clip.

    Attributes:
        length: frames of a window.
    """

    def __init__(
        self, cfg: Mapping[str, Any], transform: EvalTransform, every: float, fps: float, seconds: float | None
    ) -> None:
        """Plans the clips.

        Args:
            cfg: a model's `pretrained_cfg`.
            transform: what cuts frames.
            every: seconds between two windows, at least one frame.
            fps: frames per second.
            seconds: length of a window, for models that take their frames from equal segments.

        Raises:
            ValueError: for settings that do not fit the model.
        """
        self._cfg, self._transform, self._fps = cfg, transform, fps
        self._hop = every * fps
        self.length, self._offsets = _plan(cfg, fps, seconds)

    def clips(self, frames: Iterable[tuple[bool, torch.Tensor]]) -> Iterator[ShotClip]:
        """Yields the clips of frames `(3, H, W)`, each with whether a shot begins with it."""
        kept: dict[int, list[torch.Tensor]] = {}
        shot = made = count = 0
        for number, (begins, frame) in enumerate(frames):
            if begins and number:
                yield from self._short(shot, number, made, kept)
                kept, shot, made = {}, number, 0
            count, within = number + 1, number - shot
            if within < self.length or self._is_looked_at(within):
                kept[number] = self._transform.cut(self._transform.resize(frame[None]))
            start = shot + self._start(made)
            if count == start + self.length:
                yield self._clip(start, count, shot, kept, [start + offset for offset in self._offsets])
                made += 1
                kept = {at: crops for at, crops in kept.items() if at >= shot + self._start(made)}
        yield from self._short(shot, count, made, kept)

    def _start(self, number: int) -> int:
        """Returns the first frame of a window, within its shot."""
        return math.floor(number * self._hop + 0.5)

    def _is_looked_at(self, within: int) -> bool:
        """Returns whether any window uses this frame of its shot."""
        for offset in self._offsets:
            near = max(int((within - offset) / self._hop), 0)
            if within - offset in (self._start(near), self._start(near + 1)):
                return True
        return False

    def _short(self, shot: int, end: int, made: int, kept: dict[int, list[torch.Tensor]]) -> Iterator[ShotClip]:
        """Yields the clip of a shot that ended before its first window was full."""
        if made or end == shot:
            return
        clip_len = self._cfg["num_frames"]
        if self._cfg["sampling"] == "segment":
            offsets = segment_indices(end - shot, clip_len)
        else:
            offsets = dense_indices(end - shot, self._fps, clip_len, self._cfg["frame_stride"], clip=0.5)
        yield self._clip(shot, end, shot, kept, [shot + offset for offset in offsets])

    def _clip(
        self, start: int, end: int, shot: int, kept: dict[int, list[torch.Tensor]], frames: list[int]
    ) -> ShotClip:
        crops = [torch.cat(parts) for parts in zip(*(kept[number] for number in frames), strict=True)]
        return ShotClip(start, end, shot, crops)


def steady_rate(reader: VideoReader) -> tuple[float, int]:
    """Returns frames per second and their number, at equal distances in time: 30 a second of a variable rate."""
    if not reader.variable:
        return reader.fps, reader.num_frames
    return 30.0, round(30 * float(reader.timestamps[-1])) + 1


def steady_frames(reader: VideoReader) -> Iterator[torch.Tensor]:
    """Yields all frames of a video, uint8 `(3, H, W)`, at the rate of `steady_rate`, in one pass of decoding."""
    fps, count = steady_rate(reader)
    if not reader.variable:
        yield from (frame for _, frame in reader.stream(range(count)))
        return
    times = Counter(reader.at_times(i / fps for i in range(count)))
    for index, frame in reader.stream(times):
        yield from repeat(frame, times[index])


def _plan(cfg: Mapping[str, Any], fps: float, seconds: float | None) -> tuple[int, list[int]]:
    """Returns the length of a window in frames, and the indices of those that make the clip."""
    clip_len = cfg["num_frames"]
    if cfg["sampling"] == "segment":
        seconds = cfg.get("clip_seconds") if seconds is None else seconds
        if seconds is None or not is_positive(seconds):
            raise ValueError(
                f"seconds is {seconds!r}: this model takes its frames from equal segments of a whole video, so say how "
                "long the window is, with --seconds or seconds=, best as long as the videos that it was trained on"
            )
        length = max(round(seconds * fps), 1)
        return length, segment_indices(length, clip_len)
    stride = cfg["frame_stride"]
    if seconds is not None:
        given = f"{seconds:g}" if is_positive(seconds) else repr(seconds)
        raise ValueError(
            f"seconds={given} would have no effect: this model's window lasts "
            f"{stride * clip_len / 30:g} seconds by its stride of {stride:g}; set stride= instead"
        )
    length = max(math.ceil(stride * clip_len * fps / 30), 1)
    return length, dense_indices(length, fps, clip_len, stride, clip=0.5)


def as_picture(frame: Any, number: int) -> torch.Tensor:
    """Returns a frame given as an array as uint8 `(3, H, W)`."""
    shape = tuple(getattr(frame, "shape", ()))
    kind = str(getattr(frame, "dtype", type(frame).__name__)).removeprefix("torch.")
    if kind != "uint8" or len(shape) != 3 or 3 not in (shape[0], shape[2]):
        raise ValueError(f"frame {number}: expected uint8 (H, W, 3) or (3, H, W), got {kind} of shape {shape}")
    picture = frame if isinstance(frame, torch.Tensor) else torch.from_numpy(np.require(frame, requirements=["C", "W"]))
    return picture.permute(2, 0, 1) if shape[2] == 3 else picture
