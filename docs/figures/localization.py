"""Draws `localization.png`: what `examples/localize.py` finds in a video of scenes of moving shapes.

Run `python docs/figures/localization.py` (needs the extras `docs` and `video`).
"""

import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
sys.path.insert(0, str(Path(__file__).parents[1] / "measure"))

from localize import draw, look_over, segments_of
from localized_shapes import EVERY, SECONDS, THRESHOLD, write_motions
from reference.evaluation.models import load_model

from vov3d.video import VideoClassifier

SCENES, SEED = 4, 12
TARGET = Path(__file__).with_suffix(".png")


def main() -> None:
    """Makes a video, looks it over, draws its time line."""
    model = load_model("vov3d_n", None, torch.device("cpu"))
    classifier = VideoClassifier(model.network, class_names=model.names)
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "scenes.mp4"
        write_motions(video, SCENES, SEED, scenes=True)
        timeline = look_over(classifier, video, EVERY, SECONDS, pictures=True)
    draw(TARGET, timeline, segments_of(timeline, classifier.class_names, THRESHOLD), classifier.class_names)


if __name__ == "__main__":
    main()
