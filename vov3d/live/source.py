"""Reads the newest frame of a camera, an address, a pipe or a file, in a thread beside the network."""

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from vov3d.layers.checks import is_positive
from vov3d.video import VideoError
from vov3d.video.decoders.base import printable
from vov3d.video.decoders.index import FFmpegError, shown_stream
from vov3d.video.sources import Media, is_address

try:
    import av
    from av.error import ExitError, InvalidDataError
except ImportError as error:
    raise ImportError("live video needs PyAV: pip install 'vov3d[video]'") from error

from vov3d.video.decoders.opening import ANY_METADATA, check_pixels, check_size, open_container
from vov3d.video.decoders.pyav import display_matrix, upright

__all__ = ["Captured", "LiveSource"]

_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}
_LONGEST_PAUSE = 10.0  # seconds between two attempts
_MEASURED = 5.0  # seconds over which the rate of a source is measured


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
    10. A file, or a recording at an http address, is read once, frame by frame, as fast as frames are taken and without
    loss, or with `realtime` like a camera. Frames are upright by their display matrix.

    Args:
        source: `0` or `"0"` (a camera by its number), an address (`rtsp://`, `http://`, `tcp://` ...), a file, or `"-"`
            for raw RGB frames on standard input.
        fps: frames per second to take; all if None.
        realtime: reads a file or a recording at its own speed.
        size: rows and columns of the raw frames of `"-"`.
        stall: seconds without a frame after which a stream is opened again.
        retries: consecutive attempts that may fail.
        pause: seconds before the first attempt to reopen.
        tell: called in the thread with a line of text for each attempt that failed, for a file that is cut short, and
            for a source with fewer frames than `fps`.

    Attributes:
        dropped: frames that were replaced by a newer one before they were taken.
        reconnects: number of times that the source was opened again.

    Raises:
        ValueError: for settings that do not fit the source.
        VideoError: for a file that does not exist.
    """

    def __init__(
        self,
        source: str | int | os.PathLike[str],
        fps: float | None = None,
        realtime: bool = False,
        size: tuple[int, int] | None = None,
        stall: float = 10.0,
        retries: int = 8,
        pause: float = 0.5,
        tell: Callable[[str], object] = lambda text: None,
    ) -> None:
        source = str(source)  # cameras are numbers in OpenCV
        if fps is not None and not is_positive(fps):
            raise ValueError(f"fps {fps!r} must be positive and finite")
        if not is_positive(stall):
            raise ValueError(f"stall {stall!r} must be positive and finite")
        if retries < 0:
            raise ValueError(f"retries is {retries}: it must be at least 0")
        if (source == "-") != (size is not None):
            raise ValueError("raw frames from a pipe, '-', need their size; other sources do not take one")
        if size is not None:
            check_pixels(size[1], size[0], "-")
        self.source, self.fps, self.size = source, fps, size
        self.name = printable(re.sub(r"://([^/:@]*):[^/]*@", r"://\1:***@", source))  # in messages: no password
        self.camera = source.isdecimal()
        self.address = re.match(r"[a-z][a-z0-9+]+://", source, re.IGNORECASE) is not None
        self.file = not (self.camera or self.address or source == "-")
        if realtime and not (self.file or is_address(source)):
            raise ValueError(f"realtime would have no effect: {self.name} is live already")
        if self.file and not os.path.isfile(source):
            what = "is a folder, not a video" if os.path.isdir(source) else "no such file"
            raise VideoError(f"{self.name}: {what}; give a file, a camera's number, or an address such as rtsp://...")
        self.realtime, self.stall, self.retries, self.pause = realtime, stall, retries, pause
        self._tell = tell
        self.dropped = self.reconnects = 0
        self._recorded = self.file  # timed by its own clock, and read once
        self._begun: float | None = None  # arrival of the first frame, which stays when a stream is opened again
        self._newest: Captured | None = None
        self._error: Exception | None = None
        self._ended = self._closed = False
        self._measured = fps is None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="vov3d-live", daemon=True)

    def __enter__(self) -> "LiveSource":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread, which closes the source; one that waits for a silent source ends later, by itself."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(1.0)

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
            self._error = error if isinstance(error, VideoError) else VideoError(f"{self.name}: {_reason(error)}")
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _read_with_retries(self) -> None:
        failures = 0
        while not self._closed:
            count, why = self._read()
            if self._closed:
                return
            if self._recorded or self.source == "-":
                if not count:
                    raise VideoError(f"{self.name}: cannot be read as video: {why or 'it ended before a frame'}")
                if why:
                    raise VideoError(f"{self.name}: ended after {count} frames: {why}")
                return
            failures = 0 if count else failures + 1
            why = why or ("it ended" if count else "it ended before a frame")
            if failures > self.retries:
                raise VideoError(f"{self.name}: {failures} attempts in a row gave no frame; the last: {why}")
            pause = min(self.pause * 2 ** max(failures - 1, 0), _LONGEST_PAUSE)
            attempt = f"attempt {failures + 1} of {self.retries + 1}" if failures else f"after {count} frames"
            self._tell(f"{self.name}: {why}; opening it again in {pause:g} s ({attempt})")
            with self._changed:
                if self._changed.wait_for(lambda: self._closed, pause):
                    return
            self.reconnects += 1

    def _read(self) -> tuple[int, str]:
        """Reads until the source ends; returns the number of frames, and the error that ended it, if any."""
        count, due, begun, start, seconds = 0, 0.0, None, None, 0.0
        try:
            for picture, seconds in self._pictures():
                count += 1
                start = seconds if start is None else start
                if seconds - start >= _MEASURED:
                    self._measure(count, seconds - start)
                begun = time.monotonic() - seconds if begun is None else begun
                if self.realtime and self._recorded and (wait := begun + seconds - time.monotonic()) > 0:
                    begun -= max(wait - self.stall, 0)  # a longer gap between two frames is cut
                    with self._changed:
                        self._changed.wait_for(lambda: self._closed, min(wait, self.stall))
                if self._closed:
                    break
                if self.fps is not None:
                    if seconds < due - 0.1 / self.fps:  # cameras are not exact to the millisecond
                        continue
                    late = seconds - due >= 1 / self.fps
                    due = (seconds if late else due) + 1 / self.fps
                self._put(picture() if callable(picture) else picture, seconds)
        except ExitError:
            return count, f"it sent nothing for {self.stall:g} s"
        except (FFmpegError, OSError, ValueError) as error:
            return count, _reason(error)
        if self._recorded and start is not None:
            self._measure(count, seconds - start)
        return count, ""

    def _measure(self, count: int, seconds: float) -> None:
        """Tells once if a source has fewer frames than are to be taken."""
        if self._measured or not seconds:
            return
        self._measured = True
        assert self.fps is not None
        if (rate := (count - 1) / seconds) < 0.9 * self.fps:
            self._tell(
                f"{self.name}: has {rate:.2g} frames a second, fewer than the {self.fps:.2g} to be taken: motion looks"
                " faster to a model than it is"
            )

    def _put(self, picture: np.ndarray, seconds: float) -> None:
        with self._changed:
            if self._recorded and not self.realtime:  # wait until the frame is taken
                self._changed.wait_for(lambda: self._newest is None or self._closed)
            elif self._newest is not None:
                self.dropped += 1
            self._newest = Captured(picture, time.monotonic(), seconds)
            self._changed.notify_all()

    def _pictures(self) -> Iterator[tuple[Any, float]]:
        """Yields pictures, or functions that return one, with their seconds from the first."""
        if self.source == "-":
            assert self.size is not None
            if sys.stdin is None:
                raise ValueError("standard input is closed; give raw frames through a pipe")
            pipe = sys.stdin.buffer
            # Unbuffered: a thread that waits in a buffered read holds a lock, with which Python cannot exit.
            for picture in _raw(getattr(pipe, "raw", pipe), self.size):
                yield picture, self._passed()
            return
        with self._opened() as container:
            stream = shown_stream(container)
            if stream is None:
                raise ValueError("it holds no video")
            check_size(container, stream, self.name)
            sized = (container.size or 0) > 0 or bool(container.duration)
            self._recorded = self.file or (is_address(self.source) and sized)
            rate, first, seconds = stream.average_rate or stream.guessed_rate or 25, None, 0.0
            for number, frame in enumerate(self._frames(container, stream)):
                if not self._recorded:
                    seconds = self._passed()
                elif frame.time is None:
                    seconds = float(number / rate)
                else:
                    first = frame.time if first is None else first
                    seconds = max(frame.time - first, 0.0)
                yield partial(_upright_rgb, frame), seconds
            if self._recorded and (stated := _stated(container, stream)) > seconds + 1 + 1 / rate:
                self._tell(
                    f"{self.name}: ended at {seconds:.1f} s, but it states {stated:.1f} s: it is cut short or damaged"
                )

    def _frames(self, container: Any, stream: Any) -> Iterator[Any]:
        """Yields decoded frames; a damaged packet is skipped, unless a stream gives no others for `stall` seconds."""
        newest = time.monotonic()
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except InvalidDataError:
                if not self._recorded and time.monotonic() - newest > self.stall:
                    raise
                continue
            if frames:
                yield from frames
                newest = time.monotonic()

    def _passed(self) -> float:
        """Returns the seconds since its first call."""
        now = time.monotonic()
        self._begun = now if self._begun is None else self._begun
        return now - self._begun

    def _opened(self) -> Any:
        if self.file:
            return open_container(Media(self.name, os.path.abspath(self.source)))
        limits = (self.stall, self.stall)
        if self.camera:
            form, name = _CAMERAS.get(sys.platform, _CAMERAS["linux"])
            return av.open(name.format(self.source), format=form, timeout=limits)
        # TCP loses nothing; servers that have none are read by UDP.
        options = {"rtsp_flags": "prefer_tcp"} if self.source.lower().startswith("rtsp") else {}
        return av.open(self.source, container_options=options, timeout=limits, **ANY_METADATA)


def _upright_rgb(frame: Any) -> np.ndarray:
    return np.ascontiguousarray(upright(display_matrix(frame))(frame.to_ndarray(format="rgb24")))


def _stated(container: Any, stream: Any) -> float:
    """Returns the seconds that a file says its video lasts; 0 where it does not say."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0


def _reason(error: Exception) -> str:
    """Returns the cause without the source, which may hold a password."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def _raw(pipe: BinaryIO, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yields RGB frames of one size."""
    length = size[0] * size[1] * 3
    while data := _filled(pipe, length):
        if len(data) < length:
            raise ValueError(f"the pipe ended within a frame, {len(data)} of {length} bytes; is the size right?")
        yield np.frombuffer(data, np.uint8).reshape(*size, 3)


def _filled(pipe: BinaryIO, length: int) -> bytearray:
    """Reads `length` bytes, or those before the end; a pipe gives them in pieces."""
    data = bytearray()
    while len(data) < length and (piece := pipe.read(length - len(data))):
        data += piece
    return data
