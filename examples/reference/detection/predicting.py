"""Detections in one video: its key frames and boxes, and the files that are written."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from reference.detection.ava import Detection, read_boxes, write_rows
from reference.detection.data import Moment, clip_around
from reference.detection.model import Settings
from reference.detection.pictures import captions, draw, save_picture, save_video, side_by_side
from vov3d.video import VideoReader
from vov3d.video.window import steady_frames, steady_rate

_SHOWN = 8  # key frames in the picture


class Film:
    """The key frames of one video.

    Args:
        path: The video.
        settings: Settings of the detector.
        fps: Frames per second of a folder; 12 if None.

    Attributes:
        actions: Numbers and names of the detector's actions.
        excluded: Key frames that do not count; none.
        moments: Its key frames, from `take_boxes` or `propose`.
        reader: The open video.

    Raises:
        vov3d.video.VideoError: If the video cannot be read.
    """

    def __init__(self, path: Path, settings: Settings, fps: float | None = None) -> None:
        self.path = path
        self.reader = VideoReader(path, fps=fps)
        self.actions = dict(zip(settings.ids, settings.actions, strict=True))
        self.moments: list[Moment] = []
        self.excluded: set[tuple[str, float]] = set()

    def __enter__(self) -> "Film":
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()

    def clip(self, index: int, settings: Settings) -> torch.Tensor:
        """Returns frames around a key frame."""
        return clip_around(self.reader, self.moments[index].timestamp, settings)

    def take_boxes(self, path: Path) -> None:
        """Takes key frames and boxes from a CSV of AVA's columns.

        Raises:
            ValueError: If it names no box of this video.
        """
        boxes = {time: found for (video, time), found in read_boxes(path).items() if video == self.path.stem}
        if not boxes:
            raise ValueError(f"{path}: has no box for the video {self.path.stem}")
        self.moments = [Moment(self.path.stem, time, boxes[time], []) for time in sorted(boxes)]

    def propose(self, proposer: Callable[[torch.Tensor], np.ndarray], every: float) -> None:
        """Takes key frames at equal distances, with boxes of a detector.

        Raises:
            ValueError: If the distance is not positive or no box is found.
        """
        if not every > 0:
            raise ValueError(f"--every {every:g}: key frames must be some time apart")
        times = np.arange(min(every, self.reader.duration) / 2, self.reader.duration, every)
        indices = [self.frame_at(time) for time in times]
        boxes = {index: proposer(frame) for index, frame in self.reader.stream(sorted({*indices}))}
        self.moments = [
            Moment(self.path.stem, round(float(time), 3), boxes[index], [])
            for time, index in zip(times, indices, strict=True)
        ]
        if not any(len(moment.boxes) for moment in self.moments):
            raise ValueError(f"{self.path}: the proposer finds nobody in any of {len(times)} key frames")

    def frame_at(self, time: float) -> int:
        """Returns the frame that is shown nearest to a time."""
        return int(np.abs(self.reader.timestamps - time).argmin())


def result_files(video: Path, folder: Path, gif: bool) -> list[Path]:
    """Returns the files that `save_results` writes for a video: CSV, picture and video."""
    return [folder / f"{video.stem}{ending}" for ending in (".csv", ".png", ".gif" if gif else ".mp4")]


def save_results(film: Film, found: list[Detection], folder: Path, threshold: float, gif: bool) -> list[Path]:
    """Writes all scores as AVA's CSV, key frames with boxes as a picture, and the video with boxes.

    Args:
        film: The video.
        found: Its detections.
        folder: The folder of the results; made if it is not there.
        threshold: Lowest score of an action that is named.
        gif: Writes the video as a GIF.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = result_files(film.path, folder, gif)
    write_rows(files[0], found)
    boxes = {
        moment.timestamp: captions((row for row in found if row.timestamp == moment.timestamp), film.actions, threshold)
        for moment in film.moments
    }
    shown = np.unique(np.linspace(0, len(film.moments) - 1, _SHOWN).round().astype(int))
    times = [film.moments[i].timestamp for i in shown]
    frames = film.reader.read([film.frame_at(time) for time in times])
    pictures = [draw(_pixels(frame), boxes[time]) for frame, time in zip(frames, times, strict=True)]
    save_picture(side_by_side(pictures), files[1])
    fps, _ = steady_rate(film.reader)
    save_video(_labelled(film, boxes, fps), files[2], fps)
    return files


def _labelled(film: Film, boxes: dict[float, list], fps: float) -> Iterator[Image.Image]:
    """Yields the frames of the video at a constant rate, with the boxes of the key frame nearest to each."""
    times = np.array(list(boxes))
    for index, frame in enumerate(steady_frames(film.reader)):
        nearest = float(times[np.abs(times - index / fps).argmin()])
        yield draw(_pixels(frame), boxes[nearest])


def _pixels(frame: torch.Tensor) -> np.ndarray:
    return frame.permute(1, 2, 0).numpy()
