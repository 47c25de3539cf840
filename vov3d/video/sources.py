"""The kinds of source that a caller may give as a video, told apart by name and type, and downloads of addresses."""

import math
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch

from vov3d.files import PICTURE_ENDINGS
from vov3d.video.decoders.base import VideoError
from vov3d.weights.download import DownloadError, download

# fmt: off
VIDEO_ENDINGS = frozenset((
    ".264", ".265", ".3g2", ".3gp", ".amv", ".apng", ".asf", ".avi", ".dav", ".divx", ".dv", ".f4v", ".flv",
    ".gif", ".h264", ".h265", ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg",
    ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".obu", ".ogm", ".ogv",
    ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".webp", ".wmv", ".wtv", ".xvid", ".y4m",
))
# fmt: on
"""Extensions of video files, in lower case. A `.webp` may also be a single picture; see `looks_like_video`."""

_KEY_BYTES = 4096


@dataclass(frozen=True)
class Section:
    """A part of a longer video, which is read as a video of its own: `VideoReader(Section("day.mp4", 61.5, 71.5))`.

    It holds the frames that are shown from `start` on and before `end`, to the microsecond; at least one.

    Attributes:
        video: the file, or the folder of frames.
        start: seconds from the first frame of the video; of `in_frames`, the number of the first frame, from 0.
        end: where it ends, in the same unit, not included; None for the end of the video, which also ends it earlier.
        in_frames: whether `start` and `end` count frames, as for folders of frames whose rate is not known.
    """

    video: str | os.PathLike[str]
    start: float = 0.0
    end: float | None = None
    in_frames: bool = False

    def __post_init__(self) -> None:
        end = math.inf if self.end is None else self.end
        if not 0 <= self.start < math.inf or not self.start < end:
            raise ValueError(f"{self}: expected 0 <= start < end")

    def __str__(self) -> str:
        unit = "frame " if self.in_frames else ""
        seconds = "" if self.in_frames else " s"
        end = "its end" if self.end is None else f"{self.end:.10g}{seconds}"
        return f"{os.fspath(self.video)} (from {unit}{self.start:.10g}{seconds} to {end})"


Source = str | os.PathLike[str] | bytes | np.ndarray | torch.Tensor | list[Any] | Section
"""A video file, a folder of frames, an http(s) address, a file's bytes, uint8 frames in an array or one by one, or a
`Section` of a file or folder."""


@dataclass(frozen=True)
class Media:
    """A video file as decoders read it.

    Attributes:
        name: the name in error messages.
        path: the file on disk; absolute, so that no decoder takes it for an address.
        data: the file's content, where it is in memory.
        own: whether it is the caller's own file, not a download.
    """

    name: str
    path: str | None = None
    data: bytes | None = None
    own: bool = True


def is_address(source: object) -> bool:
    """Returns whether a source is an http(s) address: only strings are, never path objects."""
    return isinstance(source, str) and re.match("https?://", source, re.IGNORECASE) is not None


def is_folder(source: object) -> bool:
    """Returns whether a source is a folder on disk."""
    try:
        return isinstance(source, (str, os.PathLike)) and os.path.isdir(source)
    except ValueError:  # a NUL byte in the name
        return False


def check_several(sources: object) -> None:
    """Raises ValueError for one video in place of several: the letters of a name would count as names of videos."""
    if isinstance(sources, (str, bytes, os.PathLike, Section)):
        raise ValueError(f"expected several videos, got one, {source_name(sources)}; give a list of them")


def is_file(source: object) -> bool:
    """Returns whether a source is a video file: on disk, in memory or at an address."""
    source = source.video if isinstance(source, Section) else source
    return isinstance(source, (str, os.PathLike, bytes)) and (is_address(source) or not is_folder(source))


def looks_like_video(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file is a video by its extension; a WebP file is one if it is animated.

    Args:
        path: the file.

    Returns:
        True for the extension of a video; False for a `.webp` that cannot be read.
    """
    ending = os.path.splitext(os.fspath(path))[1].lower()
    return is_animated_webp(_head(path)) if ending == ".webp" else ending in VIDEO_ENDINGS


def looks_like_picture(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file is a single picture by its extension; a WebP file is one if it is not animated.

    Args:
        path: the file.

    Returns:
        True for the extension of a picture.
    """
    return os.path.splitext(os.fspath(path))[1].lower() in PICTURE_ENDINGS and not looks_like_video(path)


def is_webp(head: bytes) -> bool:
    """Returns whether the first 12 bytes of a file are those of a WebP file."""
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def is_animated_webp(head: bytes) -> bool:
    """Returns whether the first 21 bytes of a file are those of an animated WebP file."""
    return is_webp(head) and head[12:16] == b"VP8X" and bool(head[20:21]) and bool(head[20] & 2)


def _head(path: str | os.PathLike[str]) -> bytes:
    """Returns the first bytes of a file; none if it is not a regular file, such as a pipe, or cannot be read."""
    try:
        if not os.path.isfile(path):
            return b""
        with open(path, "rb") as file:
            return file.read(32)
    except (OSError, ValueError):
        return b""


def media_key(media: Media) -> int:
    """Returns a number that depends on the content of a file alone: its size, start and end."""
    if media.path is None:
        data = media.data or b""
        size, start, end = len(data), data[:_KEY_BYTES], data[-_KEY_BYTES:]
    else:
        with open(media.path, "rb") as file:
            size, start = os.fstat(file.fileno()).st_size, file.read(_KEY_BYTES)
            file.seek(max(size - _KEY_BYTES, 0))
            end = file.read(_KEY_BYTES)
    return zlib.crc32(b"%d" % size + start + end)


def head_of(media: Media) -> bytes:
    """Returns the first bytes of a file on disk or in memory."""
    return (media.data or b"")[:32] if media.path is None else _head(media.path)


def is_frames(source: object) -> bool:
    """Returns whether a source is a list of single frames: Pillow pictures, or arrays of three dimensions."""
    return isinstance(source, (list, tuple)) and bool(source) and all(map(_is_frame, source))


def _is_frame(item: object) -> bool:
    return is_picture(item) or (isinstance(item, (np.ndarray, torch.Tensor)) and item.ndim == 3)


def is_picture(item: object) -> bool:
    """Returns whether something is a Pillow picture; Pillow need not be installed."""
    return hasattr(item, "convert") and hasattr(item, "getbands")


def source_name(source: object) -> str:
    """Returns the name of a source in error messages and pictures."""
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>"
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return f"<frames {'x'.join(map(str, source.shape))}>"
    if isinstance(source, (list, tuple)):
        return f"<{len(source)} frames>"
    if isinstance(source, Section):
        return str(source)
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else f"<{type(source).__name__}>"


def media_of(source: str | os.PathLike[str] | bytes) -> Media:
    """Returns the file behind a path or bytes."""
    name = source_name(source)
    if isinstance(source, bytes):
        return Media(name, data=source, own=False)
    return Media(name, path=os.path.abspath(os.fspath(source)))


class Download:
    """A temporary copy of the file at an address; `close` deletes it.

    Attributes:
        media: the file.
    """

    def __init__(self, address: str) -> None:
        """Downloads the file.

        Raises:
            VideoError: naming the address, if it cannot be fetched whole or does not fit on the disk.
        """
        self._folder = TemporaryDirectory(prefix="vov3d-video-")
        try:
            ending = os.path.splitext(urlsplit(address).path)[1]
            path = Path(self._folder.name, f"video{ending if ending[1:].isalnum() else ''}")
            download(address, path)
        except (DownloadError, OSError, ValueError) as error:  # ValueError: an address that is none
            self.close()
            raise VideoError(
                f"{address}: cannot be downloaded ({error}); try it in a browser, or give a file on disk"
            ) from error
        self.media = Media(address, path=str(path), own=False)

    def close(self) -> None:
        """Deletes the copy."""
        self._folder.cleanup()
