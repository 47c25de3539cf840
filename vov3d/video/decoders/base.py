"""The interface between decoders and `VideoReader`, the error that all decoders raise, and stacks of pictures."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


class FrameSource(ABC):
    """Frames in the order in which they are shown, read by index.

    Attributes:
        backend: name of the decoder.
        num_frames: number of frames; of a file cut short, the number it should have, if its header states it.
        fps: frames per second, on average where the rate is variable.
        variable: whether the frames come at a variable rate.
        height: rows of an upright frame.
        width: columns of an upright frame.
        timestamps: float64 seconds from the first frame, for each frame.
        missing: frames of the latest `frames` that could not be decoded and were replaced by another.
    """

    backend: str
    num_frames: int
    fps: float
    height: int
    width: int
    timestamps: np.ndarray
    variable = False
    missing = 0

    @abstractmethod
    def frames(self, targets: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """Decodes some frames in one pass.

        Args:
            targets: rising indices, without repeats.

        Yields:
            Each index with its uint8 RGB frame `(C, H, W)`; a frame that replaces others is the same tensor each time.
        """

    def close(self) -> None:  # noqa: B027
        """Releases the source's files and memory."""


def stack_pictures(pictures: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stacks pictures `(..., C, H, W)` as `torch.stack` does, but keeps channels-last memory as decoders give it.

    Converting it to planes takes as long as decoding does, and networks are faster channels-last on CPUs.
    """
    if pictures[0].stride(-3) != 1:
        return torch.stack(list(pictures))
    return torch.stack([picture.movedim(-3, -1) for picture in pictures]).movedim(-1, -3)


def middle(gaps: np.ndarray) -> int:
    """Returns the median of whole numbers, the upper of two."""
    return int(np.partition(gaps, len(gaps) // 2)[len(gaps) // 2])


def has_far_gap(gaps: np.ndarray) -> bool:
    """Returns whether some gap between frames is far from the median, beyond the rounding of coarse time bases.

    Args:
        gaps: whole numbers above 0, in units of the time base.
    """
    if not len(gaps):
        return False
    median = middle(gaps)
    return bool((abs(gaps - median) > max(median / 2, 1)).any())


def is_variable(gaps: np.ndarray) -> bool:
    """Returns whether frames cannot be counted by their average rate: some gap is far from the median, or they drift.

    They drift if a frame is more than a median gap from where the average puts it, as where a camera changes its rate
    in the dark, or drops frames in a time base of one frame. Rounded times of a constant rate are closer.

    Args:
        gaps: as for `has_far_gap`.
    """
    if not len(gaps):
        return False
    times = np.concatenate([[0], np.cumsum(gaps)])
    drift = abs(times - np.linspace(0, times[-1], len(times))).max()
    return has_far_gap(gaps) or bool(drift > middle(gaps))


class VideoError(RuntimeError):
    """A source cannot be read; the message names it, the cause and, if there is one, the remedy."""


@contextmanager
def named(name: str) -> Iterator[None]:
    """Turns whatever a decoder raises into a `VideoError` that names the file."""
    try:
        yield
    except (VideoError, ImportError):
        raise
    except MemoryError as error:
        raise VideoError(f"{printable(name)}: its frames do not fit in memory; give a smaller video") from error
    except Exception as error:
        reason = printable(" ".join(str(error).split())) or "no reason given"
        raise VideoError(
            f"{printable(name)}: cannot be decoded ({type(error).__name__}: {reason}): it is damaged or in an "
            "unsupported format; see whether a player shows it, or convert it to H.264 in MP4"
        ) from error


def printable(name: str) -> str:
    """Returns a name that any stream can print: bytes of a file name that are no UTF-8 become escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
