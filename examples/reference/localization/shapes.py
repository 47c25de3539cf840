"""Generated videos whose segments are known: moving shapes, one shot after the other.

In each shot shapes stand still, do one of the twenty motions of `vov3d.synthetic.moving_shapes`, and stand still again;
how long, is drawn. Nothing but the motion tells where a segment begins and ends, and one or both ends may lie at a cut.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from vov3d.files import replacing
from vov3d.synthetic.drawing import check_set
from vov3d.synthetic.moving_shapes import CLASSES, make_clip, write_clip

FPS, SECONDS, EVERY = 10, 1.6, 0.2
"""Frames per second, and window and distance of windows in seconds, for a model of moving shapes."""

_MOTION, _STILL, _SHOTS = (16, 33), 21, (5, 9)


def write_shapes(folder: Path, train: int, val: int, seed: int = 0) -> Path:
    """Writes `videos/*.mp4` and `annotations.json`, in ActivityNet's form; gives the file of annotations.

    Args:
        folder: Where; made if it is not there.
        train: Videos of the subset `training`.
        val: Videos of the subset `validation`.
        seed: Video `i` of a subset depends on it and `i` alone.

    Raises:
        ValueError: If there is no video to train on, or the seed is below 0; nothing is written.
    """
    check_set(seed, train=train, val=val or 1)  # 0: no validation
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    database: dict[str, Any] = {}
    for part, (subset, count) in enumerate((("training", train), ("validation", val))):
        for number in range(count):
            name = f"{subset}_{number:04d}"
            frames, annotations = make_video(np.random.default_rng((seed, part, number)))
            with replacing(folder / "videos" / f"{name}.mp4") as draft:
                write_clip(draft, frames, FPS)
            database[name] = {"duration": len(frames) / FPS, "subset": subset, "annotations": annotations}
    with replacing(folder / "annotations.json") as draft:
        draft.write_text(json.dumps({"database": database}, indent=1) + "\n", encoding="utf-8")
    return folder / "annotations.json"


def make_video(rng: np.random.Generator) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Makes the frames `(T, S, S, 3)` of a video, and what happens in it, in ActivityNet's form."""
    parts, found, end = list[np.ndarray](), list[dict[str, Any]](), 0
    for label in rng.permutation(len(CLASSES))[: rng.integers(*_SHOTS)].tolist():
        drawn = int(rng.integers(_STILL)), int(rng.integers(*_MOTION)), int(rng.integers(_STILL))
        motion = drawn[1]
        before, after = (0 if rng.random() < 0.25 else still for still in (drawn[0], drawn[2]))
        parts.append(make_clip(label, rng, motion, before=before, after=after))
        start = end + before
        found.append({"label": CLASSES[label], "segment": [start / FPS, (start + motion) / FPS]})
        end += len(parts[-1])
    return np.concatenate(parts), found
