"""Opens a video with FFmpeg within limits: one file, never another that it names, in bounded time and memory."""

import io
import mmap
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import av
from av.container import InputContainer
from av.error import ArgumentError, ExitError, FFmpegError
from av.video.stream import VideoStream

from vov3d.video.decoders.base import VideoError
from vov3d.video.sources import Media

MAX_PIXELS = 1 << 26
"""Most pixels of a picture: 8192x8192. A frame of that size takes 200 MB as RGB."""

# Containers and raw streams that contain their pictures. FFmpeg supports many more: playlists, manifests and
# patterns of names, which refer to other files, and formats of cameras, screens and networks.
_FORMATS = (
    "mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "live_flv", "ogg", "asf", "asf_o",
    "gif", "apng", "rm", "wtv", "dv", "mxf", "gxf", "nut", "dhav", "cine", "ivf", "yuv4mpegpipe", "mjpeg", "mpjpeg",
    "mjpeg_2000", "h261", "h263", "h264", "hevc", "vvc", "av1", "obu", "m4v", "vc1", "dirac", "dnxhd", "cavsvideo",
    "avs2", "avs3",
)  # fmt: skip

_OPTIONS = {
    "format_whitelist": ",".join(_FORMATS),
    "probesize": "5000000",  # bytes, and microseconds of video, read to identify the streams: FFmpeg's defaults
    "analyzeduration": "5000000",
}
_PATTERN = set("%*?[]{}\\")  # FFmpeg may take a name with one of these for many pictures, as %03d.png
_SECONDS = 10.0  # for opening
_HEAD = 4096  # bytes at the start of a file that identify its kind

# Titles and comments in any encoding are no reason not to open a video: PyAV 19 takes them all, those before if told.
ANY_METADATA: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Arguments of `av.open` for files whose metadata may be in any encoding."""


def open_container(media: Media) -> InputContainer:
    """Opens a file that contains its pictures; no other file and no network address is opened.

    Raises:
        VideoError: for a file of another kind, a missing one, one that takes over 10 seconds to open, or one whose
            index lists more frames than the file has bytes.
    """
    try:
        _check_index(media)
        return _opened(media)
    except ExitError as error:
        raise VideoError(
            f"{media.name}: opening it took over {_SECONDS:g} seconds; copy it to a faster disk, or see whether a "
            "player shows it"
        ) from error
    except (FFmpegError, OSError) as error:
        kind = _kind(_head(media))
        if kind is not None:
            raise VideoError(f"{media.name}: {kind}") from error
        reason = error.strerror or type(error).__name__
        if isinstance(error, ArgumentError):
            reason = "not in a format that holds a video"
        raise VideoError(
            f"{media.name}: cannot be read as a video ({reason}): it is cut short, damaged or not a video; "
            "see whether a player shows it, or fetch it again"
        ) from error


def check_size(container: InputContainer, stream: VideoStream, name: str) -> None:
    """Raises an error for pictures too large to decode: at once by the header's size, else when they are decoded.

    An error at once closes the container.

    Raises:
        VideoError: for over `MAX_PIXELS` pixels.
    """
    context: Any = stream.codec_context
    if context is None:  # a codec that FFmpeg does not know
        return
    try:
        check_pixels(context.width, context.height, name)
    except VideoError:
        container.close()
        raise
    context.options = {"max_pixels": str(MAX_PIXELS)}


def check_pixels(width: int, height: int, name: str) -> None:
    """Raises an error for pictures too large to decode.

    Raises:
        VideoError: for over `MAX_PIXELS` pixels.
    """
    if width * height > MAX_PIXELS:
        side = int(MAX_PIXELS**0.5)
        raise VideoError(
            f"{name}: has pictures of {width}x{height} pixels, more than the limit of {side}x{side} in all; "
            "make them smaller first"
        )


def _opened(media: Media) -> InputContainer:
    # container_options: with `options` alone, PyAV 17.0 crashes on formats that announce streams late, such as FLV
    if media.own and media.path is not None and not set(media.path) & _PATTERN:
        return av.open(
            media.path,
            container_options={**_OPTIONS, "protocol_whitelist": "file"},
            timeout=(_SECONDS, None),
            **ANY_METADATA,
        )
    return av.open(
        content_of(media),
        "r",
        container_options={**_OPTIONS, "protocol_whitelist": "none"},
        timeout=(_SECONDS, None),
        **ANY_METADATA,
    )


def content_of(media: Media) -> io.BytesIO | mmap.mmap:
    """Returns a file's bytes as a readable object that needs no closing."""
    if media.path is None:
        return io.BytesIO(media.data or b"")
    with open(media.path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


# --- files of another kind -------------------------------------------------------------------------------------------

_PLAYLISTS = {
    b"#EXTM3U": "an HLS playlist",
    b"ffconcat version": "a list of files for FFmpeg (ffconcat)",
    b"<MPD": "a DASH manifest",
    b"<SmoothStreamingMedia": "a Smooth Streaming manifest",
    b"[playlist]": "a playlist",
    b"v=0": "the description of a stream (SDP)",
}
_PICTURES = {
    b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"P6": "PPM",
    b"P5": "PGM", b"8BPS": "Photoshop", b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL",
}  # fmt: skip


def _kind(head: bytes) -> str | None:
    """Identifies a playlist or a picture by its first bytes and says what to do with it; None for other files."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for mark, name in _PLAYLISTS.items():
        if text.startswith(mark) or (mark.startswith(b"<") and text.startswith(b"<") and mark in text):
            return (
                f"is {name}, which names other files and holds no pictures; give those files, or join them into one "
                "video: ffmpeg -i LIST -c copy video.mp4"
            )
    for mark, name in _PICTURES.items():
        if head.startswith(mark):
            return f"is one picture ({name}), not a video; give a video, or a folder of frames such as 00001.jpg"
    return None


def _head(media: Media) -> bytes:
    if media.path is None:
        return (media.data or b"")[:_HEAD]
    with open(media.path, "rb") as file:
        return file.read(_HEAD)


# --- counts in the index of an mp4 -----------------------------------------------------------------------------------

_HOLDERS = frozenset(
    (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"mvex", b"edts", b"udta", b"dinf", b"wave")
)
_FIRST = _HOLDERS | {b"ftyp", b"styp", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid", b"sidx"}
_MOST_BOXES = 1_000_000


class _Counts:
    """Counts the samples that the tracks of an mp4 claim."""

    def __init__(self) -> None:
        self.samples = 0
        self._track = 0
        self._by_chunk = False

    def begin_track(self) -> None:
        """Starts another track."""
        if not self._by_chunk:  # else uncompressed sound, whose samples FFmpeg does not list singly
            self.samples += self._track
        self._track, self._by_chunk = 0, False

    def add(self, kind: bytes, body: bytes) -> None:
        """Adds a table, given its first 16 bytes."""
        first, second, third = (int.from_bytes(body[at : at + 4], "big") for at in (4, 8, 12))
        if kind == b"stsz" and first:  # all samples have one size: a count without a table
            self._track += second
        elif kind == b"stts":
            self._by_chunk = first == 1 and third == 1
        elif kind == b"trun":
            self.samples += first


def _check_index(media: Media) -> None:
    """Raises an error for an mp4 that claims more samples than bytes: FFmpeg would list them all.

    Two numbers in a file of 3 KB made FFmpeg take 4 GB.
    """
    with io.BytesIO(media.data or b"") if media.path is None else open(media.path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4)
        if file.read(4) not in _FIRST:
            return
        counts = _Counts()
        for number, (kind, body) in enumerate(_boxes(file, 0, size)):
            if kind == b"trak":
                counts.begin_track()
            elif kind in (b"stsz", b"stts", b"trun"):
                counts.add(kind, body)
            if number > _MOST_BOXES:
                raise VideoError(f"{media.name}: has over {_MOST_BOXES} boxes; see whether a player shows it")
        counts.begin_track()
    if counts.samples > size:
        raise VideoError(
            f"{media.name}: its index lists {counts.samples} frames, but it has only {size} bytes; it is damaged: see "
            "whether a player shows it, or fetch it again"
        )


def _boxes(file: BinaryIO | Any, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields the kind of each box of an mp4 in a range of the file, with its first 16 bytes."""
    ends = [end]
    while ends:
        file.seek(start)
        head = file.read(32)
        if start + 8 > ends[-1] or len(head) < 8:
            start = ends.pop()
            continue
        size, kind, body = int.from_bytes(head[:4], "big"), head[4:8], 8
        if size == 1:
            size, body = int.from_bytes(head[8:16], "big"), 16
        stop = ends[-1] if size == 0 else min(start + max(size, body), ends[-1])
        yield kind, head[body : body + 16]
        if kind in _HOLDERS:
            ends.append(stop)
            start += body
        else:
            start = stop
