"""Share of the frames of a long video of moving shapes that `localize.py` gives the right label.

    python examples/localized_shapes.py     # measures vov3d_n, and writes the table of docs/localization.md

Shots of one motion each follow one another without a pause, of every class as many, each as long as a clip that the
model was trained on or up to twice as long, in an order and with boundaries that are known. All is of a seed that
training never saw.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluation.models import load_model
from localize import Segment, look_over, segments_of

from vov3d.video import VideoClassifier
from vov3d.video.moving_shapes import CLASSES, make_clip, write_clip

ROOT = Path(__file__).parents[1]
STORED, PAGE = ROOT / "docs" / "benchmarks" / "localized_shapes.json", ROOT / "docs" / "localization.md"
BEGIN, END = "<!-- localized -->\n", "\n<!-- /localized -->"
FPS, CLIP, SECONDS, EVERY, THRESHOLD, MIN_LENGTH = 10, 16, 1.6, 0.2, 0.3, 1.0
SEED = 4242


def write_shots(path: Path, shots: int, seed: int) -> list[Segment]:
    """Writes a video of shots of one motion each; returns where each lies."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(shots) % len(CLASSES))
    lengths = rng.integers(CLIP, 2 * CLIP + 1, shots)
    clips = [make_clip(int(label), rng, int(length)) for label, length in zip(labels, lengths, strict=True)]
    write_clip(path, np.concatenate(clips), FPS)
    ends = np.cumsum(lengths) / FPS
    return [
        Segment(float(end - length / FPS), float(end), CLASSES[label], int(label), 1.0)
        for end, length, label in zip(ends, lengths, labels, strict=True)
    ]


def frame_labels(segments: Sequence[Segment], frames: int) -> np.ndarray:
    """The class of every frame, by its middle; -1 where there is none."""
    found = np.full(frames, -1)
    middles = (np.arange(frames) + 0.5) / FPS
    for segment in segments:
        found[(middles >= segment.start) & (middles < segment.end)] = segment.index
    return found


def measure(classifier: VideoClassifier, shots: int, seed: int = SEED) -> dict[str, Any]:
    """Shares of the frames with the right label, of the windows alone, of their mean, and of the segments."""
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "shots.mp4"
        truth = write_shots(video, shots, seed)
        timeline = look_over(classifier, video, EVERY, SECONDS)
        segments = segments_of(timeline, CLASSES, THRESHOLD, MIN_LENGTH)
    frames = round(truth[-1].end * FPS)
    right = frame_labels(truth, frames)
    at = (np.arange(frames) + 0.5) / FPS
    nearest = np.clip((at - timeline.length / 2) / timeline.step, 0, len(timeline.windows) - 1).round().astype(int)
    moment = np.minimum((at / timeline.step).astype(int), len(timeline.moments) - 1)
    said = frame_labels(segments, frames)
    inner = np.array([min(abs(t - edge) for s in truth for edge in (s.start, s.end)) > SECONDS / 2 for t in at])
    return {
        "shots": shots,
        "frames": frames,
        "segments": len(segments),
        "shares": {
            "the window around the frame alone": share(timeline.windows.argmax(1)[nearest] == right),
            "the mean over the windows that hold it": share(timeline.moments.argmax(1)[moment] == right),
            "segments, as `localize.py` writes them": share(said == right),
            "the same, of frames over half a window from a cut": share((said == right)[inner]),
        },
        "nothing": share(said == -1),
    }


def share(right: np.ndarray) -> float:
    """In percent, with two digits."""
    return round(100 * float(np.mean(right)), 2)


def table(report: dict[str, Any]) -> str:
    """As Markdown."""
    lines = [
        f"{report['shots']} shots, {report['frames']} frames, {report['frames'] / FPS / 60:.1f} minutes; found were"
        f" {report['segments']} segments, and {report['nothing']:.1f}% of the frames were given no label.",
        "",
        "| what labels a frame | right, % of frames |",
        "| --- | --- |",
    ]
    lines += [f"| {name} | {value:.1f} |" for name, value in report["shares"].items()]
    return "\n".join([*lines, f"| chance | {100 / len(CLASSES):.1f} |"])


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, default=400, help="(default: 400)")
    args = parser.parse_args()
    model = load_model("vov3d_n", None, torch.device("cpu"))
    report = measure(VideoClassifier(model.network, class_names=model.names), args.shots)
    STORED.write_text(json.dumps(report, indent=2) + "\n")
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + table(report) + END + rest.split(END)[1])
    print(table(report))


if __name__ == "__main__":
    main()
