"""Key frames with their clips, boxes and actions: generated scenes, or videos with the files of AVA."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from reference.detection.ava import (
    Annotation,
    Box,
    read_annotations,
    read_excluded,
    read_label_map,
    write_label_map,
    write_rows,
)
from reference.detection.model import Settings
from vov3d.synthetic.drawing import check_set
from vov3d.synthetic.moving_scenes import ACTIONS, Scene, make_scenes
from vov3d.synthetic.moving_shapes import write_clip
from vov3d.video import VIDEO_ENDINGS, VideoReader

SCENE_FPS = 10
LABEL_MAP = "actions.pbtxt"
# Names that label maps and lists of excluded key frames are published under.
_LABEL_MAPS = (LABEL_MAP, "*.pbtxt", "*.pbtxt.txt", "*action_list*.txt", "*action_list*.csv", "label*map.txt")
_EXCLUDED = ("{}_excluded_timestamps*.csv", "*{}_excluded_timestamps*.csv", "excluded_timestamps.csv")


class Moment(NamedTuple):
    """A key frame and the boxes in it.

    Attributes:
        video: Name of the video.
        timestamp: In seconds.
        boxes: `(N, 4)` from 0 to 1.
        actions: Numbers of the actions of each box.
    """

    video: str
    timestamp: float
    boxes: np.ndarray
    actions: list[set[int]]


class Moments(Protocol):
    """Moments of videos.

    Attributes:
        actions: Numbers and names of the actions.
        moments: The moments.
        excluded: Key frames that do not count in the evaluation.
    """

    excluded: set[tuple[str, float]]
    actions: dict[int, str]
    moments: list[Moment]

    def clip(self, index: int, settings: Settings) -> torch.Tensor:
        """Returns uint8 frames `(3, T, H, W)` around a moment, as a detector wants them."""
        ...


class SceneMoments:
    """Generated scenes."""

    def __init__(self, number: int, seed: int, num_frames: int, size: int) -> None:
        self.excluded: set[tuple[str, float]] = set()
        self.actions = dict(enumerate(ACTIONS, 1))
        self.scenes = make_scenes(number, seed, num_frames, size)
        self.moments = [_moment(scene, f"scene_{seed}_{i:05d}") for i, scene in enumerate(self.scenes)]

    def clip(self, index: int, settings: Settings) -> torch.Tensor:
        """Returns the whole scene, which is drawn at the right size."""
        return torch.from_numpy(self.scenes[index].frames).permute(3, 0, 1, 2)


def _moment(scene: Scene, name: str) -> Moment:
    actions = [{int(i) + 1 for i in np.flatnonzero(row)} for row in scene.actions]
    return Moment(name, scene.key / SCENE_FPS, scene.boxes[scene.key], actions)


class VideoMoments:
    """Videos in `FOLDER/videos`, annotations in a file, the label map in `FOLDER/actions.pbtxt` or as published.

    Args:
        folder: The folder.
        split: `train` or `val`: annotations in `SPLIT.csv` or as published, `ava_SPLIT_v2.2.csv`; excluded key frames
            in a list as AVA publishes it.
        label_map: The label map, in place of the folder's.

    Raises:
        FileNotFoundError: If a file or a video is not there.
        ValueError: If a line cannot be understood, or no box is annotated.
    """

    def __init__(self, folder: Path, split: str, label_map: Path | None = None) -> None:
        self.folder = folder
        self.actions = read_label_map(label_map or find_label_map(folder))
        self.excluded = excluded_of(folder, split)
        listed = find_annotations(folder, split)
        moments = moments_of(read_annotations(listed, self.actions))
        self.moments = [m for m in moments if (m.video, m.timestamp) not in self.excluded]
        if not any(len(moment.boxes) for moment in self.moments):
            raise ValueError(f"{listed}: annotates no box")
        self.files = {name: find_video(folder / "videos", name) for name in {m.video for m in self.moments}}

    def clip(self, index: int, settings: Settings) -> torch.Tensor:
        """Returns frames around a moment; at the ends of the video its first or last frame is repeated."""
        moment = self.moments[index]
        with VideoReader(self.files[moment.video]) as reader:
            return clip_around(reader, moment.timestamp, settings)


def find_annotations(folder: Path, split: str) -> Path:
    """Returns the annotations of a split, `SPLIT.csv` or as AVA publishes them.

    Raises:
        ValueError: If there are several that AVA published.
    """
    own, published = folder / f"{split}.csv", sorted(folder.glob(f"ava_{split}_v[0-9]*.csv"))
    if len(published) > 1 and not own.is_file():
        raise ValueError(f"{folder}: holds {' and '.join(file.name for file in published)}; keep one of them there")
    return own if own.is_file() or not published else published[0]


def find_label_map(folder: Path) -> Path:
    """Returns the label map in a folder.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If there are several that differ.
    """
    files = list(dict.fromkeys(file for pattern in _LABEL_MAPS for file in sorted(folder.glob(pattern))))
    if not files:
        raise FileNotFoundError(f"{folder}: holds no label map; expected {LABEL_MAP}, or give it with --actions FILE")
    if files[0].name != LABEL_MAP and any(read_label_map(file) != read_label_map(files[0]) for file in files[1:]):
        raise ValueError(f"{folder}: holds {', '.join(file.name for file in files)}; say which with --actions FILE")
    return files[0]


def excluded_of(folder: Path, split: str) -> set[tuple[str, float]]:
    """Returns the key frames that AVA's list beside the annotations excludes; none without such a list."""
    files = sorted({file for pattern in _EXCLUDED for file in folder.glob(pattern.format(split))})
    return {key for file in files for key in read_excluded(file)}


def find_video(folder: Path, name: str) -> Path:
    """Returns the file of a video.

    Raises:
        FileNotFoundError: If there is none.
    """
    for ending in sorted(VIDEO_ENDINGS):
        for path in (folder / f"{name}{ending}", folder / f"{name}{ending.upper()}"):
            if path.is_file():
                return path
    raise FileNotFoundError(f"{folder / name}: no video of that name, as {name}.mp4")


def moments_of(rows: Iterable[Annotation]) -> list[Moment]:
    """Merges annotations by key frame; lines of one person (of one box, without person numbers) become one box."""
    found: dict[tuple[str, float], dict[object, tuple[Box, set[int]]]] = {}
    for row in rows:
        people = found.setdefault((row.video, row.timestamp), {})
        if row.box is not None and row.action is not None:
            person = (row.person, row.box)
            people.setdefault(person, (row.box, set()))[1].add(row.action)
    return [
        Moment(*key, np.array([box for box, _ in people.values()], np.float32).reshape(-1, 4),
               [actions for _, actions in people.values()])
        for key, people in found.items()
    ]  # fmt: skip


def annotations_of(moments: Iterable[Moment]) -> list[Annotation]:
    """Returns the lines of AVA's file for moments."""
    rows = []
    for moment in moments:
        rows += [] if len(moment.boxes) else [Annotation(moment.video, moment.timestamp, None, None, None)]
        for person, (box, actions) in enumerate(zip(moment.boxes.tolist(), moment.actions, strict=True)):
            rows += [
                Annotation(moment.video, moment.timestamp, tuple(box), action, person) for action in sorted(actions)
            ]
    return rows


def clip_around(reader: VideoReader, timestamp: float, settings: Settings) -> torch.Tensor:
    """Returns uint8 frames `(3, T, H, W)` around a time, with the short side of the detector.

    Raises:
        ValueError: If the video is not that long.
    """
    if not 0 <= timestamp <= reader.duration:
        raise ValueError(f"{reader.path}: lasts {reader.duration:.2f} s, and there is no key frame at {timestamp:g} s")
    times = timestamp + settings.interval * (np.arange(settings.num_frames) - settings.num_frames // 2)
    indices = np.abs(reader.timestamps[None] - times[:, None]).argmin(1)
    frames = reader.read(indices.tolist())
    scale = settings.size / min(frames.shape[-2:])
    if scale != 1:
        size = [max(settings.size, round(side * scale)) for side in frames.shape[-2:]]
        frames = F.interpolate(frames.float(), size, mode="bilinear", antialias=True).round().clamp(0, 255).byte()
    return frames.transpose(0, 1)


class Batch(NamedTuple):
    """Clips padded to one size at the right and below.

    Attributes:
        clips: uint8 `(B, 3, T, H, W)`.
        boxes: Of each clip, in pixels, `(N_i, 4)`.
    """

    clips: torch.Tensor
    boxes: list[torch.Tensor]


def batch_of(clips: Sequence[torch.Tensor], boxes: Sequence[np.ndarray]) -> Batch:
    """Pads clips `(3, T, H, W)` to one size, and scales their boxes from 0 to 1 to pixels."""
    height, width = (max(clip.shape[axis] for clip in clips) for axis in (2, 3))
    padded = [F.pad(clip, (0, width - clip.shape[3], 0, height - clip.shape[2])) for clip in clips]
    scaled = [
        torch.from_numpy(np.ascontiguousarray(b, np.float32)) * torch.tensor([clip.shape[3], clip.shape[2]] * 2)
        for clip, b in zip(clips, boxes, strict=True)
    ]
    return Batch(torch.stack(padded), scaled)


def targets_of(moments: Iterable[Moment], ids: Sequence[int]) -> torch.Tensor:
    """Returns the actions of each box as zeros and ones, `(boxes, actions)`."""
    return torch.tensor([[float(i in actions) for i in ids] for moment in moments for actions in moment.actions])


def write_scenes(folder: Path, number: int, val_number: int, seed: int, num_frames: int = 8, size: int = 64) -> None:
    """Writes scenes as a folder for `VideoMoments`: videos at 10 fps, `train.csv`, `val.csv`, label map.

    Raises:
        ValueError: If there is no scene to train on, or the seed is below 0; nothing is written.
        ImportError: If PyAV is not there.
    """
    check_set(seed, number=number, val_number=val_number or 1)  # 0: no validation
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    write_label_map(folder / LABEL_MAP, dict(enumerate(ACTIONS, 1)))
    for split, count, own in (("train", number, seed), ("val", val_number, seed + 1)):
        data = SceneMoments(count, own, num_frames, size)
        for scene, moment in zip(data.scenes, data.moments, strict=True):
            write_clip(folder / "videos" / f"{moment.video}.mp4", scene.frames, SCENE_FPS)
        write_rows(folder / f"{split}.csv", annotations_of(data.moments))
