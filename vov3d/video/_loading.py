"""Reads sources one after the other as events for `VideoClassifier`; runs in a thread beside the network."""

import queue
import random
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar

import torch

from vov3d.video.decoders.base import VideoError, stack_pictures
from vov3d.video.reader import VideoReader, missing_text
from vov3d.video.sampling import clip_indices, clip_times, random_clip_indices, random_clip_times
from vov3d.video.sources import Source, is_file
from vov3d.video.transforms import EvalTransform

Clip = tuple[int, ...]
T = TypeVar("T")
_END = object()


@dataclass(frozen=True)
class Opened:
    """A source is open and its clips are planned.

    Attributes:
        source: as it was given.
        clips: seconds of the frames of each clip of the plan.
        duration: of the video, in seconds.
        distinct: number of different clips; equal ones, as in a short video, are computed once.
    """

    source: Source
    clips: list[list[float]]
    duration: float
    distinct: int


@dataclass(frozen=True)
class Loaded:
    """A clip has been decoded.

    Attributes:
        crops: uint8 views `(T, C, S, S)` of one tensor.
        weight: how often the clip occurs in the plan.
        shown: whether it is the middle one of the plan.
    """

    crops: list[torch.Tensor]
    weight: int
    shown: bool


@dataclass(frozen=True)
class Closed:
    """A source has been read to its end, or has failed.

    Attributes:
        source: as it was given.
        error: why reading stopped.
        warning: a message for the user.
    """

    source: Source
    error: Exception | None = None
    warning: str | None = None


@dataclass(frozen=True)
class Loader:
    """Opens sources and reads their clips.

    Attributes:
        cfg: the model's `pretrained_cfg`.
        transform: resizes and crops the frames.
        num_clips: clips of a plan.
        backend: name of the decoder for files.
    """

    cfg: Mapping[str, Any]
    transform: EvalTransform
    num_clips: int
    backend: str | None

    def events(self, sources: Iterable[Source], fps: float | None) -> Iterator[Opened | Loaded | Closed]:
        """Yields for each source `Opened`, a `Loaded` for each distinct clip, and `Closed`, early after an error."""
        for source in sources:
            try:
                warning = yield from self._read(source, fps)
            except (VideoError, OSError, ValueError) as error:
                yield Closed(source, error)
            else:
                yield Closed(source, warning=warning)

    def _read(self, source: Source, fps: float | None) -> Generator[Opened | Loaded, None, str | None]:
        """Yields the events of one source except the last; returns its warning, if any."""
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


def plan_clips(cfg: Mapping[str, Any], reader: VideoReader, num_clips: int = 1) -> list[Clip]:
    """Returns the frames of each clip of a video, for evaluation.

    A file of constant rate follows `clip_indices`. One of variable rate is planned by time (`clip_times`), with the
    frames shown nearest to those times. An array of exactly one clip's frames is used as it is.

    Args:
        cfg: a model's `pretrained_cfg`; `num_frames`, `sampling` and, for dense sampling, `frame_stride` are used.
        reader: the video.
        num_clips: clips in the plan.

    Returns:
        `num_clips` tuples of `cfg["num_frames"]` rising indices.

    Raises:
        ValueError: as `clip_indices`.
    """
    if reader.backend == "memory" and reader.num_frames == cfg["num_frames"]:
        return [tuple(range(reader.num_frames))] * num_clips
    drawn = cfg["sampling"] == "segment" and num_clips > 1
    key = reader.content_key() if drawn else 0
    if reader.variable:
        plan = clip_times(cfg, float(reader.timestamps[-1]), num_clips, key)
        return [tuple(reader.at_times(times)) for times in plan]
    return [tuple(clip) for clip in clip_indices(cfg, reader.num_frames, reader.fps, num_clips, key)]


def plan_random_clip(cfg: Mapping[str, Any], reader: VideoReader, rng: random.Random) -> Clip:
    """Returns the frames of a random clip, for training; samples files of variable rate by time, as `plan_clips` does.

    Args:
        cfg: a model's `pretrained_cfg`, as for `plan_clips`.
        reader: the video.
        rng: the random generator.

    Returns:
        `cfg["num_frames"]` rising indices.

    Raises:
        ValueError: as `clip_indices`.
    """
    if reader.variable:
        return tuple(reader.at_times(random_clip_times(cfg, float(reader.timestamps[-1]), rng)))
    return tuple(random_clip_indices(cfg, reader.num_frames, reader.fps, rng))


def stream_clips(
    reader: VideoReader, clips: Sequence[Clip], transform: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[tuple[Clip, torch.Tensor]]:
    """Reads clips and yields each as soon as it is complete.

    Memory holds the frames of the clips that overlap, not those of the video.

    Args:
        reader: the video.
        clips: distinct clips, each of rising indices.
        transform: applied once to each frame `(C, H, W)`, such as `EvalTransform.resize`.

    Yields:
        Each clip with its frames `(T, C, H', W')`.
    """
    order = sorted(clips, key=lambda clip: (clip[-1], clip))
    # the first frame that a clip or any later one in the order needs
    needed = list(accumulate(reversed([clip[0] for clip in order]), min))[::-1]
    held: dict[int, torch.Tensor] = {}
    at = 0
    for index, frame in reader.stream({index for clip in order for index in clip}, transform):
        held[index] = frame
        while at < len(order) and order[at][-1] == index:
            yield order[at], stack_pictures([held[i] for i in order[at]])
            at += 1
            held = {i: kept for i, kept in held.items() if at < len(order) and i >= needed[at]}


def prefetched(items: Iterable[T], ahead: int) -> Generator[T, None, None]:
    """Runs an iterable in its own thread, a few items ahead.

    Args:
        items: the iterable; its errors are raised here, after the items before them.
        ahead: items that may wait.

    Yields:
        The items. When the caller stops early, the thread ends at its next item.
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(max(ahead, 1))
    stopped = threading.Event()

    def work() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                waiting.put((item, None))
                if stopped.is_set():
                    return
        except BaseException as e:
            error = e
        waiting.put((_END, error))

    thread = threading.Thread(target=work, name="vov3d-decode", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        while thread.is_alive():  # it may be waiting for room
            _emptied(waiting)
            thread.join(0.01)


def _emptied(waiting: queue.Queue) -> None:
    """Empties a queue."""
    while True:
        try:
            waiting.get_nowait()
        except queue.Empty:
            return
