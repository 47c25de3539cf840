"""Random, frame-exact access to a video file with PyAV."""

import contextlib
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import av
import numpy as np
import torch
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter

from vov3d.video.decoders.base import FrameSource, VideoError
from vov3d.video.decoders.index import (
    NO_TIME,
    FFmpegError,
    FrameIndex,
    has_frames_only,
    has_picture,
    index_frames,
    open_video,
    without_jumps,
)
from vov3d.video.sources import Media

_SEEK_GAP = 16  # frames; decoding up to this many costs less than a seek, which empties the decoder's pipeline
_SEEK_GAP_ALONE = 2  # the same for one thread, which has no pipeline, in a file with a table of its frames
_TRIAL = 9  # frames decoded on opening, to compare them with the list of packets
_DROPPABLE = ("h264", "mpeg4")  # codecs whose unreferenced frames FFmpeg can skip without any effect on the others
_INTRA = (0, 1)  # picture types of a true key frame: unknown, and I


_REPORTING = ("h264", "hevc", "mpeg4", "vp9", "av1", "libdav1d", "prores")  # codecs whose threads report damage


class _OutOfOrderError(Exception):
    """Decoded frames do not follow the times of the packets."""


class UnsoundError(Exception):
    """Decoded frames may differ from those of a decode from the start."""


class PyAVFrames(FrameSource):
    """The frames of a video file.

    Reading seeks to the key frame before a wanted frame, decodes no further than needed, and skips frames that no
    wanted frame refers to. The decoder decides which frames are key frames, not the file. Files without usable
    times (AVI with B-frames, raw streams) are decoded from the start and counted. At the first sign of damage the
    file is decoded from the start and in one thread, so that each frame is the same in whatever order it is read.
    """

    backend = "pyav"
    _one_is_enough = True  # on opening, for files whose packets leave no doubt

    def __init__(self, media: Media) -> None:
        """Opens the file, lists its frames and decodes the first few.

        Raises:
            VideoError: if the file is missing, unreadable, or has no frame that can be decoded.
        """
        self._media = media
        self._by_count = self._careful = self._all_needed = False
        self._fields = False  # whether a picture may come in two packets
        self._damaged = False  # whether the last decoded frame may show damage
        self._forget()
        self._reformatter = VideoReformatter()  # keeps its tables between frames
        self._open()
        try:
            self._index = index_frames(self._container, self._stream, media)
            if not self._index.ordered:
                self._list_by_decoding()
            self._survey(self._trial())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._container.close()

    def _open(self) -> None:
        """Opens the file at its start, with a fresh decoder."""
        self._container, self._stream = open_video(self._media)
        context = self._stream.codec_context
        # with frame threads, frames near damage differ from those of one thread, and only some decoders report it;
        # if FFmpeg logs to Python, a thread waits for the interpreter, which waits for the thread
        one = self._careful or context.name not in _REPORTING or av.logging.get_level() is not None
        # a worker of a DataLoader has one thread of torch, as others decode beside it
        one = one or torch.get_num_threads() == 1
        context.thread_type = "NONE" if one else "FRAME"
        context.thread_count = int(one)  # 0: as many as there are processors
        self._one_thread = one
        self._seek_gap = _SEEK_GAP_ALONE if one and "mov" in self._container.format.name else _SEEK_GAP

    def _list_by_decoding(self) -> None:
        """Lists the frames by decoding them all; by their times if these tell them apart, else by counting."""
        self._careful = self._all_needed = True
        pts, keys = array("q"), array("q")
        for frame in self._decoded():
            pts.append(NO_TIME if frame.pts is None else frame.pts)
            if _is_key(frame) and not self._damaged:
                keys.append(pts[-1])
        if not pts:
            raise self._no_frame()
        times = np.asarray(pts, dtype=np.int64)
        gaps = np.diff(times)
        known = self._index.timed and NO_TIME not in pts
        self._by_count = not (known and bool((gaps > 0).all()))
        # in recordings from a network two frames may have one time, to the millisecond
        if known and bool((gaps >= 0).all()) and (gaps.any() or len(times) == 1):
            self._index = self._index.of_frames(times, np.asarray(keys, dtype=np.int64), self._stream)
        else:
            self._index = replace(self._index, ordered=False)
        self._count = len(pts)

    def _survey(self, first: Any) -> None:
        """Sets the attributes from the list of frames and the first frame."""
        index = self._index
        self.num_frames = max(self._count if self._by_count else len(index.pts), index.promised)
        self.fps, self.variable = index.fps, index.variable
        self._upright = upright(display_matrix(first))
        self._coded_size = first.width, first.height
        turned = self._upright(np.empty((first.height, first.width, 0)))
        self.height, self.width = turned.shape[:2]
        self.timestamps = _timestamps(index, self._stream, self.num_frames)

    def _trial(self) -> Any:
        """Returns the first frame; if the first few are not those of the packets, lists the frames by decoding.

        Packets may hold one field of a picture, or none; a recording may begin with pictures whose references it lacks.
        """
        first = self._first_alone()
        if first is not None:
            return first
        shown = []
        try:
            for index, frame in islice(self._numbered(), _TRIAL):
                first = frame if first is None else first
                self._fields = self._fields or frame.interlaced_frame
                shown.append(index)
        except _OutOfOrderError:
            self._list_by_decoding()
            return self._trial()
        if first is None:
            raise self._no_frame()
        if self._by_count:
            return first
        keys = self._index.key_pts
        if shown[0] and (not len(keys) or self._index.pts[shown[0]] <= keys[0]):
            self._index = self._index.without(shown[0])
        elif not self._broken and shown != list(range(shown[0], shown[0] + len(shown))):
            self._list_by_decoding()
        return first

    def _no_frame(self) -> VideoError:
        return VideoError(f"{self._media.name}: no frame can be decoded; see whether a player shows it")

    def _first_alone(self) -> Any:
        """Returns the first frame where one decoded frame and the times of a few packets tell as much as the trial.

        It does if every packet is a picture that is shown, in H.264 without fields, and the first of them a key frame.
        """
        context = self._stream.codec_context
        if not self._one_is_enough or not self._index.whole or context.name != "h264":
            return None
        if not has_frames_only(context.extradata):
            return None
        packets = list(islice(self._from_start(), _TRIAL))
        times = [packet.pts for packet in packets]
        if not packets or self._place(times[0]) or len(set(times)) < len(times) or -1 in map(self._place, times):
            return None
        if context.has_b_frames and len({packet.pts - packet.dts for packet in packets if packet.dts is not None}) < 2:
            return None  # a file that lacks the table of presentation times shows its frames at decoding times
        self._forget()
        frames = self._frames_of(packets[0]) + self._frames_of(None)
        frame = frames[0] if len(frames) == 1 and not self._broken else None
        alone = frame is not None and frame.pts == times[0] and _is_key(frame) and not frame.interlaced_frame
        return frame if alone else None

    def frames(self, targets: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """Decodes some frames, as `FrameSource.frames` does."""
        self.missing = 0
        converted: tuple[Any, Any] = (None, None)
        for index, frame in self._collected(targets):
            if frame is not converted[0]:
                converted = frame, self._converted(frame)
            yield index, converted[1]

    def _converted(self, frame: Any) -> torch.Tensor:
        """Converts a decoded frame to upright RGB `(C, H, W)`."""
        width, height = self._coded_size  # some streams change their size
        threads = int(self._one_thread)  # 0: as many as there are processors
        array = self._reformatter.reformat(frame, width, height, "rgb24", threads=threads).to_ndarray()
        return torch.from_numpy(np.ascontiguousarray(self._upright(array))).permute(2, 0, 1)

    def _collected(self, targets: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Yields the wanted frames by seeking, and those after the first failure by decoding from the start."""
        waiting = deque(targets)
        if not self._careful or not self._by_count:
            fields = self._fields
            try:
                yield from self._by_seeking(waiting)
            except _OutOfOrderError:
                self._by_count = self._by_count or self._has_wrong_times()
            except UnsoundError:
                pass
            if self._fields != fields:  # known only now
                with contextlib.suppress(UnsoundError, _OutOfOrderError):
                    yield from self._by_seeking(waiting)
        if waiting:
            yield from self._with_care(waiting)

    def _by_seeking(self, waiting: deque[int]) -> Iterator[tuple[int, Any]]:
        """Yields the wanted frames by decoding from the nearest key frames."""
        for key, run in self._runs(waiting):
            for index, frame in self._numbered(key, run):
                if self._broken:  # threads report damage late
                    raise UnsoundError
                if index == waiting[0]:
                    yield waiting.popleft(), frame
                if not waiting or index >= min(run[-1], waiting[0]):
                    break
            if waiting and waiting[0] <= run[-1]:
                raise UnsoundError if self._broken else _OutOfOrderError

    def _with_care(self, waiting: deque[int]) -> Iterator[tuple[int, Any]]:
        """Yields the wanted frames of a damaged file by decoding from the start.

        Each missing frame is replaced by the one before it. Frames from damage up to the next key frame are as FFmpeg
        decodes them, and count as missing too.
        """
        self._careful = True
        last = None
        for index, frame in self._numbered():
            while waiting and waiting[0] <= index:
                here = waiting[0] == index
                self.missing += self._damaged or not here
                yield waiting.popleft(), frame if here or last is None else last
            last = frame
            if not waiting:
                return
        if last is None:
            raise VideoError(f"{self._media.name}: no frame can be decoded any more; was the file changed?")
        self.missing += len(waiting)
        for target in waiting:
            yield target, last

    def _has_wrong_times(self) -> bool:
        """Returns whether all frames can be decoded, and none shows damage, so that only their times are wrong."""
        self._careful = self._all_needed = True
        count = 0
        for _ in self._decoded():
            if self._broken:
                return False
            count += 1
        return count == self.num_frames

    def _runs(self, targets: Sequence[int]) -> list[tuple[int | None, list[int]]]:
        """Groups rising indices into runs decoded at once, each from a key frame's number (None: the start)."""
        if self._by_count:
            return [(None, list(targets))]
        runs: list[tuple[int | None, list[int]]] = []
        for target in targets:
            pts = self._index.pts[min(target, len(self._index.pts) - 1)]
            key = int(np.searchsorted(self._index.key_pts, pts, side="right")) - 1
            start = max(self._place(int(self._index.key_pts[key])), 0) if key >= 0 else 0
            if runs and start - runs[-1][1][-1] <= self._seek_gap:
                runs[-1][1].append(target)
            else:
                runs.append((key if key >= 0 else None, [target]))
        return runs

    def _place(self, pts: int | None) -> int:
        """Returns the index of the frame shown at a time, -1 if there is none."""
        if pts is None:
            return -1
        at = int(np.searchsorted(self._index.pts, pts))
        return at if at < len(self._index.pts) and self._index.pts[at] == pts else -1

    def _numbered(self, key: int | None = None, only: Sequence[int] = ()) -> Iterator[tuple[int, Any]]:
        """Yields decoded frames from a key frame on, with their indices; perhaps `only` some and their references."""
        previous = -1
        for count, frame in enumerate(self._decoded(key, only)):
            index = count if self._by_count else self._place(frame.pts)
            if index > previous:
                previous = index
                yield index, frame
            elif self._careful:  # a picture that is not to be shown, or one that damage has moved
                self._broken = True
            else:
                raise _OutOfOrderError

    def _decoded(self, key: int | None = None, only: Sequence[int] = ()) -> Iterator[Any]:
        """Yields decoded frames from a key frame on, in display order; skips damaged packets.

        Raises:
            UnsoundError: if decoding cannot start at that key frame.
        """
        wanted = self._times_to_decode(only)
        packets, start = self._packets(key)
        self._forget()
        for frame in self._pictures(packets, wanted):
            if start is not None:
                if frame.pts is not None and frame.pts < start:
                    continue  # shown before the key frame, and refers to frames before it
                if frame.pts != start or not _is_key(frame):
                    raise UnsoundError
                start = None
            self._note(frame)
            yield frame

    def _forget(self) -> None:
        """Resets the notes about damage, for an empty decoder."""
        self._damaged = self._broken = False  # `_broken`: whether damage affects the frames decoded now
        self._broken_at = NO_TIME  # the latest time of a packet that could not be decoded
        self._inside: set[int | None] = set()  # times of packets in the decoder, whose frames come out later
        self._unharmed: set[int | None] = set()  # those sent before the damage

    def _note(self, frame: Any) -> None:
        """Notes whether a frame may show damage: from the damage up to the next key frame."""
        if frame.is_corrupt:
            self._broken = True
        elif self._broken and _is_key(frame) and (frame.pts is None or frame.pts > self._broken_at):
            self._broken = False
        self._damaged = self._broken and (frame.is_corrupt or frame.pts not in self._unharmed)
        self._inside.discard(frame.pts)

    def _pictures(self, packets: Iterator[Any], wanted: set[int] | None) -> Iterator[Any]:
        """Decodes packets."""
        context, latest = self._stream.codec_context, NO_TIME
        waiting = set() if wanted is None else set(wanted)
        for packet in packets:
            # only frames shown before one that was sent earlier are skipped: others are always references, and a
            # packet that claims otherwise is damaged
            early = packet.pts is not None and packet.pts < latest
            latest = latest if packet.pts is None else max(latest, packet.pts)
            context.skip_frame = "NONREF" if early and wanted is not None and packet.pts not in wanted else "DEFAULT"
            # an empty packet would end decoding, an incomplete one would give a picture that is partly invented
            if packet.size and not (packet.is_corrupt and (packet.pos, packet.size) == self._index.cut):
                yield from self._frames_of(packet)
            waiting.discard(packet.pts)
            if wanted and not waiting and not self._fields:
                break  # the decoder holds them all, and puts them out without any packet more
        for frame in self._frames_of(None):
            if wanted and frame.interlaced_frame and not self._fields:  # its second field may be in the next packet
                self._fields = True
                raise UnsoundError
            yield frame

    def _frames_of(self, packet: Any) -> list[Any]:
        """Decodes a packet (None: the end) and returns the frames that the decoder puts out."""
        context = self._stream.codec_context
        try:
            frames = context.decode(packet)
        except EOFError:
            return []
        except FFmpegError:
            if packet is None or has_picture(packet, context.name, context.extradata):
                self._fail(packet)
            return []
        if packet is not None:
            self._inside.add(packet.pts)
        return frames

    def _fail(self, packet: Any) -> None:
        """Notes that a packet could not be decoded."""
        if not self._broken:
            self._unharmed = self._inside - {None}
        self._broken = True
        if packet is not None and packet.pts is not None:
            self._broken_at = max(self._broken_at, packet.pts)

    def _times_to_decode(self, only: Sequence[int]) -> set[int] | None:
        """Returns the times of frames that must be decoded although no other refers to them; None for all."""
        if not only or self._by_count or self._all_needed or self._stream.codec_context.name not in _DROPPABLE:
            return None
        return {int(pts) for pts in self._index.pts[[index for index in only if index < len(self._index.pts)]]}

    def _packets(self, key: int | None) -> tuple[Iterator[Any], int | None]:
        """Returns packets from a key frame on, and its time; from the file's start, and None, if seeking fails."""
        if key is not None:
            found = self._sought(key)
            if found is not None:
                return found
        return self._from_start(), None

    def _from_start(self) -> Iterator[Any]:
        """Returns all packets; opens a damaged file again, since decoding damage depends on the decoder's past."""
        dts, *place = self._index.first
        first = None if self._careful else self._packet_at(dts)
        if first is not None and [first.pts, first.pos] == place:
            return self._after(first)
        self._container.close()
        self._open()
        return self._after()

    def _sought(self, key: int) -> tuple[Iterator[Any], int] | None:
        """Returns packets from a key frame on or from one before it, and its time; None if seeking ends elsewhere.

        Comparing times is not enough: after damage, containers without stored times count differently after a seek
        than from the start.
        """
        key_pts, key_dts = int(self._index.key_pts[key]), int(self._index.key_dts[key])
        for time in (key_pts, key_dts):
            first = self._packet_at(time)
            if first and first.is_keyframe and first.pts is not None and first.pts <= key_pts and self._listed(first):
                return self._after(first), first.pts
        return None

    def _listed(self, packet: Any) -> bool:
        """Returns whether a key frame's packet is at its listed byte position, or has none listed."""
        at = int(np.searchsorted(self._index.key_pts, packet.pts))
        known = at < len(self._index.key_pts) and self._index.key_pts[at] == packet.pts
        return not known or packet.pos is None or self._index.key_at[at] in (packet.pos, -1)

    def _packet_at(self, time: int) -> Any:
        """Returns the packet that seeking to a time finds, None if it finds none."""
        if time == NO_TIME:
            return None
        try:
            self._container.seek(time, stream=self._stream)
            return next(self._container.demux(self._stream), None)
        except FFmpegError:
            return None

    def _after(self, first: Any = None) -> Iterator[Any]:
        """Yields a packet and those after it, up to where the file is cut short."""
        try:
            rest = self._container.demux(self._stream)
            first = next(rest, None) if first is None else first
            if first is not None:
                self._give_palette(first)
                yield first
            yield from rest
        except FFmpegError:
            return

    def _give_palette(self, packet: Any) -> None:
        """Puts the palette that holds at a packet beside it, unless it has one."""
        before = [palette for time, palette in self._index.palettes if packet.dts is None or time <= packet.dts]
        if before and not packet.has_sidedata("palette"):
            packet.set_sidedata(before[-1])


def _is_key(frame: Any) -> bool:
    """Returns whether this frame and those after it can be decoded without any frame before it."""
    return frame.key_frame and frame.pict_type in _INTRA and not frame.is_corrupt


def display_matrix(frame: Any) -> tuple[int, ...]:
    """Returns the upper left four numbers of the display matrix, which sets a picture upright; () if there is none."""
    # `frame.side_data` would stay with its frame, in a cycle that keeps every picture until Python collects garbage.
    found = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]
    if found is None or found.buffer_size < 36:
        return ()
    numbers = np.frombuffer(bytes(found), np.int32, 9)
    return tuple(int(numbers[k]) for k in (0, 1, 3, 4))


def upright(matrix: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that sets a picture `(H, W, C)` upright: the one of eight turns nearest to the matrix.

    The matrix takes a point `(x, y)` to `(a x + c y, b x + d y)`; one that is all zero is ignored.
    """
    a, b, c, d = matrix if any(matrix) else (1, 0, 0, 1)
    across = abs(b) + abs(c) > abs(a) + abs(d)
    left, up = (c < 0, b < 0) if across else (a < 0, d < 0)

    def turned(picture: np.ndarray) -> np.ndarray:
        picture = picture.swapaxes(0, 1) if across else picture
        return picture[:: -1 if up else 1, :: -1 if left else 1]

    return turned


def _timestamps(index: FrameIndex, stream: Any, num_frames: int) -> np.ndarray:
    """Returns the seconds from the first frame; by the average rate where the file has no times that rise."""
    time_base = stream.time_base
    if not index.ordered or not time_base:
        return np.arange(num_frames) / index.fps
    shown = without_jumps(index.pts, stream)
    times = (shown - shown[0]) * time_base.numerator / time_base.denominator
    missing = np.arange(1, num_frames - len(times) + 1)
    return np.concatenate([times, times[-1] + missing / index.fps])
