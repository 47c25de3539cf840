"""Reads the newest frame of a camera, an address, a pipe or a file, in a thread beside the network."""

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from vov3d.video import VideoError
from vov3d.video.decoders.index import FFmpegError

try:
    import av
except ImportError as error:
    raise ImportError("live video needs PyAV: pip install 'vov3d[video]'") from error

__all__ = ["Captured", "LiveSource"]

_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}
_LONGEST_PAUSE = 10.0  # seconds between two attempts


@dataclass(frozen=True)
class Captured:
    """A decoded frame with its times.

    Attributes:
        picture: uint8 RGB `(H, W, 3)`.
        arrived: `time.monotonic()` when it was decoded.
        seconds: its time since the first frame, in a file by the file's own clock.
    """

    picture: np.ndarray
    arrived: float
    seconds: float


class LiveSource:
    """An iterator over the newest frames, and a context manager that closes the source.

    A thread decodes and keeps one frame: a frame that is not taken before the next one arrives is dropped and counted.
    A camera or an address that ends, stalls or fails is opened again, after pauses that grow from `pause` seconds to
    10. A file is read frame by frame, as fast as frames are taken and without loss, or with `realtime` like a camera.

    Args:
        source: `"0"` (a camera by its number), an address (`rtsp://`, `http://`, `tcp://` ...), a file, or `"-"` for
            raw RGB frames on standard input.
        fps: frames per second to take; all if None.
        realtime: reads a file at its own speed.
        size: rows and columns of the raw frames of `"-"`.
        stall: seconds without a frame after which a stream is opened again.
        retries: consecutive attempts that may fail.
        pause: seconds before the first attempt to reopen.

    Attributes:
        dropped: frames that were replaced by a newer one before they were taken.
        reconnects: number of times that the source was opened again.

    Raises:
        ValueError: for settings that do not fit the source.
        VideoError: for a file that does not exist.
    """

    def __init__(
        self,
        source: str,
        fps: float | None = None,
        realtime: bool = False,
        size: tuple[int, int] | None = None,
        stall: float = 10.0,
        retries: int = 8,
        pause: float = 0.5,
    ) -> None:
        if fps is not None and not 0 < fps < float("inf"):
            raise ValueError(f"fps {fps} must be positive and finite")
        if (source == "-") != (size is not None):
            raise ValueError("raw frames from a pipe, '-', need their size; other sources do not take one")
        self.source, self.fps, self.size = source, fps, size
        self.camera = source.isdecimal()
        self.address = re.match(r"[a-z][a-z0-9+]+://", source, re.IGNORECASE) is not None
        self.file = not (self.camera or self.address or source == "-")
        if realtime and not self.file:
            raise ValueError(f"realtime would have no effect: {source} is live already")
        if self.file and not os.path.isfile(source):
            raise VideoError(f"{source}: no such file; give a camera's number, or an address such as rtsp://...")
        self.realtime, self.stall, self.retries, self.pause = realtime, stall, retries, pause
        self.dropped = self.reconnects = 0
        self._begun: float | None = None  # arrival of the first frame, which stays when a stream is opened again
        self._newest: Captured | None = None
        self._error: Exception | None = None
        self._ended = self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="vov3d-live", daemon=True)

    def __enter__(self) -> "LiveSource":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread, which closes the source."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(self.stall + 1)

    def __iter__(self) -> Iterator[Captured]:
        """Yields the newest frame, whenever there is one that was not taken.

        Raises:
            VideoError: if the source cannot be opened or read, and reopening fails.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._ended or self._closed)
                frame, self._newest = self._newest, None
                self._changed.notify_all()
            if frame is None:
                if self._error is not None:
                    raise self._error
                return
            yield frame

    # --- the thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._read_with_retries()
        except Exception as error:  # raised where frames are taken
            self._error = error if isinstance(error, VideoError) else VideoError(f"{self.source}: {error}")
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _read_with_retries(self) -> None:
        failures = 0
        while not self._closed:
            count, why = self._read()
            if self.file or self.source == "-":
                if why and not count:
                    raise VideoError(f"{self.source}: cannot be read as video: {why}")
                return
            failures = 0 if count else failures + 1
            if failures > self.retries:
                raise VideoError(f"{self.source}: {failures} attempts in a row gave no frame; the last: {why}")
            with self._changed:
                pause = min(self.pause * 2 ** max(failures - 1, 0), _LONGEST_PAUSE)
                if self._changed.wait_for(lambda: self._closed, pause):
                    return
            self.reconnects += 1

    def _read(self) -> tuple[int, str]:
        """Reads until the source ends; returns the number of frames, and the error that ended it, if any."""
        count, due, begun = 0, 0.0, None
        try:
            for picture, seconds in self._pictures():
                count += 1
                begun = time.monotonic() - seconds if begun is None else begun
                if self._closed:
                    break
                if self.realtime and (wait := begun + seconds - time.monotonic()) > 0:
                    time.sleep(min(wait, self.stall))
                if self.fps is not None:
                    if seconds < due - 0.1 / self.fps:  # cameras are not exact to the millisecond
                        continue
                    late = seconds - due >= 1 / self.fps
                    due = (seconds if late else due) + 1 / self.fps
                self._put(picture() if callable(picture) else picture, seconds)
        except (FFmpegError, OSError, ValueError) as error:
            return count, " ".join(str(error).split())
        return count, ""

    def _put(self, picture: np.ndarray, seconds: float) -> None:
        with self._changed:
            if not (self.file and not self.realtime) and self._newest is not None:
                self.dropped += 1
            elif self.file and not self.realtime:  # wait until the frame is taken
                self._changed.wait_for(lambda: self._newest is None or self._closed)
            self._newest = Captured(picture, time.monotonic(), seconds)
            self._changed.notify_all()

    def _pictures(self) -> Iterator[tuple[Any, float]]:
        """Yields pictures, or functions that return one, with their seconds from the first."""
        if self.source == "-":
            assert self.size is not None
            for picture in _raw(sys.stdin.buffer, self.size):
                yield picture, self._passed()
            return
        with self._opened() as container:
            if not container.streams.video:
                raise ValueError("it holds no video")
            first = None
            for frame in container.decode(container.streams.video[0]):
                if frame.time is None or not self.file:
                    seconds = self._passed()
                else:
                    first = frame.time if first is None else first
                    seconds = max(frame.time - first, 0.0)
                yield lambda frame=frame: frame.to_ndarray(format="rgb24"), seconds

    def _passed(self) -> float:
        """Returns the seconds since its first call."""
        now = time.monotonic()
        self._begun = now if self._begun is None else self._begun
        return now - self._begun

    def _opened(self) -> Any:
        limits = (self.stall, self.stall)
        if not self.camera:
            name = os.path.abspath(self.source) if self.file else self.source  # absolute: never an address
            options = {"rtsp_transport": "tcp"} if self.source.lower().startswith("rtsp") else {}
            return av.open(name, options=options, timeout=None if self.file else limits)
        form, name = _CAMERAS.get(sys.platform, _CAMERAS["linux"])
        return av.open(name.format(self.source), format=form, timeout=limits)


def _raw(pipe: BinaryIO, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yields RGB frames of one size."""
    length = size[0] * size[1] * 3
    while len(data := pipe.read(length)) == length:
        yield np.frombuffer(data, np.uint8).reshape(*size, 3)
    if data:
        raise ValueError(f"the pipe ended within a frame: {len(data)} of {length} bytes")
