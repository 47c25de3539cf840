"""Draws `detections.png`: scenes that the detector was not trained on, with what it says of each box.

    python docs/figures/detections.py

Scenes are made again from their seed; what was found in them is what `docs/measure/detected_scenes.py` stored in
docs/results/benchmarks/detection.json. Needs the extras `docs` and `video`.
"""

import json
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from vov3d.synthetic.moving_scenes import ACTIONS, make_scenes

TARGET = Path(__file__).with_suffix(".png")
STORED = Path(__file__).parents[1] / "results" / "benchmarks" / "detection.json"
SEED, SCENES = 1, 5
COLOURS = ("#ffd23f", "#3bceac", "#ee4266")
GAP = 4


def main() -> None:
    """Draws a strip of frames a scene, with the boxes in its key frame, and beside it the actions of each box."""
    found = defaultdict(list)
    for video, box, action, score in json.loads(STORED.read_text())["shown"]:
        found[video, tuple(box)].append((score, action))
    scenes = make_scenes(SCENES, SEED)
    figure, axes = plt.subplots(SCENES, 1, figsize=(11, 0.98 * SCENES))
    for number, (ax, scene) in enumerate(zip(axes, scenes, strict=True)):
        size = scene.frames.shape[1]
        gap = np.full((size, GAP, 3), 255, np.uint8)
        ax.imshow(np.concatenate([part for frame in scene.frames for part in (frame, gap)], 1))
        left, end = scene.key * (size + GAP), len(scene.frames) * (size + GAP)
        for i, (box, truth) in enumerate(zip(scene.boxes[scene.key].tolist(), scene.actions, strict=True)):
            x1, y1, x2, y2 = (v * size - 0.5 for v in box)
            ax.add_patch(Rectangle((left + x1, y1), x2 - x1, y2 - y1, fill=False, lw=2, ec=COLOURS[i]))
            said = sorted(found[f"scene_{SEED}_{number:05d}", tuple(round(v, 4) for v in box)], reverse=True)
            right = {action for _, action in said} == {ACTIONS[j] for j in np.flatnonzero(truth)}
            text = "\n".join(f"{action} {score:.0%}" for score, action in said) or "nothing"
            missed = "" if right else "\ntruth: " + ", ".join(ACTIONS[j] for j in np.flatnonzero(truth))
            x, y = end + 10, (i + 0.5) * size / len(scene.actions)
            ax.add_patch(Rectangle((end, y - 7), 5, 14, fc=COLOURS[i], ec="none", clip_on=False))
            ax.text(x, y, text + missed, va="center", fontsize=10, color="#22272e" if right else "#c02f2f")
        ax.set_xlim(-0.5, end + 230)
        ax.axis("off")
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.99, hspace=0.06)
    figure.savefig(TARGET, dpi=80, facecolor="white")


if __name__ == "__main__":
    main()
