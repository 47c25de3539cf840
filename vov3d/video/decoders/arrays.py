"""Frames in memory as a source."""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from vov3d.video.decoders.base import FrameSource
from vov3d.video.sources import is_frames, is_picture

_EXPECTED = "expected uint8 frames, 0 to 255, of shape (T, H, W, 3) or (T, 3, H, W)"
_FPS = 30.0  # the default: the rate that strides refer to


class ArrayFrames(FrameSource):
    """The frames of an array or a tensor; only frames that are read are copied."""

    backend = "memory"

    def __init__(self, array: np.ndarray | torch.Tensor | Sequence[Any], fps: float | None = None) -> None:
        self._array = _as_frames(array)
        self.num_frames, _, self.height, self.width = self._array.shape
        self.fps = _FPS if fps is None else float(fps)
        self.timestamps = np.arange(self.num_frames) / self.fps

    def frames(self, targets: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """Yields frames, as `FrameSource.frames` does."""
        for index in targets:
            yield index, self._array[index]

    def content_key(self) -> int:
        """Returns `VideoReader.content_key`, from the number of frames and the pixels of the first."""
        return zlib.crc32(self._array[0].cpu().contiguous().numpy().tobytes(), self.num_frames)


def _instead(source: Any) -> str:
    """Returns what to give in place of other things that hold a video."""
    if isinstance(source, dict):
        return "; vov3d.adapters.datasets.video_source(row) gives its file"
    if hasattr(source, "get_frames_in_range"):  # torchcodec's decoders, which datasets puts in rows
        return (
            "; give the file that it decodes, its frames as decoder.get_frames_in_range(0, len(decoder)).data, or cast"
            " the column of the data set to datasets.Video(decode=False)"
        )
    if hasattr(source, "read"):
        return "; give the name of the file, or its content as file.read()"
    if isinstance(source, bytearray | memoryview):
        return "; give bytes(...) of it"
    return ""


def _as_frames(source: Any) -> torch.Tensor:
    """Returns frames given as an array or one by one as uint8 `(T, 3, H, W)`."""
    if is_frames(source):
        source = _stacked(source)
    if not isinstance(source, (np.ndarray, torch.Tensor)):
        kind = type(source).__name__
        raise ValueError(f"{_EXPECTED}, or a video file, folder, address or bytes; got {kind}{_instead(source)}")
    shape = tuple(source.shape)
    if str(source.dtype).removeprefix("torch.") != "uint8" or len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise ValueError(f"{_EXPECTED}; got {source.dtype} of shape {shape}")
    if 0 in shape:
        raise ValueError(f"{_EXPECTED}; got none, shape {shape}")
    frames = source if isinstance(source, torch.Tensor) else torch.from_numpy(_writable(source))
    return frames.permute(0, 3, 1, 2) if shape[3] == 3 else frames


def _stacked(frames: Sequence[Any]) -> torch.Tensor:
    """Stacks single frames `(H, W, 3)` or `(3, H, W)`, arrays or Pillow pictures, into one tensor."""
    _check_sequence(frames)
    arrays = [_pixels(frame, number) if is_picture(frame) else frame for number, frame in enumerate(frames)]
    tensors = [array if isinstance(array, torch.Tensor) else torch.from_numpy(_writable(array)) for array in arrays]
    first = tensors[0]
    for number, frame in enumerate(tensors):
        if frame.shape != first.shape or frame.dtype != first.dtype:
            raise ValueError(
                f"frame {number} of the list is {frame.dtype} of shape {tuple(frame.shape)}, the first one "
                f"{first.dtype} of {tuple(first.shape)}: all must have one shape and type"
            )
    return torch.stack(tensors)


def _check_sequence(frames: Sequence[Any]) -> None:
    """Raises an error for one open animation given several times, which shows its last frame each time."""
    animations = [id(frame) for frame in frames if is_picture(frame) and getattr(frame, "n_frames", 1) > 1]
    if len(set(animations)) < len(animations):
        raise ValueError(
            "the list holds one Pillow picture of several frames more than once, which is the same frame each time; "
            "give the file itself, or frame.copy() of each frame"
        )


def _pixels(picture: Any, number: int) -> np.ndarray:
    """Returns the pixels of a Pillow picture as RGB."""
    from vov3d.video.decoders.images import in_colour  # needs Pillow

    try:
        return np.asarray(in_colour(picture))
    except ValueError as error:
        raise ValueError(f"frame {number} of the list: {error}") from error


def _writable(array: np.ndarray) -> np.ndarray:
    """Returns an array that torch takes without a warning: with positive strides and writable memory."""
    return array if array.flags.writeable and all(stride >= 0 for stride in array.strides) else array.copy()
