"""A part of a video as a video of its own."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from vov3d.video.decoders.base import FrameSource, VideoError
from vov3d.video.sources import Section

_SLACK = 1e-6  # seconds: times in lists are rounded


class SectionFrames(FrameSource):
    """The frames of a section; the frames outside it are not decoded further than seeking needs."""

    def __init__(self, whole: FrameSource, section: Section) -> None:
        self._whole = whole
        self._first, stop = _bounds(whole, section)
        times = whole.timestamps[self._first : stop]
        self.backend, self.variable = whole.backend, whole.variable
        self.height, self.width = whole.height, whole.width
        self.num_frames = len(times)
        self.timestamps = times - times[0]
        lasts = float(self.timestamps[-1])
        self.fps = (self.num_frames - 1) / lasts if self.variable and lasts > 0 else whole.fps

    @property
    def missing(self) -> int:  # type: ignore[override]
        """As `FrameSource.missing`."""
        return self._whole.missing

    def frames(self, targets: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """Decodes frames of the section, as `FrameSource.frames`."""
        for index, frame in self._whole.frames([target + self._first for target in targets]):
            yield index - self._first, frame

    def close(self) -> None:
        """Closes the video."""
        self._whole.close()


def _bounds(whole: FrameSource, section: Section) -> tuple[int, int]:
    """Returns the index of the first frame of a section, and of the one after its last."""
    if section.in_frames:
        first = round(section.start)
        stop = whole.num_frames if section.end is None else min(round(section.end), whole.num_frames)
        has = f"{whole.num_frames} frames"
    else:
        first = int(np.searchsorted(whole.timestamps, section.start - _SLACK))
        end = np.inf if section.end is None else section.end - _SLACK
        stop = int(np.searchsorted(whole.timestamps, end))
        has = f"{whole.timestamps[-1] + 1 / whole.fps:.2f} s"
        if first == whole.num_frames and section.start < whole.timestamps[-1] + 1 / whole.fps:
            first -= 1  # the last frame is being shown
    if first >= whole.num_frames:
        raise VideoError(f"{section}: the video has only {has}; see whether the list is of this file")
    return first, max(stop, first + 1)
