"""Where one shot of a video ends and the next begins: hard cuts, found while the frames come."""

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
    """What is compared of a frame: a small picture `(3, 16, 16)`, and histograms of the colours in a row, from 0 to 1."""

    picture: torch.Tensor
    colours: torch.Tensor


def split_shots(frames: Iterable[torch.Tensor]) -> Iterator[tuple[bool, torch.Tensor]]:
    """Tells of each frame whether a shot begins with it.

    A cut is a change of places and colours that is large, at least three times the usual one before it, larger than
    the one behind it, and stays: after a flash the picture is as it was. Cuts that blend (dissolves, fades, wipes)
    are missed, as are cuts between pictures that look alike. Memory holds three frames.

    Args:
        frames: uint8 RGB `(3, H, W)`, in order.

    Yields:
        Whether the frame begins a shot, and the frame; two frames are waited for. The first frame begins one.
    """
    waiting: deque[tuple[torch.Tensor, _Look]] = deque()
    changes: deque[float] = deque(maxlen=_BEFORE)
    last: _Look | None = None
    for frame in frames:
        waiting.append((frame, _look(frame)))
        if len(waiting) > _AHEAD:
            begins, last = _begins(last, [look for _, look in waiting], changes), waiting[0][1]
            yield begins, waiting.popleft()[0]
    while waiting:
        begins, last = _begins(last, [look for _, look in waiting], changes), waiting[0][1]
        yield begins, waiting.popleft()[0]


def _begins(last: _Look | None, coming: list[_Look], changes: deque[float]) -> bool:
    """Whether a shot begins with the first of the frames that come; notes the change if not."""
    if last is None:
        return True
    change = _change(last, coming[0])
    usual = median(changes) if changes else 0.0
    least = max(_LEAST, _TIMES * usual)
    stays = all(_change(last, look) >= least for look in coming[1:])
    behind = max((_change(a, b) for a, b in pairwise(coming)), default=0.0)
    if change >= least and stays and change > 2 * behind:
        changes.clear()
        return True
    changes.append(change)
    return False


def _look(frame: torch.Tensor) -> _Look:
    step = max(min(frame.shape[1:]) // (4 * _SIDE), 1)  # a few pixels of each part are enough
    pixels = frame[:, ::step, ::step].float() / 256
    picture = F.adaptive_avg_pool2d(pixels, _SIDE)
    places = (pixels * _BINS).long().flatten(1) + torch.arange(3)[:, None] * _BINS
    counts = torch.bincount(places.flatten(), minlength=3 * _BINS).float()
    return _Look(picture, counts / places.shape[1])


def _change(one: _Look, other: _Look) -> float:
    """From 0 to 1: how far places and colours are apart."""
    places = float((one.picture - other.picture).abs().mean())
    colours = float((one.colours - other.colours).abs().sum()) / 6
    return (places * colours) ** 0.5
