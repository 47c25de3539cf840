"""Finds hard cuts between the shots of a video while its frames arrive."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import torch
import torch.nn.functional as F

__all__ = ["split_shots"]

_SIDE = 16  # rows and columns of a small picture
_BINS = 8  # of a histogram, for each colour
_AHEAD = 2  # frames that are looked at behind a cut, so that a flash is none
_BEFORE = 12  # changes that a new one is compared with
_LEAST = 0.1  # change of a cut, of 1
_TIMES = 3.0  # the usual change, at least


@dataclass(frozen=True)
class _Look:
    """Returns a frame's features to compare: a small picture `(3, 16, 16)` and colour histograms, from 0 to 1."""

    picture: torch.Tensor
    colours: torch.Tensor


def split_shots(frames: Iterable[torch.Tensor]) -> Iterator[tuple[bool, torch.Tensor]]:
    """Yields each frame with whether a shot begins with it.

    A cut is a change of places and colours that is large, at least three times the usual one before it, larger than
    the one behind it, and stays: after a flash the picture is as it was. Cuts that blend (dissolves, fades, wipes)
    are missed, as are cuts between pictures that look alike. Memory holds three frames.

    Args:
        frames: uint8 RGB `(3, H, W)`, in order.

    Yields:
        Whether the frame begins a shot, and the frame; two frames are waited for. The first frame begins one.
    """
    waiting: deque[tuple[torch.Tensor, _Look]] = deque()
    cuts = _Cuts()
    for frame in frames:
        waiting.append((frame, _look(frame)))
        if len(waiting) > _AHEAD:
            yield cuts.begins([look for _, look in waiting]), waiting.popleft()[0]
    while waiting:
        yield cuts.begins([look for _, look in waiting]), waiting.popleft()[0]


class _Cuts:
    """Features of the present shot so far."""

    def __init__(self) -> None:
        self._last: _Look | None = None
        self._changes: deque[float] = deque(maxlen=_BEFORE)
        self._flashes = 0  # frames in a row

    def begins(self, coming: list[_Look]) -> bool:
        """Returns whether a shot begins with the first of the coming frames."""
        if self._last is None:
            self._last = coming[0]
            return True
        changes = [_change(self._last, look) for look in coming]
        least = max(_LEAST, _TIMES * median(self._changes) if self._changes else 0.0)
        stays = min(changes) >= least
        if changes[0] >= least and not stays and self._flashes < _AHEAD:
            self._flashes += 1  # the next frame is compared with the one before the flash
            return False
        self._last, self._flashes = coming[0], 0
        behind = max((_change(a, b) for a, b in pairwise(coming)), default=0.0)
        if stays and changes[0] > 2 * behind:
            self._changes.clear()
            return True
        self._changes.append(changes[0])
        return False


def _look(frame: torch.Tensor) -> _Look:
    step = max(min(frame.shape[1:]) // (4 * _SIDE), 1)  # a few pixels of each part are enough
    pixels = frame[:, ::step, ::step].float() / 256
    picture = F.adaptive_avg_pool2d(pixels, _SIDE)
    places = (pixels * _BINS).long().flatten(1) + torch.arange(3)[:, None] * _BINS
    counts = torch.bincount(places.flatten(), minlength=3 * _BINS).float()
    return _Look(picture, counts / places.shape[1])


def _change(one: _Look, other: _Look) -> float:
    """Computes the distance of places and colours, from 0 to 1."""
    places = float((one.picture - other.picture).abs().mean())
    colours = float((one.colours - other.colours).abs().sum()) / 6
    return (places * colours) ** 0.5
