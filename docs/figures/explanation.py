"""Draws `explanation.webp`: a clip of moving shapes, its heat map, and its labels, frame by frame.

Run `python docs/figures/explanation.py` (needs the extra `explain`).
"""

import tempfile
from pathlib import Path

import numpy as np

import vov3d
from vov3d.interpret import explain, save_explanations
from vov3d.synthetic.moving_shapes import CLASSES, make_clip, write_clip

SHOWN, FRAMES, SIZE, SEED, FPS = "Moving something and something away from each other", 32, 128, 23, 12
TARGET = Path(__file__).with_suffix(".webp")


def main() -> None:
    """Makes a video, explains its label, draws both."""
    model = vov3d.create_model("vov3d_n", pretrained=True).eval()
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder, "clip.mp4")
        write_clip(clip, make_clip(CLASSES.index(SHOWN), np.random.default_rng(SEED), FRAMES, SIZE), FPS)
        save_explanations([explain(model, clip)], TARGET, clip)


if __name__ == "__main__":
    main()
