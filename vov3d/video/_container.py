"""Opening a video file and listing its frames without decoding them."""

import os
import stat
from array import array
from dataclasses import dataclass, field

import numpy as np

from vov3d.models._extras import install
from vov3d.video._errors import VideoError
from vov3d.video._source import Media

try:
    from av.container import InputContainer
    from av.error import FFmpegError
    from av.stream import Disposition
    from av.video.stream import VideoStream
except ImportError as error:
    raise ImportError(f"vov3d.video.reader needs PyAV: {install('video')}") from error

from vov3d.video._opening import check_size, open_container

__all__ = ["NO_TIME", "FFmpegError", "FrameIndex", "index_frames", "open_video"]

NO_TIME = -(2**63)  # FFmpeg's own mark of a missing time
_MAX_PROMISED = 10_000_000  # frames; a header that promises more is damaged itself
_REORDER = 8  # frames by which the order of packets and the order of showing differ, at most
_CUT_SHORT = 0.9  # packets that end before this part of the promised duration mean that the rest is missing


@dataclass(frozen=True)
class FrameIndex:
    """What the packets of a stream tell about its frames; arrays, since a long video has hundreds of thousands.

    Attributes:
        pts: int64 presentation times of the frames that are shown, rising, in the stream's time base.
        key_pts: int64 presentation times of the key frames, where decoding can start, rising.
        key_dts: int64 decoding times of the same, `NO_TIME` where there is none.
        ordered: whether `pts` can be trusted to name each frame; otherwise only counting decoded frames can.
        promised: frames that the file should hold if it is cut short, else 0.
        fps: frames per second, by the container or else by the times.
        variable: whether the frames come at a variable rate.
        cut_at: byte position of a last packet that is there in part only.
    """

    pts: np.ndarray
    key_pts: np.ndarray
    key_dts: np.ndarray
    ordered: bool
    promised: int
    fps: float
    variable: bool
    cut_at: int | None


def open_video(media: Media, thread_type: str = "AUTO") -> tuple[InputContainer, VideoStream]:
    """Opens a file and picks its first video stream.

    Args:
        media: the file.
        thread_type: how the decoder uses threads, in FFmpeg's words: `"AUTO"` or `"NONE"`.

    Returns:
        The container, which the caller closes, and the stream.

    Raises:
        VideoError: if the file cannot be opened or has no pictures.
    """
    _check_file(media)
    container = open_container(media)
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:  # the cover of a song is no video
            stream.thread_type = thread_type
            check_size(container, stream, media.name)
            return container, stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    container.close()
    raise VideoError(f"{media.name}: has no video stream, only {kinds}; give a file with moving pictures")


def _check_file(media: Media) -> None:
    """Refuses what FFmpeg would report badly, or wait for without end."""
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
    """What one pass over the packets of a container collects."""

    pts: array = field(default_factory=lambda: array("q"))
    key_pts: array = field(default_factory=lambda: array("q"))
    key_dts: array = field(default_factory=lambda: array("q"))
    discarded: int = 0
    end: float = 0.0  # seconds, over all streams: sound may outlast the pictures
    broken: bool = False
    cut_at: int | None = None


def index_frames(container: InputContainer, stream: VideoStream, media: Media) -> FrameIndex:
    """Lists the frames of a stream from its packets, which is some hundred times faster than decoding.

    The container's own count of frames is not believed, unless the file is cut short.

    Args:
        container: an open container, which is read to its end.
        stream: the stream in it.
        media: the file behind it.

    Returns:
        The index.
    """
    packets = _collect_packets(container, stream)
    # AVI stores no presentation times; with B-frames those that FFmpeg makes up come out permuted
    guessed = container.format.name == "avi" and stream.codec_context.has_b_frames
    pts = np.sort(np.asarray(packets.pts, dtype=np.int64))
    timed = pts[pts != NO_TIME]
    gaps = np.diff(timed)
    ordered = 0 < len(timed) == len(pts) and bool((gaps > 0).all()) and not guessed
    pts, gaps = timed, gaps if ordered else gaps[:0]
    variable = _is_variable(gaps)
    # where a file is cut, frames that were to be shown earlier than the last ones can be missing
    steady = not _is_variable(gaps[:-_REORDER] if len(gaps) > _REORDER else gaps)
    early = _ends_early(container, packets, steady, media)
    cut = packets.broken or early
    if cut and steady and len(gaps):
        variable, pts = False, _without_holes(pts, _median(gaps))
    fps = _frame_rate(stream, pts, ordered)
    promised = _promised(container, stream, packets, len(pts), fps if early else 0) if cut else 0
    by_time = np.argsort(np.asarray(packets.key_pts, dtype=np.int64), kind="stable")
    key_pts, key_dts = (np.asarray(keys, dtype=np.int64)[by_time] for keys in (packets.key_pts, packets.key_dts))
    return FrameIndex(pts, key_pts, key_dts, ordered, promised, fps, variable, packets.cut_at)


def _promised(container: InputContainer, stream: VideoStream, packets: _Packets, present: int, fps: float) -> int:
    """Frames that a file cut short should hold: what its header says, by count or (with `fps`) by duration."""
    by_time = round((container.duration or 0) / 1e6 * fps)
    promised = max(stream.frames - packets.discarded, by_time, present + (packets.cut_at is not None))
    return promised if promised <= _MAX_PROMISED else present


def _ends_early(container: InputContainer, packets: _Packets, steady: bool, media: Media) -> bool:
    """Whether the packets end before the header says; at a variable rate the last frame may just be shown long."""
    if media.data is not None:
        head, size = media.data[:8], len(media.data)
    else:
        assert media.path is not None
        with open(media.path, "rb") as file:
            head, size = file.read(8), file.seek(0, os.SEEK_END)
    if head[:4] == b"RIFF":  # AVI: its frame counts are often wrong, its size in bytes is not
        return int.from_bytes(head[4:], "little") + len(head) > size
    seconds = (container.duration or 0) / 1e6
    return steady and packets.end < _CUT_SHORT * seconds and seconds - packets.end > 0.5


def _collect_packets(container: InputContainer, stream: VideoStream) -> _Packets:
    """Reads all packets of a container, keeping what concerns the frames of `stream`."""
    found, last_corrupt = _Packets(), None
    ends: dict[int, int] = {}
    try:
        for packet in container.demux():
            if not packet.size:
                continue
            number, pts = packet.stream_index, packet.pts
            if pts is not None:
                ends[number] = max(ends.get(number, pts), pts + (packet.duration or 0))
            if number != stream.index:
                continue
            if packet.is_keyframe and pts is not None:
                found.key_pts.append(pts)
                found.key_dts.append(NO_TIME if packet.dts is None else packet.dts)
            last_corrupt = packet if packet.is_corrupt else None
            if packet.is_discard:  # before the start of an edit list: decoded, never shown
                found.discarded += 1
            else:
                found.pts.append(NO_TIME if pts is None else pts)
    except FFmpegError:
        found.broken = True
    bases = {number: container.streams[number].time_base for number in ends}
    found.end = max((float(end * (bases[number] or 0)) for number, end in ends.items()), default=0.0)
    if last_corrupt is not None:  # half a packet: a decoder would make up the rest of the picture
        found.broken, found.cut_at = True, last_corrupt.pos
        if not last_corrupt.is_discard:
            found.pts.pop()
    return found


def _median(gaps: np.ndarray) -> int:
    """The middle one of the gaps between frames, the upper of two."""
    return int(np.partition(gaps, len(gaps) // 2)[len(gaps) // 2])


def _is_variable(gaps: np.ndarray) -> bool:
    """Whether some gap between frames is far from the median, beyond the rounding of coarse time bases."""
    if not len(gaps):
        return False
    median = _median(gaps)
    return bool((abs(gaps - median) > max(median / 2, 1)).any())


def _without_holes(pts: np.ndarray, gap: int) -> np.ndarray:
    """Rising times with those of missing frames put between them, at a constant distance."""
    filled = pts[:1].tolist()
    for start, width in zip(pts.tolist(), np.diff(pts).tolist(), strict=False):
        steps = round(width / gap)
        steps = steps if 1 <= steps <= _REORDER else 1
        filled += [start + width * step // steps for step in range(1, steps + 1)]
    return np.asarray(filled, dtype=np.int64)


def _frame_rate(stream: VideoStream, pts: np.ndarray, ordered: bool) -> float:
    """Frames per second: the container's word if the times bear it out, else the times'."""
    if not ordered:
        return float(stream.guessed_rate or stream.average_rate or 30)
    stated = float(stream.average_rate or stream.guessed_rate or 0)
    if len(pts) == 1 or not stream.time_base:
        return stated or 30.0  # one picture has no rate; 30 is what strides count in
    measured = (len(pts) - 1) / float(int(pts[-1] - pts[0]) * stream.time_base)
    # times are rounded, to milliseconds in Matroska: the container's exact rate is better where both agree
    return stated if abs(stated / measured - 1) < 0.05 else measured
