"""Random, frame-exact access to a video: a file, an address, a folder of pictures, or an array."""

import contextlib
import operator
import os
import threading
import warnings
import weakref
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from vov3d.layers.checks import is_positive
from vov3d.video.decoders.base import FrameSource, VideoError, named, printable, stack_pictures
from vov3d.video.decoders.index import FFmpegError as FFmpegError  # tells at import that PyAV is missing
from vov3d.video.sources import (
    Media,
    Section,
    Source,
    head_of,
    is_address,
    is_file,
    is_folder,
    is_webp,
    media_key,
    media_of,
    source_name,
)

__all__ = ["BACKENDS", "VideoError", "VideoReader"]

BACKENDS = ("pyav", "torchcodec")
"""Decoders of video files: PyAV brings FFmpeg with it, torchcodec needs the system's."""

Transform = Callable[[torch.Tensor], torch.Tensor]


class VideoReader:
    """A video as a sequence of frames, in the order in which they are shown.

    Opening a file lists the packets without decoding them, so a wrong frame count in the container does not matter.
    Reading seeks to the key frame before a wanted frame and decodes no further than needed. Files without usable
    times (AVI with B-frames, raw streams) are decoded from the start and counted. Rotation metadata is honoured.

    A file that is cut short gives the frames it has; the last frame that can be decoded replaces those missing. In a
    damaged file, frames from the damage up to the next key frame are as FFmpeg decodes them. Both are counted in
    `missing`, with one warning per reader.

    Threads may share a reader; they wait for each other. After a fork and after pickling, the source is opened again.

    Attributes:
        path: what was opened: the file, folder or address, or a description of bytes and arrays.
        backend: the decoder: `"pyav"`, `"torchcodec"`, `"pillow"` (a folder, WebP) or `"memory"` (an array).
        num_frames: frames in the video; of a file cut short, the number it should have, if its header states it.
        fps: frames per second, on average where the rate is variable.
        variable: whether the frames come at a variable rate.
        height: rows of an upright frame.
        width: columns of an upright frame.
        timestamps: float64 array of seconds from the first frame, for each frame.
        duration: seconds, up to the end of the last frame.
        missing: frames of the latest reading that are damaged or were replaced by another.

    Examples:
        >>> with VideoReader("clip.mp4") as reader:  # doctest: +SKIP
        ...     frames = reader.read(range(0, reader.num_frames, 5))
    """

    def __init__(self, source: Source, backend: str | None = None, fps: float | None = None) -> None:
        """Opens the source and lists its frames.

        Args:
            source: a video file; a folder of pictures, one a frame, in natural order; an http(s) address, as a
                string, which is downloaded to a temporary file; a video file's `bytes`; or uint8 RGB frames
                `(T, H, W, 3)` or `(T, 3, H, W)` in an array or a tensor.
            backend: the decoder for files, `"pyav"` (the default) or `"torchcodec"`; both give bit-identical frames.
                Files that torchcodec would decode differently are always decoded by PyAV; see `backend`.
            fps: frames per second of a folder (12 if not given, as in Something-Something V1) or an array (30). A
                file has its own.

        Raises:
            VideoError: if the source is missing, unreadable, or has no frame that can be decoded.
            ValueError: for an unknown backend, frames of another form, or settings that do not apply to the source.
            ImportError: if torchcodec is asked for and cannot be used.
        """
        self.path = source_name(source)
        _check_settings(source, backend, fps)
        self._given = source, backend, fps
        self._closed = self._warned = False
        self._missing = 0
        self._set_apart()
        frames = self._here()
        _OPEN.add(self)
        self.num_frames, self.fps, self.variable = frames.num_frames, frames.fps, frames.variable
        self.height, self.width = frames.height, frames.width
        self.timestamps = frames.timestamps
        self.duration = float(self.timestamps[-1]) + 1 / self.fps

    def _set_apart(self) -> None:
        """Starts without the source, the lock and the stream of another process."""
        self._frames: FrameSource | None = None
        self._after = contextlib.ExitStack()  # what closing releases
        self._lock = threading.RLock()
        self._turn = object()  # of the stream that decoded last: it alone may continue from the decoder's position

    def _here(self) -> FrameSource:
        """Returns the frames, opened at the first use in each process."""
        if self._frames is None:
            self._frames = self._opened(*self._given)
            self._after.callback(self._frames.close)
        return self._frames

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, (type(self), self._given, self._closed)

    def _opened(self, source: Source, backend: str | None, fps: float | None) -> FrameSource:
        """Opens a source."""
        if isinstance(source, Section):
            return self._section(source, backend, fps)
        if isinstance(source, (str, os.PathLike, bytes)):
            if is_address(source):
                return self._downloaded(str(source), backend)
            if not isinstance(source, bytes) and is_folder(source):
                from vov3d.video.decoders.images import FolderFrames  # needs Pillow, unlike files

                folder = FolderFrames(os.fspath(source), fps)
                self._key = folder.content_key
                return folder
            media = media_of(source)
            self._key = partial(media_key, media)
            return _file_frames(media, backend)
        from vov3d.video.decoders.arrays import ArrayFrames

        array = ArrayFrames(source, fps)
        self._key = array.content_key
        return array

    def _section(self, section: Section, backend: str | None, fps: float | None) -> FrameSource:
        """Opens a part of a video."""
        from vov3d.video.decoders.section import SectionFrames

        whole = self._opened(section.video, backend, fps)
        key = self._key
        self._key = lambda: zlib.crc32(repr((section.start, section.end)).encode(), key())
        try:
            return SectionFrames(whole, section)
        except BaseException:
            whole.close()
            raise

    def _downloaded(self, address: str, backend: str | None) -> FrameSource:
        """Opens a file that is downloaded first, and deleted on closing."""
        from vov3d.video.sources import Download

        copy = Download(address)
        try:
            frames = _file_frames(copy.media, backend)
        except BaseException:
            copy.close()
            raise
        self._after.callback(copy.close)
        self._key = partial(media_key, copy.media)
        return frames

    @property
    def backend(self) -> str:
        """The decoder: `"pyav"`, `"torchcodec"`, `"pillow"` (a folder) or `"memory"` (an array)."""
        return self._here().backend

    @property
    def missing(self) -> int:
        """Frames of the latest reading that are damaged or were replaced by another."""
        return self._missing

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.num_frames

    def close(self) -> None:
        """Closes the source; reading afterwards raises."""
        self._closed = True
        with self._lock:
            self._after.close()

    def at_constant_rate(self, indices: Iterable[int]) -> list[int]:
        """Turns indices counted at the average rate into those of the frames shown nearest to that time.

        Indices in a file of constant rate do not change. In others the average may be far from the rate of any part:
        `vov3d.video.plan_clips` plans their clips by time.

        Args:
            indices: frame `i` stands for the time `i / fps`.

        Returns:
            As many indices of frames of this file.
        """
        if not self.variable:
            return list(indices)
        return self.at_times(index / self.fps for index in indices)

    def at_times(self, seconds: Iterable[float]) -> list[int]:
        """Returns the frames shown nearest to some times; the first or last one for times outside the video.

        Args:
            seconds: from the first frame.

        Returns:
            As many indices of frames.
        """
        return [self._nearest(time) for time in seconds]

    def content_key(self) -> int:
        """Returns a number that depends on the content alone, to seed random choices for this video.

        It is the same for a file given by path, bytes or address, wherever it is and whatever its name.

        Returns:
            From 0 to 2^32 - 1.
        """
        self._here()  # which sets it
        return self._key()

    def _nearest(self, seconds: float) -> int:
        """Returns the frame whose time is nearest; of two equally near, the earlier."""
        after = min(bisect_left(self.timestamps, seconds), self.num_frames - 1)
        before = max(after - 1, 0)
        return before if seconds - self.timestamps[before] <= self.timestamps[after] - seconds else after

    def read(self, indices: Iterable[int], transform: Transform | None = None) -> torch.Tensor:
        """Decodes frames; each one is decoded and converted once, however often it is asked for.

        Args:
            indices: in any order, repeats allowed, each in `[0, num_frames - 1]`.
            transform: applied to each frame `(C, H, W)` at once, so that many large frames need not fit in memory,
                e.g. `eval_transform(cfg).resize`.

        Returns:
            uint8 RGB frames `(T, C, H, W)` in the order of `indices`; or the stacked results of `transform`.

        Raises:
            IndexError: for a frame that the video does not have.
            ValueError: if no frame is asked for or the reader is closed.
            VideoError: if nothing can be decoded.
        """
        wanted = [operator.index(index) for index in indices]
        self._check(wanted)
        with self._lock:
            frames = dict(self.stream(wanted, transform))
            missing = self._missing
        if missing and not self._warned:
            self._warned = True
            warnings.warn(missing_text(self.path, missing, len(frames)), RuntimeWarning, stacklevel=2)
        return stack_pictures([frames[index] for index in wanted])

    def stream(self, indices: Iterable[int], transform: Transform | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """Decodes frames in one pass and yields each at once; memory holds one at a time.

        Afterwards `missing` counts those that are damaged or were replaced by another; no warning is given.

        Args:
            indices: in any order, repeats allowed, each in `[0, num_frames - 1]`.
            transform: applied to each frame `(C, H, W)`.

        Yields:
            Each index once, rising, with its uint8 RGB frame `(C, H, W)` or the result of `transform`.

        Raises:
            IndexError: for a frame that the video does not have.
            ValueError: if no frame is asked for or the reader is closed.
            VideoError: if nothing can be decoded.
        """
        wanted = sorted({operator.index(index) for index in indices})
        self._check(wanted)
        latest: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
        for index, frame in self._decoded(wanted):
            if frame is not latest[0]:  # one frame may stand for several
                latest = frame, frame if transform is None else transform(frame)
            assert latest[1] is not None
            yield index, latest[1]

    def _decoded(self, wanted: list[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """Yields frames by rising index; after another stream of this reader decoded, seeks again."""
        turn, done, before, missing = object(), 0, 0, 0
        steps: Iterator[tuple[int, torch.Tensor]] = iter(())
        while done < len(wanted):
            with self._lock:
                if self._turn is not turn:
                    self._check(wanted)
                    self._turn, before = turn, missing
                    steps = self._here().frames(wanted[done:])
                with named(self.path):
                    index, frame = next(steps)
                missing = self._missing = before + self._here().missing
                done += 1
            yield index, frame

    def _check(self, wanted: Sequence[int]) -> None:
        """Raises an error for frames that cannot be read, before anything is decoded."""
        if self._closed:
            raise ValueError(f"{printable(self.path)}: the reader is closed; open it again")
        if not wanted:
            raise ValueError(f"{printable(self.path)}: no frames were asked for")
        for index in wanted:
            if not 0 <= index < self.num_frames:
                raise IndexError(f"{printable(self.path)}: frame {index} is not in 0..{self.num_frames - 1}")


def missing_text(name: str, missing: int, asked: int) -> str:
    """Returns the warning for a video with missing or damaged frames."""
    return (
        f"{printable(name)}: {missing} of the {asked} frames asked for are missing or damaged (the file is cut short "
        "or damaged); the last frame that can be decoded replaces missing ones, and damaged ones are as FFmpeg "
        "decodes them"
    )


_OPEN: "weakref.WeakSet[VideoReader]" = weakref.WeakSet()
_OF_PARENTS: list[Any] = []


def _after_fork() -> None:
    """Resets readers in the child: decoders of the parent would wait for threads that only the parent has."""
    for reader in list(_OPEN):
        _OF_PARENTS.append((reader._frames, reader._after))
        reader._set_apart()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _opened_again(kind: type[VideoReader], given: tuple[Any, ...], closed: bool) -> VideoReader:
    """Opens a reader again that was pickled."""
    reader = kind(*given)
    if closed:
        reader.close()
    return reader


def check_backend(backend: str | None) -> None:
    """Raises an error for a backend that is unknown or cannot be used here."""
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is not known; use one of {', '.join(BACKENDS)}")
    if backend == "torchcodec":
        from vov3d.video.decoders.torchcodec import require_torchcodec

        require_torchcodec()


def _check_settings(source: Source, backend: str | None, fps: float | None) -> None:
    """Raises an error for settings that make no sense or would have no effect."""
    check_backend(backend)
    file, name = is_file(source), printable(source_name(source))
    if fps is not None and file:
        raise ValueError(f"{name}: fps is for frames in an array or a folder; a file has its own rate")
    if fps is not None and not is_positive(fps):
        raise ValueError(f"fps {fps!r} must be positive and finite")
    if backend is not None and not file:
        raise ValueError(f"{name}: backend is for video files; frames are decoded already or by Pillow")


def _file_frames(media: Media, backend: str | None) -> FrameSource:
    """Opens a video file."""
    media = replace(media, name=printable(media.name))
    with named(media.name):
        if is_webp(head_of(media)):  # FFmpeg reads no animated WebP
            from vov3d.video.decoders.webp import WebPFrames

            return WebPFrames(media)
        if backend == "torchcodec":
            from vov3d.video.decoders.torchcodec import TorchCodecFrames

            return TorchCodecFrames(media)
        from vov3d.video.decoders.pyav import PyAVFrames

        return PyAVFrames(media)
