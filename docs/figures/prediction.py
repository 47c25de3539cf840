"""Draws `prediction.png`: what `vov3d predict clip.mp4 --picture out.png` draws, of a clip of moving shapes.

Run `python docs/figures/prediction.py` (needs the extra `video`).
"""

import contextlib
import tempfile
from pathlib import Path

import numpy as np

import vov3d
from vov3d.synthetic.moving_shapes import CLASSES, make_clip, write_clip
from vov3d.video.picture import save_result

SHOWN, FRAMES, SIZE, SEED = "Pushing something", 16, 224, 4
TARGET = Path(__file__).with_suffix(".png")


def main() -> None:
    """Makes a video, labels it, draws the network's input and the labels."""
    rng = np.random.default_rng(SEED)
    classifier = vov3d.VideoClassifier("vov3d_n")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_clip(Path("clip.mp4"), make_clip(CLASSES.index(SHOWN), rng, FRAMES, SIZE))
        save_result(classifier.result("clip.mp4"), TARGET)


if __name__ == "__main__":
    main()
