"""Opens a video file and lists its frames without decoding them."""

import io
import os
import re
import stat
from array import array
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vov3d.extras import install
from vov3d.video.decoders.base import VideoError, has_far_gap, is_variable, middle
from vov3d.video.sources import Media

try:
    import av
    from av.container import InputContainer
    from av.error import FFmpegError as FFmpegError
    from av.stream import Disposition
    from av.video.stream import VideoStream
except ImportError as error:
    raise ImportError(f"vov3d.video.reader needs PyAV: {install('video')}") from error

from vov3d.video.decoders.opening import check_size, content_of, open_container

NO_TIME = -(2**63)  # FFmpeg's value for a missing time
_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"pnot"}  # first boxes of MP4 and MOV
_MAX_PROMISED = 10_000_000  # frames; a header that states more is itself damaged
_REORDER = 8  # frames by which decoding order and display order differ, at most
_FARTHEST = 17  # the same in any valid stream: codecs hold back up to 16 frames
_PARAMETERS = 64  # bytes in which H.264 says whether there are fields
_SMALL = 512  # bytes; a packet up to this size may carry a message and no picture
_HEAD = 1 << 20  # bytes at both ends of a file in which its codec is named
_JUMP = 10.0  # seconds; FFmpeg's limit too
_PLAUSIBLE = 10  # times the frames that the missing bytes would hold at the rate of those present


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a stream, as listed by its packets; arrays, since a long video has hundreds of thousands.

    Attributes:
        pts: int64 presentation times of the frames that are shown, rising, in the stream's time base.
        key_pts: int64 presentation times of the frames that the file marks as key frames, rising.
        key_dts: int64 decoding times of the same, `NO_TIME` where there is none.
        key_at: byte positions of the same, -1 where they are not known.
        ordered: whether `pts` are the times of the frames; in a list from packets they then identify each frame.
        timed: whether the times come from the file; FFmpeg invents some, in permuted order.
        first: decoding time (or `NO_TIME`), presentation time and byte position of the first packet.
        promised: number of frames that a file cut short should hold, else 0.
        fps: frames per second, by the container or else by the times.
        variable: whether the frames come at a variable rate.
        cut: byte position (None where it is not known) and size of a last packet that is incomplete.
        whole: whether the file's own table lists all packets, and each is a picture that is shown.
        palettes: those that come beside packets, each with its packet's decoding time, in the file's order. FFmpeg
            hands a palette out once: it is missing when the file is read again.
    """

    pts: np.ndarray
    key_pts: np.ndarray
    key_dts: np.ndarray
    key_at: np.ndarray
    ordered: bool
    timed: bool
    first: tuple[int, int | None, int | None]
    promised: int
    fps: float
    variable: bool
    cut: tuple[int | None, int] | None
    whole: bool = False
    palettes: tuple[tuple[int, Any], ...] = ()

    def without(self, frames: int) -> "FrameIndex":
        """Returns the index without some frames at the beginning, for which the file has no pictures."""
        return replace(self, pts=self.pts[frames:], promised=max(self.promised - frames, 0))

    def of_frames(self, pts: np.ndarray, key_pts: np.ndarray, stream: VideoStream) -> "FrameIndex":
        """Returns an index of the frames that a full decode gave."""
        _, ours, theirs = np.intersect1d(key_pts, self.key_pts, return_indices=True)
        key_dts, key_at = np.full_like(key_pts, NO_TIME), np.full_like(key_pts, -1)
        key_dts[ours], key_at[ours] = self.key_dts[theirs], self.key_at[theirs]
        shown = without_jumps(pts, stream)
        fps, variable = _frame_rate(stream, shown, ordered=True), is_variable(np.diff(shown))
        place, promised, cut, palettes = self.first, self.promised, self.cut, self.palettes
        return FrameIndex(
            pts, key_pts, key_dts, key_at, True, True, place, promised, fps, variable, cut, palettes=palettes
        )


def open_video(media: Media) -> tuple[InputContainer, VideoStream]:
    """Opens a file and picks the video stream that FFmpeg shows: the default one, or else the best.

    Args:
        media: the file.

    Returns:
        The container, which the caller closes, and the stream.

    Raises:
        VideoError: if the file cannot be opened, has no pictures, or has them in a codec that is not known.
    """
    _check_file(media)
    container = open_container(media)
    stream = shown_stream(container)
    if stream is not None and stream.codec_context is not None:
        check_size(container, stream, media.name)
        return container, stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    container.close()
    if stream is None:
        raise VideoError(f"{media.name}: has no video stream, only {kinds}; give a file with moving pictures")
    raise VideoError(
        f"{media.name}: its codec {_codec_word(media)}is not known to FFmpeg {_ffmpeg()}; "
        "convert the file to H.264, or see whether it is damaged"
    )


def shown_stream(container: InputContainer) -> VideoStream | None:
    """Returns the video stream that FFmpeg takes by default; cover art does not count."""
    moving = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    return next((stream for stream in moving if stream is best), moving[0] if moving else None)


def _ffmpeg() -> str:
    """Returns the version of libavcodec."""
    return "with libavcodec " + ".".join(map(str, av.library_versions.get("libavcodec", ())))


def _codec_word(media: Media) -> str:
    """Returns the file's name for its codec, in quotes, if found: PyAV does not report unknown codecs."""
    content = content_of(media)
    ends = content[:_HEAD] + content[-_HEAD:] if not isinstance(content, io.BytesIO) else content.getvalue()
    for pattern in (rb"vmhd.*?stsd.{12}(.{4})", rb"\x86[\x81-\x9f](V_[\w/]+)", rb"strf.{20}(.{4})"):
        found = re.search(pattern, ends, re.DOTALL)
        if found:
            return repr(found[1].decode("latin-1")) + " "
    return ""


def _check_file(media: Media) -> None:
    """Raises an error for files that FFmpeg would report badly or wait for without end."""
    if not media.name:  # whose absolute path is the current folder
        raise VideoError("the name of a video is empty: give a file, a folder of frames or an address")
    try:
        if media.path is None:
            size = len(media.data or b"")
        else:
            status = os.stat(media.path)
            size = status.st_size
            if stat.S_ISDIR(status.st_mode):
                raise VideoError(f"{media.name}: is a folder; give the video files in it")
            if not stat.S_ISREG(status.st_mode):
                raise VideoError(f"{media.name}: is a pipe, socket or device; write the video to a file first")
            with open(media.path, "rb"):
                pass
        if size == 0:
            raise VideoError(f"{media.name}: is empty (0 bytes); fetch it again")
    except FileNotFoundError:
        raise VideoError(f"{media.name}: no such file") from None
    except PermissionError:
        raise VideoError(f"{media.name}: may not be read (permission denied); change its permissions") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise VideoError(f"{media.name}: cannot be opened ({error})") from error


@dataclass
class _Packets:
    """Data that one pass over the packets of a container collects."""

    pts: array = field(default_factory=lambda: array("q"))
    key_pts: array = field(default_factory=lambda: array("q"))
    key_dts: array = field(default_factory=lambda: array("q"))
    key_at: array = field(default_factory=lambda: array("q"))
    first: tuple[int, int | None, int | None] = (NO_TIME, None, None)
    discarded: int = 0
    broken: bool = False
    cut: tuple[int | None, int] | None = None
    palettes: list[tuple[int, Any]] = field(default_factory=list)


def has_picture(packet: Any, codec: str, extradata: bytes | None) -> bool:
    """Returns whether a packet has a picture to show, or a part of one.

    H.264 and HEVC have packets of messages and parameters alone, VP8 has pictures that serve as references only.
    """
    if codec == "vp8":
        return bool(memoryview(packet)[0] & 16)
    if codec not in ("h264", "hevc"):
        return True
    packet = bytes(packet)
    at, starts = 0, []
    if extradata and extradata[0] == 1 and len(extradata) > 21:  # lengths, as in MP4 and Matroska, or start codes
        width = 1 + (extradata[4 if codec == "h264" else 21] & 3)
        while at + width < len(packet):
            starts.append(at + width)
            at += width + int.from_bytes(packet[at : at + width], "big")
    else:
        starts = [match.end() for match in re.finditer(rb"\x00\x00\x01(?=.)", packet, re.DOTALL)]
    kinds = [packet[start] & 31 if codec == "h264" else packet[start] >> 1 & 63 for start in starts]
    messages = range(6, 14) if codec == "h264" else range(32, 41)
    return not kinds or any(kind not in messages for kind in kinds)


_WITH_CHROMA = (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244)  # profiles of H.264


def has_frames_only(extradata: bytes | None) -> bool:
    """Returns whether the parameters of an H.264 stream in MP4 or Matroska rule out pictures in two fields.

    False also where that is not clear.
    """
    if not extradata or extradata[0] != 1 or len(extradata) < 12 or extradata[5] & 31 != 1:
        return False
    unit = extradata[8 : 8 + int.from_bytes(extradata[6:8], "big")].replace(b"\0\0\3", b"\0\0")
    if len(unit) < 5:
        return False
    bits = _Bits(unit[4:])
    bits.number()
    if unit[1] in _WITH_CHROMA:
        if bits.number() == 3:  # chroma of full size
            bits.take(1)
        bits.number(), bits.number(), bits.take(1)
        if bits.take(1):  # matrices of scaling
            return False
    bits.number()
    order = bits.number()
    if order == 0:
        bits.number()
    elif order == 1:
        bits.take(1), bits.number(), bits.number()
        for _ in range(min(bits.number(), 256)):
            bits.number()
    bits.number(), bits.take(1), bits.number(), bits.number()
    return bits.take(1) == 1


class _Bits:
    """Reads the bits of bytes; beyond the end they are 0."""

    def __init__(self, content: bytes) -> None:
        self._text = "".join(f"{byte:08b}" for byte in content[:_PARAMETERS])
        self._at = 0

    def take(self, count: int) -> int:
        """Returns the next bits as a number."""
        self._at += count
        return int(self._text[self._at - count : self._at].ljust(count, "0") or "0", 2)

    def number(self) -> int:
        """Returns the next number of an Exp-Golomb code; a signed one as its code."""
        zeros = 0
        while zeros < 32 and not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)


def index_frames(container: InputContainer, stream: VideoStream, media: Media) -> FrameIndex:
    """Lists the frames of a stream without decoding them.

    Uses the container's table of frames if it is complete and has the times (MP4, MOV); else all packets, which
    reads the file and is some hundred times faster than decoding. Ignores the container's own count of frames,
    unless the file is cut short.

    Args:
        container: an open container.
        stream: the stream in it.
        media: the file behind it.

    Returns:
        The index.
    """
    return _from_table(container, stream, media) or _from_packets(container, stream, media)


def _from_table(container: InputContainer, stream: VideoStream, media: Media) -> FrameIndex | None:
    """Builds the index from the container's table of frames; None if there is none, or an incomplete one.

    Only MP4 and MOV are always read by such a table: Matroska's lists key frames alone, and AVI is read without it.
    The table has decoding times. They equal the presentation times up to a shift if no frame is shown before one
    that is decoded earlier, or if all are equally far apart, and no time is left out between the first and the last.
    Reading checks the time of each decoded frame.
    """
    entries = stream.index_entries
    if "mov" not in container.format.name.split(",") or not 0 < len(entries) == stream.frames <= _MAX_PROMISED:
        return None
    table = np.array([(e.timestamp, e.pos, e.size, e.is_keyframe, e.is_discard) for e in entries], dtype=np.int64)
    dts, positions, sizes, keys, discards = table.T
    whole = positions.min() >= 0 and sizes.min() > 0 and (positions + sizes).max() <= _size(media)
    if not whole or discards.any() or not keys[0] or not _all_pictures(positions, sizes, stream, media):
        return None
    gaps = np.diff(dts)
    steady = not len(gaps) or gaps.min() == gaps.max()
    if (gaps <= 0).any():
        return None
    if stream.codec_context.has_b_frames and not steady:
        return None
    try:
        first = next(container.demux(stream), None)
    except FFmpegError:
        return None
    if first is None or first.pts is None or first.dts is None or first.dts != dts[0]:
        return None
    pts = dts + (first.pts - first.dts)
    if stream.codec_context.has_b_frames and not _ends_at(container, stream, dts, int(pts[-1])):
        return None
    at_keys, place = keys.astype(bool), (first.dts, first.pts, first.pos)
    fps, variable = _frame_rate(stream, pts, True), is_variable(gaps)
    at = pts[at_keys], dts[at_keys], positions[at_keys]
    return FrameIndex(pts, at[0], at[1], at[2], True, True, place, 0, fps, variable, None, True, _palettes(first))


def _ends_at(container: InputContainer, stream: VideoStream, dts: np.ndarray, last: int) -> bool:
    """Returns whether the latest time of the packets is this one; leaves the container at its start."""
    try:
        container.seek(int(dts[-min(_FARTHEST, len(dts))]), any_frame=True, stream=stream)
        times = [packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None]
        container.seek(int(dts[0]), stream=stream)
    except FFmpegError:
        return False
    return max(times, default=None) == last


def _all_pictures(positions: np.ndarray, sizes: np.ndarray, stream: VideoStream, media: Media) -> bool:
    """Returns whether every packet has a picture; only small packets may lack one and are read."""
    codec, extradata = stream.codec_context.name, stream.codec_context.extradata
    small = np.flatnonzero(sizes <= _SMALL)
    if codec not in ("h264", "hevc") or not len(small):
        return True
    with content_of(media) as content:
        for at, size in zip(positions[small].tolist(), sizes[small].tolist(), strict=True):
            content.seek(at)
            if not has_picture(content.read(size), codec, extradata):
                return False
    return True


def _from_packets(container: InputContainer, stream: VideoStream, media: Media) -> FrameIndex:
    """Builds the index from all packets."""
    packets = _collect_packets(container, stream)
    # AVI stores no presentation times; with B-frames, those that FFmpeg invents are permuted
    timed = not (container.format.name == "avi" and stream.codec_context.has_b_frames)
    decoded = np.asarray(packets.pts, dtype=np.int64)
    order = np.argsort(decoded, kind="stable")
    pts = decoded[order]
    farthest = _FARTHEST if stream.codec_context.has_b_frames else 0
    near = bool((abs(order - np.arange(len(order))) <= farthest).all())  # no time is far from its place in the order
    known = pts[pts != NO_TIME]
    gaps = np.diff(known)
    ordered = 0 < len(known) == len(pts) and bool((gaps > 0).all()) and timed and near
    pts, gaps = known, gaps if ordered else gaps[:0]
    shown = without_jumps(pts, stream) if ordered else pts
    variable = ordered and is_variable(np.diff(shown))
    # where a file is cut, frames to be shown before the last ones can be missing
    steady = not has_far_gap(gaps[:-_REORDER] if len(gaps) > _REORDER else gaps)
    size, declared = _size(media), _declared_size(media)
    early = declared > size
    cut = packets.broken or early
    if cut and steady and len(gaps):
        pts = _without_holes(pts, middle(gaps))
        shown, variable = pts, is_variable(np.diff(pts))
    fps = _frame_rate(stream, shown, ordered)
    promised = 0
    if cut:
        most = int(_PLAUSIBLE * (len(pts) + 10) * max(declared / size, 1))
        promised = _promised(container, stream, packets, len(pts), fps if early and steady else 0, most)
    by_time = np.argsort(np.asarray(packets.key_pts, dtype=np.int64), kind="stable")
    at = [np.asarray(column, dtype=np.int64)[by_time] for column in (packets.key_pts, packets.key_dts, packets.key_at)]
    place = packets.first
    return FrameIndex(
        pts, at[0], at[1], at[2], ordered, timed, place, promised, fps, variable, packets.cut, False,
        tuple(packets.palettes),
    )  # fmt: skip


def _palettes(packet: Any) -> tuple[tuple[int, Any], ...]:
    """Returns the palette that comes beside a packet, with the packet's decoding time; () if there is none."""
    if not packet.has_sidedata("palette"):
        return ()
    return (((NO_TIME if packet.dts is None else packet.dts), packet.get_sidedata("palette")),)


def _promised(
    container: InputContainer, stream: VideoStream, packets: _Packets, present: int, fps: float, most: int
) -> int:
    """Returns how many frames a file cut short should hold: by its header's count or, with `fps`, its duration."""
    by_time = round((container.duration or 0) / 1e6 * fps)
    promised = max(stream.frames - packets.discarded, by_time, present + (packets.cut is not None))
    return promised if promised <= min(most, _MAX_PROMISED) else present


def _size(media: Media) -> int:
    """Returns the bytes of a file."""
    return len(media.data or b"") if media.path is None else os.path.getsize(media.path)


def _declared_size(media: Media) -> int:
    """Returns the size that a file's header states (AVI, Matroska, MP4), else 0; a file cut short has fewer bytes.

    Durations in headers do not reveal a cut: many complete files state wrong ones.
    """
    content, size = content_of(media), _size(media)
    with content:
        head = content.read(64)
        if head[:4] == b"RIFF":
            return 8 + int.from_bytes(head[4:8], "little")
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return _matroska_size(head)
        at = 0
        while at + 8 <= size and (head[4:8] in _BOXES or at):
            content.seek(at)
            box = content.read(16)
            length = int.from_bytes(box[8:16] if box[:4] == b"\0\0\0\1" else box[:4], "big")
            if length < 8 or not box[4:8].isalnum():  # 0: to the end of the file
                return 0
            at += length
        return at


def _matroska_size(head: bytes) -> int:
    """Returns the bytes of a Matroska file by the size of its segment, 0 if that is left open."""
    at, sizes = 4, []
    for _ in range(2):  # the header, then the segment with an identifier of 4 bytes
        width = 9 - head[at].bit_length() if at < len(head) and head[at] else 9
        if width > 8:
            return 0
        value = int.from_bytes(head[at : at + width], "big") - (1 << 7 * width)
        sizes.append(0 if value == (1 << 7 * width) - 1 else value)
        at += width
        if len(sizes) == 1:
            at += value + 4
    return at + sizes[1] if sizes[1] else 0


def _collect_packets(container: InputContainer, stream: VideoStream) -> _Packets:
    """Reads all packets of a container and keeps the data of the frames of `stream`."""
    found, last_corrupt = _Packets(), None
    codec, extradata = stream.codec_context.name, stream.codec_context.extradata
    try:
        for packet in container.demux():
            if not packet.size:
                continue
            found.broken = packet.is_corrupt  # an incomplete packet at the end, of any stream
            pts = packet.pts
            if packet.stream_index != stream.index:
                continue
            found.palettes += _palettes(packet)
            if (codec == "vp8" or packet.size <= _SMALL) and not has_picture(packet, codec, extradata):
                continue
            if not found.pts and not found.discarded:
                found.first = (NO_TIME if packet.dts is None else packet.dts, pts, packet.pos)
            if packet.is_keyframe and pts is not None:
                found.key_pts.append(pts)
                found.key_dts.append(NO_TIME if packet.dts is None else packet.dts)
                found.key_at.append(-1 if packet.pos is None else packet.pos)
            last_corrupt = packet if packet.is_corrupt else None
            if packet.is_discard:  # before the start of an edit list: decoded, never shown
                found.discarded += 1
            else:
                found.pts.append(NO_TIME if pts is None else pts)
    except FFmpegError:
        found.broken = True
    if last_corrupt is not None:  # incomplete: a decoder would invent the rest of the picture
        found.broken, found.cut = True, (last_corrupt.pos, last_corrupt.size)
        if not last_corrupt.is_discard:
            found.pts.pop()
    return found


def without_jumps(pts: np.ndarray, stream: VideoStream) -> np.ndarray:
    """Closes the jumps of over 10 seconds in the rising times of MPEG transport and program streams, as FFmpeg does.

    Their clock may start anew: where recordings or segments are joined, or a camera has slept. A jump is no pause,
    since the format asks for a time every 0.7 seconds.
    """
    if stream.container.format.name not in ("mpegts", "mpeg") or len(pts) < 2 or not stream.time_base:
        return pts
    gaps = np.diff(pts)
    usual = middle(gaps)
    jumps = gaps > max(_JUMP / float(stream.time_base), 10 * usual)
    return pts if not jumps.any() else pts[0] + np.cumsum(np.concatenate([[0], np.where(jumps, usual, gaps)]))


def _without_holes(pts: np.ndarray, gap: int) -> np.ndarray:
    """Fills rising times with those of missing frames, at a constant distance."""
    filled = pts[:1].tolist()
    for start, width in zip(pts.tolist(), np.diff(pts).tolist(), strict=False):
        steps = round(width / gap)
        steps = steps if 1 <= steps <= _REORDER else 1
        filled += [start + width * step // steps for step in range(1, steps + 1)]
    return np.asarray(filled, dtype=np.int64)


def _frame_rate(stream: VideoStream, pts: np.ndarray, ordered: bool) -> float:
    """Returns the frames per second: the container's if the times agree with it, else measured by the times."""
    if not ordered:
        return float(stream.guessed_rate or stream.average_rate or 30)
    stated = float(stream.average_rate or stream.guessed_rate or 0)
    if len(pts) == 1 or not stream.time_base:
        return stated or 30.0  # one picture has no rate; strides refer to 30
    measured = (len(pts) - 1) / float(int(pts[-1] - pts[0]) * stream.time_base)
    # times are rounded, to milliseconds in Matroska: the container's exact rate is better where both agree
    return stated if abs(stated / measured - 1) < 0.05 else measured
