"""Clips of moving shapes for tasks beyond one label: several motions at once, speeds, a verb with a noun; numpy only.

    python -m vov3d.synthetic.moving_tasks multilabel --to FOLDER
    python -m vov3d.synthetic.moving_tasks regression --to FOLDER
    python -m vov3d.synthetic.moving_tasks multihead --to FOLDER

writes video files, and the lists `train.csv` and `val.csv` of their labels or values.
"""

import argparse
import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from vov3d.files import replacing
from vov3d.synthetic.drawing import Track, check_clip, check_set, draw_clip, make_progress, make_still
from vov3d.synthetic.moving_shapes import FPS, write_clip

__all__ = ["HEADS", "MOTIONS", "TASKS", "VALUES", "make_task_clip", "make_task_set", "write_task_videos"]

MOTIONS = ("moving left", "moving right", "moving up", "moving down", "turning clockwise", "turning counter-clockwise")
"""Labels of the multilabel clips; each clip has one to three, each shown by its own shape."""

VALUES = ("speed to the right (widths/s)", "speed upwards (heights/s)")
"""Targets of the regression's clips: both from -0.5 to 0.5, at the rate of the files."""

HEADS = {"verb": ("move left", "move right", "move up", "move down"), "noun": ("one shape", "two shapes")}
"""Heads and classes of the clips with a verb and a noun."""

Array = np.ndarray
Random = np.random.Generator

_WAYS = ((-1, 0), (1, 0), (0, -1), (0, 1))  # of the first four motions, y downwards


def _motion(label: int, rng: Random, num_frames: int, size: float | None = None) -> Track:
    """Makes a shape with one of `MOTIONS`."""
    track = make_still(rng, num_frames, size, reach=0.45)
    progress = make_progress(rng, num_frames) - 0.5
    if label >= len(_WAYS):
        turn = rng.uniform(1.5, 4) * progress * (1 if label == len(_WAYS) else -1)
        return replace(track, angle=track.angle + turn)
    way, path = _WAYS[label], rng.uniform(0.7, 1.2) * progress
    return replace(track, x=track.x + way[0] * path, y=track.y + way[1] * path)


def _many(rng: Random, num_frames: int) -> tuple[list[Track], Array]:
    labels = rng.choice(len(MOTIONS), rng.integers(1, 4), replace=False)
    there = np.zeros(len(MOTIONS), np.float32)
    there[labels] = 1
    return [_motion(int(label), rng, num_frames, rng.uniform(0.2, 0.3)) for label in labels], there


def _speeds(rng: Random, num_frames: int) -> tuple[list[Track], Array]:
    speeds = rng.uniform(-0.5, 0.5, 2)
    track = make_still(rng, num_frames, reach=0.3)
    seconds = (np.arange(num_frames) - (num_frames - 1) / 2) / FPS
    moved = replace(track, x=track.x + 2 * speeds[0] * seconds, y=track.y - 2 * speeds[1] * seconds)
    return [moved], speeds.astype(np.float32)


def _verb_and_noun(rng: Random, num_frames: int) -> tuple[list[Track], Array]:
    verb, noun = (int(rng.integers(len(classes))) for classes in HEADS.values())
    return [_motion(verb, rng, num_frames, rng.uniform(0.2, 0.28)) for _ in range(noun + 1)], np.array([verb, noun])


_MAKERS: dict[str, Callable[[Random, int], tuple[list[Track], Array]]] = {
    "multilabel": _many,
    "regression": _speeds,
    "multihead": _verb_and_noun,
}
TASKS = tuple(_MAKERS)
"""Tasks that have clips."""


def make_task_clip(task: str, rng: Random, num_frames: int = 16, size: int = 64) -> tuple[Array, Array]:
    """Makes one clip.

    Args:
        task: One of `TASKS`.
        rng: Random generator; the same state gives the same clip.
        num_frames: Frames.
        size: Rows and columns, in pixels.

    Returns:
        uint8 RGB `(num_frames, size, size, 3)`, and its target: float32 `(6,)` of 0 and 1 for `MOTIONS`, float32 `(2,)`
        for `VALUES`, int64 `(2,)` for the classes of `HEADS`.

    Raises:
        ValueError: If the task is not known, or there are fewer than 2 frames or 16 pixels.
    """
    _check_task(task)
    check_clip(num_frames, size)
    tracks, target = _MAKERS[task](rng, num_frames)
    return draw_clip(tracks, rng, num_frames, size), target


def _check_task(task: str) -> None:
    if task not in _MAKERS:
        raise ValueError(f"task is {task!r}: there are clips for {', '.join(TASKS)}")


def make_task_set(task: str, num_clips: int, seed: int, num_frames: int = 16, size: int = 64) -> tuple[Array, Array]:
    """Makes a fixed set; clip `i` depends on the seed and `i` alone.

    Args:
        task: One of `TASKS`.
        num_clips: Clips.
        seed: Sets of different seeds have no clip in common.
        num_frames: Frames of a clip.
        size: Rows and columns, in pixels.

    Returns:
        uint8 clips `(num_clips, num_frames, size, size, 3)`, and their targets `(num_clips, ...)` of `make_task_clip`.

    Raises:
        ValueError: If there is no clip or the seed is below 0, and as `make_task_clip`.
    """
    check_set(seed, num_clips=num_clips)
    made = [make_task_clip(task, np.random.default_rng((seed, i)), num_frames, size) for i in range(num_clips)]
    return np.stack([clip for clip, _ in made]), np.stack([target for _, target in made])


def write_task_videos(task: str, folder: str | Path, clips: int, val_clips: int, seed: int = 0) -> None:
    """Writes H.264 files under `videos`, and the lists `train.csv` and `val.csv`.

    Args:
        task: One of `TASKS`.
        folder: The folder; made if it does not exist.
        clips: Files to train on.
        val_clips: Files for validation.
        seed: Another seed gives other clips.

    Raises:
        ValueError: If the task is not known, there is no clip to train on, or the seed is below 0; nothing is written.
        ImportError: If PyAV is not installed.
    """
    _check_task(task)
    check_set(seed, clips=clips, val_clips=val_clips or 1)  # 0: no validation
    folder = Path(folder)
    for part, number, part_seed in (("train", clips, 2 * seed), ("val", val_clips, 2 * seed + 1)):
        rows = [("path", *_columns(task))]
        (folder / "videos").mkdir(parents=True, exist_ok=True)
        for i in range(number):
            clip, target = make_task_clip(task, np.random.default_rng((part_seed, i)))
            write_clip(folder / "videos" / f"{part}_{i:05d}.mp4", clip, FPS)
            rows.append((f"videos/{part}_{i:05d}.mp4", *_cells(task, target)))
        with replacing(folder / f"{part}.csv") as draft, draft.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


def _columns(task: str) -> tuple[str, ...]:
    return {"multilabel": ("labels",), "regression": VALUES, "multihead": tuple(HEADS)}[task]


def _cells(task: str, target: Array) -> tuple[str, ...]:
    if task == "multilabel":
        return (";".join(name for name, there in zip(MOTIONS, target, strict=True) if there),)
    if task == "regression":
        return tuple(f"{value:.4f}" for value in target)
    return tuple(classes[int(index)] for classes, index in zip(HEADS.values(), target, strict=True))


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m vov3d.synthetic.moving_tasks", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("task", choices=TASKS, help="task of the clips")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="folder for the videos and their lists")
    parser.add_argument("--clips", type=int, default=400, help="videos to train on (default: 400)")
    parser.add_argument("--val-clips", type=int, default=100, help="videos for validation (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other clips (default: 0)")
    args = parser.parse_args()
    write_task_videos(args.task, args.to, args.clips, args.val_clips, args.seed)


if __name__ == "__main__":
    try:
        _main()
    except (ImportError, OSError, ValueError) as error:
        raise SystemExit(f"moving_tasks: {error}") from None
