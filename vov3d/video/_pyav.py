"""Random access to the frames of a video file with PyAV, exact to the frame."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from vov3d.video._container import NO_TIME, FFmpegError, FrameIndex, index_frames, open_video
from vov3d.video._errors import VideoError
from vov3d.video._frames import FrameSource
from vov3d.video._source import Media

_SEEK_GAP = 16  # frames; decoding up to so many costs less than a seek, which empties the decoder's pipeline
_TRIAL = 9  # frames decoded on opening, to see whether they follow the times of the packets
_DROPPABLE = ("h264", "mpeg4")  # codecs whose unreferenced frames FFmpeg leaves out without a trace in the others


class _OutOfOrderError(Exception):
    """Decoded frames do not follow the times of the packets."""


class PyAVFrames(FrameSource):
    """The frames of a video file.

    Reading seeks to the key frame before a wanted frame, decodes no further than needed, and leaves out what no
    wanted frame refers to. Files without usable times (AVI with B-frames, raw streams) are decoded from the start
    and counted. Damaged ones are decoded once more with care, from the start and in one thread.
    """

    backend = "pyav"

    def __init__(self, media: Media) -> None:
        """Opens the file, lists its frames and decodes the first few.

        Raises:
            VideoError: if the file is missing, unreadable, or has no frame that can be decoded.
        """
        self._media = media
        self._threads = "AUTO"
        self._by_count = False
        self._reformatter = VideoReformatter()  # keeps its tables from frame to frame
        self._container, self._stream = open_video(media, self._threads)
        try:
            self._index = index_frames(self._container, self._stream, media)
            if not self._index.ordered:
                self._count_frames()
            self._survey()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._container.close()

    def _count_frames(self) -> None:
        """From now on frames are told by counting them from the start; in one thread, which loses none to damage."""
        self._by_count, self._threads = True, "NONE"

    def _survey(self) -> None:
        """Decodes the first frames, or all where only counting tells their number, and sets the attributes."""
        first, present = self._trial()
        index = self._index
        self.num_frames = max(present, index.promised)
        self.fps, self.variable = index.fps, index.variable
        self._turns = round(first.rotation / 90) % 4  # quarter turns counterclockwise that set the picture upright
        self._coded_size = first.width, first.height
        self.width, self.height = self._coded_size[::-1] if self._turns % 2 else self._coded_size
        self.timestamps = _timestamps(index, self._stream.time_base, self._by_count, self.num_frames)

    def _trial(self) -> tuple[Any, int]:
        """The first frame, and how many there are; sees whether decoding keeps the order of the times."""
        keys = self._index.key_pts
        key = 0 if len(keys) and not self._by_count else None
        first, count = None, 0
        try:
            for _, frame in islice(self._numbered(key), None if self._by_count else _TRIAL):
                first = frame if first is None else first
                count += 1
        except _OutOfOrderError:
            self._count_frames()
            return self._trial()
        if first is None:
            raise VideoError(f"{self._media.name}: not one frame can be decoded; see whether a player shows it")
        return first, count if self._by_count else len(self._index.pts)

    def frames(self, targets: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """Decodes some frames, as `FrameSource.frames`."""
        self.missing = 0
        converted: tuple[Any, Any] = (None, None)
        for index, frame in self._collected(targets):
            if frame is not converted[0]:
                converted = frame, self._converted(frame)
            yield index, converted[1]

    def _converted(self, frame: Any) -> torch.Tensor:
        """A decoded frame as upright RGB `(C, H, W)`."""
        width, height = self._coded_size  # some streams change their size on the way
        array = self._reformatter.reformat(frame, width, height, "rgb24").to_ndarray()
        return torch.from_numpy(np.ascontiguousarray(np.rot90(array, self._turns))).permute(2, 0, 1)

    def _collected(self, targets: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """The wanted frames, by seeking; with care from where that does not give one."""
        waiting = deque(targets)
        try:
            yield from self._by_seeking(waiting)
            if waiting:
                yield from self._with_care(waiting)
        except _OutOfOrderError:
            self._count_frames()  # counting never raises it
            yield from self._with_care(waiting)

    def _by_seeking(self, waiting: deque[int]) -> Iterator[tuple[int, Any]]:
        """The wanted frames that decoding from the nearest key frames gives; ends early at one that is not sound."""
        for key, run in self._runs(waiting):
            for index, frame in self._numbered(key, run):
                if index == waiting[0] and not frame.is_corrupt:
                    yield waiting.popleft(), frame
                if not waiting or index >= min(run[-1], waiting[0]):
                    break
            if waiting and waiting[0] <= run[-1]:
                return

    def _with_care(self, waiting: deque[int]) -> Iterator[tuple[int, Any]]:
        """The wanted frames of a damaged file, the frame before each missing one in its place."""
        self._threads = "NONE"  # several threads lose frames around a damaged packet
        last = None
        for index, frame in self._numbered(None):
            while waiting and waiting[0] <= index:
                here = waiting[0] == index
                self.missing += not here
                yield waiting.popleft(), frame if here or last is None else last
            last = frame
            if not waiting:
                return
        if last is None:
            raise VideoError(f"{self._media.name}: not one frame can be decoded any more; was the file changed?")
        self.missing += len(waiting)
        for target in waiting:
            yield target, last

    def _runs(self, targets: Sequence[int]) -> list[tuple[int | None, list[int]]]:
        """Groups rising indices into stretches decoded in one go, each from a key frame's number (None: the start)."""
        if self._by_count:
            return [(None, list(targets))]
        runs: list[tuple[int | None, list[int]]] = []
        for target in targets:
            pts = self._index.pts[min(target, len(self._index.pts) - 1)]
            key = int(np.searchsorted(self._index.key_pts, pts, side="right")) - 1
            start = max(self._place(int(self._index.key_pts[key])), 0) if key >= 0 else 0
            if runs and start - runs[-1][1][-1] <= _SEEK_GAP:
                runs[-1][1].append(target)
            else:
                runs.append((key if key >= 0 else None, [target]))
        return runs

    def _place(self, pts: int | None) -> int:
        """The index of the frame that is shown at a time, -1 if none is."""
        if pts is None:
            return -1
        at = int(np.searchsorted(self._index.pts, pts))
        return at if at < len(self._index.pts) and self._index.pts[at] == pts else -1

    def _numbered(self, key: int | None, only: Sequence[int] = ()) -> Iterator[tuple[int, Any]]:
        """Decoded frames from a key frame on, with their indices; perhaps `only` some and what they refer to."""
        previous = -1
        for count, frame in enumerate(self._decoded(key, only)):
            index = count if self._by_count else self._place(frame.pts)
            if index <= previous:
                raise _OutOfOrderError
            previous = index
            yield index, frame

    def _decoded(self, key: int | None, only: Sequence[int] = ()) -> Iterator[Any]:
        """Decoded frames from a key frame on, in the order in which they are shown; damaged packets are passed over."""
        wanted = self._times_to_decode(only)
        for packet in self._packets(key):
            context = self._stream.codec_context
            context.skip_frame = "DEFAULT" if wanted is None or packet.pts in wanted else "NONREF"
            # an empty packet would end decoding, a half one would give a picture that is half made up
            if packet.size and not (packet.is_corrupt and packet.pos == self._index.cut_at):
                try:
                    yield from packet.decode()
                except FFmpegError:
                    continue
        try:
            yield from self._stream.codec_context.decode(None)
        except FFmpegError:  # nothing left
            return

    def _times_to_decode(self, only: Sequence[int]) -> set[int] | None:
        """Times of frames that must be decoded though no other refers to them; None for all."""
        if not only or self._by_count or self._stream.codec_context.name not in _DROPPABLE:
            return None
        return {int(pts) for pts in self._index.pts[[index for index in only if index < len(self._index.pts)]]}

    def _packets(self, key: int | None) -> Iterator[Any]:
        """Packets from a key frame on; from the start of the file where seeking does not arrive at or before it."""
        key_pts, key_dts = (None, None) if key is None else self._key(key)
        for time in (key_pts, key_dts):
            if time is None:
                continue
            try:
                self._container.seek(time, stream=self._stream)
                packets = self._container.demux(self._stream)
                first = next(packets, None)
            except FFmpegError:
                continue
            if first and first.is_keyframe and first.pts is not None and key_pts is not None and first.pts <= key_pts:
                yield first
                break
        else:
            self._container.close()
            self._container, self._stream = open_video(self._media, self._threads)
            packets = self._container.demux(self._stream)
        try:
            yield from packets
        except FFmpegError:  # where the file is cut short
            return

    def _key(self, number: int) -> tuple[int, int | None]:
        """Presentation and decoding time of a key frame."""
        dts = int(self._index.key_dts[number])
        return int(self._index.key_pts[number]), None if dts == NO_TIME else dts


def _timestamps(index: FrameIndex, time_base: Any, by_count: bool, num_frames: int) -> np.ndarray:
    """Seconds from the first frame; at the average rate where the file does not say."""
    if by_count or not time_base:
        return np.arange(num_frames) / index.fps
    times = (index.pts - index.pts[0]) * time_base.numerator / time_base.denominator
    behind = np.arange(1, num_frames - len(times) + 1)
    return np.concatenate([times, times[-1] + behind / index.fps])
