"""Random access to the frames of a video file, exact to the frame."""

import operator
import os
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from vov3d.video._container import FFmpegError, FrameIndex, KeyFrame, VideoError, index_frames, open_video

__all__ = ["VideoError", "VideoReader"]

_SEEK_GAP = 16  # frames; decoding up to so many costs less than a seek, which empties the decoder's pipeline

Transform = Callable[[torch.Tensor], torch.Tensor]


class _OutOfOrderError(Exception):
    """Decoded frames do not follow the times of the packets."""


class VideoReader:
    """A video file as a sequence of frames, in the order in which they are shown.

    Opening lists the packets without decoding them, so a wrong frame count in the container does not matter. Reading
    seeks to the key frame before a wanted frame and decodes no further than needed. Files without usable times (AVI
    with B-frames, raw streams) are decoded from the start and counted. Rotation metadata is honoured.

    A file that is cut short gives the frames it has; the last frame that can be decoded stands for those missing,
    with one warning per reader.

    Attributes:
        path: the file.
        num_frames: frames in the video; of a file cut short, the number it should have, where it tells.
        fps: frames per second, on average where the rate is variable.
        height: rows of an upright frame.
        width: columns of an upright frame.
        timestamps: seconds from the first frame, for each frame.
        duration: seconds, up to the end of the last frame.

    Example:
        >>> with VideoReader("clip.mp4") as reader:  # doctest: +SKIP
        ...     frames = reader.read(range(0, reader.num_frames, 5))
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens the file and lists its frames.

        Args:
            path: a video file.

        Raises:
            VideoError: if the file is missing, unreadable, or has no frame that can be decoded.
        """
        self.path = os.fspath(path)
        self._threads = "AUTO"
        self._warned = self._closed = self._by_count = False
        self._container, self._stream = open_video(self.path, self._threads)
        try:
            self._index = index_frames(self._container, self._stream)
            self._place = {pts: index for index, pts in enumerate(self._index.pts)}
            if not self._index.ordered:
                self._count_frames()
            self._survey()
        except BaseException:
            self.close()
            raise

    def _count_frames(self) -> None:
        """From now on frames are told by counting them from the start; in one thread, which loses none to damage."""
        self._by_count, self._threads = True, "NONE"

    def _survey(self) -> None:
        """Decodes the first frame, or all where only counting tells their number, and sets the attributes."""
        frames = self._decoded(None if self._by_count else next(iter(self._index.keys), None))
        first = next(frames, None)
        if first is None:
            raise VideoError(f"{self.path}: not one frame can be decoded; see whether a player shows it")
        index = self._index
        present = 1 + sum(1 for _ in frames) if self._by_count else len(index.pts)
        self.num_frames = max(present, index.promised)
        self.fps = index.fps
        self._turns = round(first.rotation / 90) % 4  # quarter turns counterclockwise that set the picture upright
        self._coded_size = first.width, first.height
        self.width, self.height = self._coded_size[::-1] if self._turns % 2 else self._coded_size
        self.timestamps = _timestamps(index, self._stream.time_base, self._by_count, self.num_frames)
        self.duration = self.timestamps[-1] + 1 / self.fps

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.num_frames

    def close(self) -> None:
        """Closes the file; reading afterwards raises."""
        self._container.close()
        self._closed = True

    def at_constant_rate(self, indices: Iterable[int]) -> list[int]:
        """Turns indices counted at the average rate into those of the frames shown nearest to that time.

        Sampling plans speak of equal distances in time. In a file of constant rate these are equal distances in
        frames, and nothing changes.

        Args:
            indices: frame `i` stands for the time `i / fps`.

        Returns:
            As many indices of frames of this file.
        """
        if not self._index.variable:
            return list(indices)
        return [self._nearest(index / self.fps) for index in indices]

    def _nearest(self, seconds: float) -> int:
        """The frame whose time is nearest, the earlier of two as near."""
        after = min(bisect_left(self.timestamps, seconds), self.num_frames - 1)
        before = max(after - 1, 0)
        return before if seconds - self.timestamps[before] <= self.timestamps[after] - seconds else after

    def read(self, indices: Iterable[int], transform: Transform | None = None) -> torch.Tensor:
        """Decodes frames; each one wanted is decoded and converted once, however often it is asked for.

        Args:
            indices: in any order, repeats allowed, each in `[0, num_frames - 1]`.
            transform: applied to each frame `(C, H, W)` at once, so that many large frames need not fit in memory,
                e.g. `eval_transform(cfg).resize`.

        Returns:
            uint8 RGB frames `(T, C, H, W)` in the order of `indices`; or what `transform` made of them, stacked.

        Raises:
            IndexError: for a frame that the video does not have.
            ValueError: if no frame is asked for or the reader is closed.
            VideoError: if nothing can be decoded.
        """
        wanted = [operator.index(index) for index in indices]
        self._check(wanted)
        targets = sorted(set(wanted))
        frames = self._collect(targets, lambda frame: self._converted(frame, transform))
        return torch.stack([frames[index] for index in wanted])

    def _check(self, wanted: Sequence[int]) -> None:
        """Refuses what cannot be read, before anything is decoded."""
        if self._closed:
            raise ValueError(f"{self.path}: the reader is closed; open it again")
        if not wanted:
            raise ValueError(f"{self.path}: no frames were asked for")
        for index in wanted:
            if not 0 <= index < self.num_frames:
                raise IndexError(f"{self.path}: frame {index} is not in 0..{self.num_frames - 1}")

    def _converted(self, frame: Any, transform: Transform | None) -> torch.Tensor:
        """A decoded frame as upright RGB `(C, H, W)`, transformed."""
        width, height = self._coded_size  # some streams change their size on the way
        array = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
        upright = torch.from_numpy(np.ascontiguousarray(np.rot90(array, self._turns))).permute(2, 0, 1)
        return upright if transform is None else transform(upright)

    def _collect(self, targets: list[int], convert: Callable[[Any], torch.Tensor]) -> dict[int, torch.Tensor]:
        """The wanted frames (rising indices), by seeking; with care where that does not give all of them."""
        try:
            found = self._seek_and_collect(targets, convert)
            return found if len(found) == len(targets) else self._collect_with_care(targets, convert)
        except _OutOfOrderError:
            self._count_frames()  # counting never raises it, so this happens once
            return self._collect(targets, convert)

    def _seek_and_collect(self, targets: list[int], convert: Callable[[Any], torch.Tensor]) -> dict[int, torch.Tensor]:
        """The wanted frames that decoding from the nearest key frames gives."""
        found: dict[int, torch.Tensor] = {}
        for key, run in self._runs(targets):
            waiting = set(run)
            for index, frame in self._numbered(key):
                if index in waiting:
                    found[index] = convert(frame)
                if index >= run[-1]:
                    break
        return found

    def _collect_with_care(self, targets: list[int], convert: Callable[[Any], torch.Tensor]) -> dict[int, torch.Tensor]:
        """The wanted frames of a damaged file, the frame before each missing one in its place."""
        self._threads = "NONE"  # several threads lose frames around a damaged packet
        shown: dict[int, Any] = {}
        missing: list[int] = []
        waiting, last = iter(targets), None
        target = next(waiting, None)
        for index, frame in self._numbered(None):
            while target is not None and target <= index:
                shown[target] = frame if target == index or last is None else last
                missing += [] if target == index else [target]
                target = next(waiting, None)
            last = frame
            if target is None:
                break
        missing += [] if target is None else [target, *waiting]
        if last is None:
            raise VideoError(f"{self.path}: not one frame can be decoded any more; was the file changed?")
        self._warn_missing(len(missing), len(targets))
        chosen = {target: shown.get(target, last) for target in targets}
        made = {id_: convert(frame) for id_, frame in {id(frame): frame for frame in chosen.values()}.items()}
        return {target: made[id(frame)] for target, frame in chosen.items()}

    def _warn_missing(self, missing: int, asked: int) -> None:
        """Tells once per reader that frames are replaced."""
        if missing and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.path}: {missing} of the {asked} frames asked for are missing (the file is cut short or "
                "damaged); the last frame before them that can be decoded stands for each",
                RuntimeWarning,
                stacklevel=5,
            )

    def _runs(self, targets: list[int]) -> list[tuple[KeyFrame | None, list[int]]]:
        """Groups rising indices into stretches that are decoded in one go, each from a key frame (None: the start)."""
        if self._by_count:
            return [(None, targets)]
        runs: list[tuple[KeyFrame | None, list[int]]] = []
        for target in targets:
            key = self._key_before(target)
            start = self._place.get(key.pts, 0) if key else 0
            if runs and start - runs[-1][1][-1] <= _SEEK_GAP:
                runs[-1][1].append(target)
            else:
                runs.append((key, [target]))
        return runs

    def _key_before(self, target: int) -> KeyFrame | None:
        """The key frame that decoding of a frame starts at."""
        pts = self._index.pts[min(target, len(self._index.pts) - 1)]
        at = bisect_right(self._index.keys, pts, key=lambda key: key.pts)
        return self._index.keys[at - 1] if at else None

    def _numbered(self, key: KeyFrame | None) -> Iterator[tuple[int, Any]]:
        """Decoded frames from a key frame on, with their indices."""
        previous = -1
        for count, frame in enumerate(self._decoded(key)):
            index = count if self._by_count else self._place.get(frame.pts, -1)
            if index <= previous:
                raise _OutOfOrderError
            previous = index
            yield index, frame

    def _decoded(self, key: KeyFrame | None) -> Iterator[Any]:
        """Decoded frames from a key frame on, in the order in which they are shown; damaged packets are passed over."""
        for packet in self._packets(key):
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

    def _packets(self, key: KeyFrame | None) -> Iterator[Any]:
        """Packets from a key frame on; from the start of the file where seeking does not arrive at or before it."""
        for time in (key.pts, key.dts) if key else ():
            if time is None:
                continue
            try:
                self._container.seek(time, stream=self._stream)
                packets = self._container.demux(self._stream)
                first = next(packets, None)
            except FFmpegError:
                continue
            if key and first and first.is_keyframe and first.pts is not None and first.pts <= key.pts:
                yield first
                break
        else:
            self._container.close()
            self._container, self._stream = open_video(self.path, self._threads)
            packets = self._container.demux(self._stream)
        try:
            yield from packets
        except FFmpegError:  # where the file is cut short
            return


def _timestamps(index: FrameIndex, time_base: Any, by_count: bool, num_frames: int) -> list[float]:
    """Seconds from the first frame; at the average rate where the file does not say."""
    if by_count or not time_base:
        return [count / index.fps for count in range(num_frames)]
    times = [float((pts - index.pts[0]) * time_base) for pts in index.pts]
    return times + [times[-1] + count / index.fps for count in range(1, num_frames - len(times) + 1)]
