"""Sources, one after the other, as the events that `VideoClassifier` works on; runs in a thread beside the network."""

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vov3d.video._clips import Clip, plan_clips, stream_clips
from vov3d.video._errors import VideoError
from vov3d.video._source import Source, is_file
from vov3d.video.reader import VideoReader, missing_text
from vov3d.video.transforms import EvalTransform


@dataclass(frozen=True)
class Opened:
    """A source is open and its clips are planned.

    Attributes:
        source: as it was given.
        clips: seconds of the frames of each clip of the plan.
        duration: of the video, in seconds.
        distinct: clips that differ; equal ones, as of a short video, are computed once.
    """

    source: Source
    clips: list[list[float]]
    duration: float
    distinct: int


@dataclass(frozen=True)
class Loaded:
    """A clip is there.

    Attributes:
        crops: uint8 views `(T, C, S, S)` of one tensor.
        weight: how often the clip stands in the plan.
        shown: whether it is the middle one of the plan.
    """

    crops: list[torch.Tensor]
    weight: int
    shown: bool


@dataclass(frozen=True)
class Closed:
    """A source is done with.

    Attributes:
        source: as it was given.
        error: why it gave nothing more.
        warning: what is to be said about it.
    """

    source: Source
    error: Exception | None = None
    warning: str | None = None


@dataclass(frozen=True)
class Loader:
    """Opens sources and reads their clips.

    Attributes:
        cfg: the model's `pretrained_cfg`.
        transform: what resizes and cuts frames.
        num_clips: clips of a plan.
        backend: what decodes files.
    """

    cfg: Mapping[str, Any]
    transform: EvalTransform
    num_clips: int
    backend: str | None

    def events(self, sources: Iterable[Source], fps: float | None) -> Iterator[Opened | Loaded | Closed]:
        """For each source `Opened`, a `Loaded` for each distinct clip, and `Closed`; at an error `Closed` at once."""
        for source in sources:
            try:
                warning = yield from self._read(source, fps)
            except (VideoError, OSError, ValueError) as error:
                yield Closed(source, error)
            else:
                yield Closed(source, warning=warning)

    def _read(self, source: Source, fps: float | None) -> Generator[Opened | Loaded, None, str | None]:
        """The events of one source but the last; returns what is to be said about it."""
        with VideoReader(source, self.backend if is_file(source) else None, fps) as reader:
            plan = plan_clips(self.cfg, reader, self.num_clips)
            counts = Counter(plan)
            times = [reader.timestamps[list(clip)].tolist() for clip in plan]
            yield Opened(source, times, reader.duration, len(counts))
            yield from self._clips(reader, counts, plan[len(plan) // 2])
            if reader.missing:
                return missing_text(reader.path, reader.missing, len({index for clip in counts for index in clip}))
        return None

    def _clips(self, reader: VideoReader, counts: Mapping[Clip, int], middle: Clip) -> Iterator[Loaded]:
        try:
            for clip, frames in stream_clips(reader, list(counts), self.transform.resize):
                yield Loaded(self.transform.cut(frames), counts[clip], clip == middle)
        except ValueError as error:  # frames that cannot be resized
            raise VideoError(f"{reader.path}: {error}") from error
