"""Draws `moving_shapes.png`: clips that differ only in motion, a pair of classes above one another.

Run `python docs/figures/moving_shapes.py` (needs the extras `docs` and `video`).
"""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

from vov3d.synthetic.moving_shapes import CLASSES, make_clip

SHOWN = ("Moving something left", "Moving something right", "Turning something clockwise", "Pushing something")
FRAMES, SIZE, SEED = 8, 96, 3
TARGET = Path(__file__).with_suffix(".png")


def main() -> None:
    """Draws one strip of frames a class."""
    figure, axes = plt.subplots(len(SHOWN), 1, figsize=(10, 6.2))
    for ax, name in zip(axes, SHOWN, strict=True):
        rng = np.random.default_rng((SEED, CLASSES.index(name)))
        clip = make_clip(CLASSES.index(name), rng, FRAMES, SIZE)
        gap = np.full((SIZE, 4, 3), 255, np.uint8)
        ax.imshow(np.concatenate([part for frame in clip for part in (frame, gap)], 1))
        ax.set_title(name, loc="left", fontsize=11, color="#22272e")
        ax.axis("off")
    figure.tight_layout()
    figure.savefig(TARGET, dpi=80, facecolor="white")


if __name__ == "__main__":
    main()
