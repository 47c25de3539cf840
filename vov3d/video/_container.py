"""Opening a video file and listing its frames without decoding them."""

import os
import stat
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

try:
    import av
    from av.container import InputContainer
    from av.error import FFmpegError
    from av.stream import Disposition
    from av.video.stream import VideoStream
except ImportError as error:
    raise ImportError("vov3d.video.reader needs PyAV: pip install 'vov3d[video]'") from error

_MAX_PROMISED = 10_000_000  # frames; a header that promises more is damaged itself
_REORDER = 8  # frames by which the order of packets and the order of showing differ, at most
_CUT_SHORT = 0.9  # packets that end before this part of the promised duration mean that the rest is missing


class VideoError(RuntimeError):
    """A file that gives no frames; the message names the file, the cause and, where there is one, the cure."""


class KeyFrame(NamedTuple):
    """Where decoding can start: presentation and decoding time in the stream's time base."""

    pts: int
    dts: int | None


@dataclass(frozen=True)
class FrameIndex:
    """What the packets of a stream tell about its frames.

    Attributes:
        pts: presentation times of the frames that are shown, rising, in the stream's time base.
        keys: key frames by presentation time.
        ordered: whether `pts` can be trusted to name each frame; otherwise only counting decoded frames can.
        promised: frames that the file should hold if it is cut short, else 0.
        fps: frames per second, by the container or else by the times.
        variable: whether the frames come at a variable rate.
        cut_at: byte position of a last packet that is there in part only.
    """

    pts: list[int]
    keys: list[KeyFrame]
    ordered: bool
    promised: int
    fps: float
    variable: bool
    cut_at: int | None


def open_video(path: str, thread_type: str = "AUTO") -> tuple[InputContainer, VideoStream]:
    """Opens a file and picks its first video stream.

    Args:
        path: the file.
        thread_type: how the decoder uses threads, in FFmpeg's words: `"AUTO"` or `"NONE"`.

    Returns:
        The container, which the caller closes, and the stream.

    Raises:
        VideoError: if the file cannot be opened or has no pictures.
    """
    _check_file(path)
    try:
        # an absolute path is never taken for an address, and no format may lead to the network
        container = av.open(os.path.abspath(path), options={"protocol_whitelist": "file"})
    except (FFmpegError, OSError) as error:
        reason = error.strerror or type(error).__name__
        raise VideoError(
            f"{path}: cannot be read as a video ({reason}): it is cut short, damaged or no video at all; "
            "see whether a player shows it, or fetch it again"
        ) from error
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:  # the cover of a song is no video
            stream.thread_type = thread_type
            return container, stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    container.close()
    raise VideoError(f"{path}: has no video stream, only {kinds}; give a file with moving pictures")


def _check_file(path: str) -> None:
    """Refuses what FFmpeg would report badly, or wait for without end."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise VideoError(f"{path}: is a folder; give the video files in it")
        if not stat.S_ISREG(status.st_mode):
            raise VideoError(f"{path}: is a pipe, socket or device; write the video to a file first")
        if status.st_size == 0:
            raise VideoError(f"{path}: is empty (0 bytes); fetch it again")
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise VideoError(f"{path}: no such file") from None
    except PermissionError:
        raise VideoError(f"{path}: may not be read (permission denied); change its permissions") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise VideoError(f"{path}: cannot be opened ({error})") from error


@dataclass
class _Packets:
    """What one pass over the packets of a container collects."""

    pts: list[int | None]
    keys: list[KeyFrame]
    discarded: int = 0
    end: float = 0.0  # seconds, over all streams: sound may outlast the pictures
    broken: bool = False
    cut_at: int | None = None


def index_frames(container: InputContainer, stream: VideoStream) -> FrameIndex:
    """Lists the frames of a stream from its packets, which is some hundred times faster than decoding.

    The container's own count of frames is not believed, unless the file is cut short.

    Args:
        container: an open container, which is read to its end.
        stream: the stream in it.

    Returns:
        The index.
    """
    packets = _collect_packets(container, stream)
    # AVI stores no presentation times; with B-frames those that FFmpeg makes up come out permuted
    guessed = container.format.name == "avi" and stream.codec_context.has_b_frames
    pts = sorted(time for time in packets.pts if time is not None)
    ordered = bool(pts) and len(set(pts)) == len(packets.pts) and not guessed
    gaps = [later - earlier for earlier, later in pairwise(pts)] if ordered else []
    variable = _is_variable(gaps)
    # where a file is cut, frames that were to be shown earlier than the last ones can be missing
    steady = not _is_variable(gaps[:-_REORDER] or gaps)
    early = _ends_early(container, packets, steady)
    cut = packets.broken or early
    if cut and steady and gaps:
        variable, pts = False, _without_holes(pts, _median(gaps))
    fps = _frame_rate(stream, pts, ordered)
    promised = 0
    if cut:
        by_time = round((container.duration or 0) / 1e6 * fps) if early else 0
        promised = max(stream.frames - packets.discarded, by_time, len(pts) + (packets.cut_at is not None))
        promised = promised if promised <= _MAX_PROMISED else len(pts)
    return FrameIndex(pts, sorted(packets.keys), ordered, promised, fps, variable, packets.cut_at)


def _ends_early(container: InputContainer, packets: _Packets, steady: bool) -> bool:
    """Whether the packets end before the header says; at a variable rate the last frame may just be shown long."""
    with open(container.name, "rb") as file:
        head = file.read(8)
        if head[:4] == b"RIFF":  # AVI: its frame counts are often wrong, its size in bytes is not
            return int.from_bytes(head[4:], "little") + len(head) > file.seek(0, os.SEEK_END)
    seconds = (container.duration or 0) / 1e6
    return steady and packets.end < _CUT_SHORT * seconds and seconds - packets.end > 0.5


def _collect_packets(container: InputContainer, stream: VideoStream) -> _Packets:
    """Reads all packets of a container, keeping what concerns the frames of `stream`."""
    found, last_corrupt = _Packets([], []), None
    try:
        for packet in container.demux():
            if not packet.size:
                continue
            if packet.pts is not None and packet.time_base:
                found.end = max(found.end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != stream.index:
                continue
            if packet.is_keyframe and packet.pts is not None:
                found.keys.append(KeyFrame(packet.pts, packet.dts))
            last_corrupt = packet if packet.is_corrupt else None
            if packet.is_discard:  # before the start of an edit list: decoded, never shown
                found.discarded += 1
            else:
                found.pts.append(packet.pts)
    except FFmpegError:
        found.broken = True
    if last_corrupt is not None:  # half a packet: a decoder would make up the rest of the picture
        found.broken, found.cut_at = True, last_corrupt.pos
        if not last_corrupt.is_discard:
            found.pts.pop()
    return found


def _median(gaps: list[int]) -> int:
    """The middle one of the gaps between frames."""
    return sorted(gaps)[len(gaps) // 2]


def _is_variable(gaps: list[int]) -> bool:
    """Whether some gap between frames is far from the median, beyond the rounding of coarse time bases."""
    median = _median(gaps) if gaps else 0
    return any(abs(gap - median) > max(median / 2, 1) for gap in gaps)


def _without_holes(pts: list[int], gap: int) -> list[int]:
    """Rising times with those of missing frames put between them, at a constant distance."""
    filled = pts[:1]
    for start, end in pairwise(pts):
        steps = round((end - start) / gap)
        steps = steps if 1 <= steps <= _REORDER else 1
        filled += [start + (end - start) * step // steps for step in range(1, steps + 1)]
    return filled


def _frame_rate(stream: VideoStream, pts: list[int], ordered: bool) -> float:
    """Frames per second: the container's word if the times bear it out, else the times'."""
    if not ordered:
        return float(stream.guessed_rate or stream.average_rate or 30)
    stated = float(stream.average_rate or stream.guessed_rate or 0)
    if len(pts) == 1 or not stream.time_base:
        return stated or 30.0  # one picture has no rate; 30 is what strides count in
    measured = (len(pts) - 1) / float((pts[-1] - pts[0]) * stream.time_base)
    # times are rounded, to milliseconds in Matroska: the container's exact rate is better where both agree
    return stated if abs(stated / measured - 1) < 0.05 else measured
