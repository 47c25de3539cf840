"""What every decoder gives to `VideoReader`, the one error for all that goes wrong, and stacks of pictures."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


class FrameSource(ABC):
    """Frames in the order in which they are shown, to be had by index.

    Attributes:
        backend: what decodes them.
        num_frames: frames there are; of a file cut short, the number it should have, where it tells.
        fps: frames per second, on average where the rate is variable.
        variable: whether the frames come at a variable rate.
        height: rows of an upright frame.
        width: columns of an upright frame.
        timestamps: float64 seconds from the first frame, for each frame.
        missing: frames of the latest `frames` that could not be decoded and were stood for by another.
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
            Each index with its uint8 RGB frame `(C, H, W)`; where one frame stands for several, the same tensor.
        """

    def close(self) -> None:  # noqa: B027
        """Lets go of what the source holds."""


def stack_pictures(pictures: Sequence[torch.Tensor]) -> torch.Tensor:
    """As `torch.stack`, of `(..., C, H, W)`; pixels that lie together, as decoders give them, stay together.

    Turning them into planes takes as long as decoding does, and the networks want them together on CPUs.
    """
    if pictures[0].stride(-3) != 1:
        return torch.stack(list(pictures))
    return torch.stack([picture.movedim(-3, -1) for picture in pictures]).movedim(-1, -3)


class VideoError(RuntimeError):
    """A source that gives no frames; the message names it, the cause and, where there is one, the cure."""


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
            f"{printable(name)}: cannot be decoded ({type(error).__name__}: {reason}): it is damaged or of a kind that "
            "is not read; see whether a player shows it, or convert it to H.264 in MP4"
        ) from error


def printable(name: str) -> str:
    """A name that any stream can print: bytes of a file's name that are no UTF-8 are written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
