"""What every kind of source gives to `VideoReader`."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

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
