"""Clips of a sliding window over a stream of frames."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

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
        if hop < 1:
            raise ValueError(f"hop is {hop}: it must be at least 1 frame")
        if not 0 < fps < math.inf:
            raise ValueError(f"fps {fps} must be positive and finite")
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


def _plan(cfg: Mapping[str, Any], fps: float, seconds: float | None) -> tuple[int, list[int]]:
    """Returns the length of a window in frames, and the indices of those that make the clip."""
    clip_len = cfg["num_frames"]
    if cfg["sampling"] == "segment":
        if seconds is None or not 0 < seconds < math.inf:
            raise ValueError(
                f"seconds is {seconds}: this model takes its frames from equal segments of a whole video, so say how "
                "long the window is; Something-Something's clips last about 4 seconds"
            )
        length = max(round(seconds * fps), 1)
        return length, segment_indices(length, clip_len)
    stride = cfg["frame_stride"]
    if seconds is not None:
        raise ValueError(
            f"seconds={seconds:g} would have no effect: this model's window lasts "
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
    picture = frame if isinstance(frame, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(frame))
    return picture.permute(2, 0, 1) if shape[2] == 3 else picture
