"""Measures the share of frames of a long video of moving shapes that `localize.py` labels correctly.

    python docs/measure localized_shapes     # measures vov3d_n, and writes the table of docs/guides/localization.md

Motions follow one another without a pause, every class as often, in an order and with cuts that are known: in one video
as shots, each as long as a clip that the model was trained on or up to twice as long; in another as scenes of four to
eight such clips of one motion. All is of a seed that training never saw.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from localize import Segment, look_over, segments_of
from pages import DOCS, STORED, fill
from reference.evaluation.models import load_model

from vov3d.synthetic.moving_shapes import CLASSES, make_clip, write_clip
from vov3d.video import VideoClassifier, VideoReader

RESULTS, PAGE = STORED / "localized_shapes.json", DOCS / "guides" / "localization.md"
FPS, CLIP, SECONDS, EVERY, THRESHOLD = 10, 16, 1.6, 0.2, 0.3
SEED = 4242


def write_motions(path: Path, count: int, seed: int, scenes: bool = False) -> list[Segment]:
    """Writes a video of one motion after the other; returns the place of each.

    Args:
        path: The file.
        count: Motions.
        seed: Of all that is drawn.
        scenes: Several clips of each motion, in place of one shot.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(CLASSES))
    parts: list[np.ndarray] = []
    found, end = [], 0
    for label in map(int, labels):
        lengths = [CLIP] * rng.integers(4, 9) if scenes else [rng.integers(CLIP, 2 * CLIP + 1)]
        parts += [make_clip(label, rng, int(length)) for length in lengths]
        start, end = end, end + int(sum(lengths))
        found.append(Segment(start / FPS, end / FPS, CLASSES[label], label, 1.0))
    write_clip(path, np.concatenate(parts), FPS)
    return found


def frame_labels(segments: Sequence[Segment], frames: int) -> np.ndarray:
    """Returns the class of every frame, by its middle; -1 where there is none."""
    found = np.full(frames, -1)
    middles = (np.arange(frames) + 0.5) / FPS
    for segment in segments:
        found[(middles >= segment.start) & (middles < segment.end)] = segment.index
    return found


def measure(classifier: VideoClassifier, count: int, scenes: bool, seed: int = SEED) -> dict[str, Any]:
    """Returns shares of the frames with the right label."""
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "motions.mp4"
        truth = write_motions(video, count, seed, scenes)
        across = look_over(classifier, video, EVERY, SECONDS, across_cuts=True)
        timeline = look_over(classifier, video, EVERY, SECONDS)
        given = None if scenes else _labelled(classifier, video, truth)
    segments = segments_of(timeline, CLASSES, THRESHOLD)
    frames = round(truth[-1].end * FPS)
    right, said = frame_labels(truth, frames), frame_labels(segments, frames)
    at = (np.arange(frames) + 0.5) / FPS
    nearest = np.abs(across.spans.mean(1) - at[:, None]).argmin(1)
    moment = np.minimum((at / EVERY).astype(int), len(across.moments) - 1)
    shares = {
        "the window around the frame alone, cuts not looked for": share(across.windows.argmax(1)[nearest] == right),
        "the mean over the windows that hold it, cuts not looked for": share(across.moments.argmax(1)[moment] == right),
        "segments, cuts not looked for (`--across-cuts`)": share(
            frame_labels(segments_of(across, CLASSES, THRESHOLD), frames) == right
        ),
        "segments, as `localize.py` writes them": share(said == right),
    }
    if given is not None:
        shares["the whole shot, where the cuts are given"] = share(frame_labels(given, frames) == right)
    nothing = share(said == -1)
    return {
        "motions": count,
        "frames": frames,
        "segments": len(segments),
        "shots": len(timeline.shots),
        "shares": shares,
        "nothing": nothing,
    }


def _labelled(classifier: VideoClassifier, video: Path, truth: Sequence[Segment]) -> list[Segment]:
    """Returns the model's label of each motion, cut out at its known place."""
    with VideoReader(video) as reader:
        frames = reader.read(range(reader.num_frames))
    said = [classifier(frames[round(s.start * FPS) : round(s.end * FPS)], topk=1)[0] for s in truth]
    return [replace(s, label=best.label, index=best.index) for s, best in zip(truth, said, strict=True)]


def share(right: np.ndarray) -> float:
    """Returns a percentage with two digits."""
    return round(100 * float(np.mean(right)), 2)


def table(reports: dict[str, dict[str, Any]]) -> str:
    """Returns a table in Markdown."""
    said: list[str] = []
    lines = [f"| right, % of frames | {' | '.join(reports)} |", f"| --- |{' --- |' * len(reports)}"]
    for name in next(iter(reports.values()))["shares"]:
        row = [f"{r['shares'][name]:.1f}" if name in r["shares"] else "" for r in reports.values()]
        lines.append(f"| {name} | {' | '.join(row)} |")
    lines.append(f"| chance |{f' {100 / len(CLASSES):.1f} |' * len(reports)}")
    for name, r in reports.items():
        minutes = f"{r['motions']} motions in {r['frames'] / FPS / 60:.1f} minutes"
        nothing = f"{r['nothing']:.1f}% of the frames without a label"
        found = f"{r['shots']} shots and {r['segments']} segments found"
        said.append(f"{name.capitalize()}: {minutes}, {found}, {nothing}.")
    return "\n".join([*lines, "", " ".join(said)])


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, default=200, help="(default: 200)")
    parser.add_argument("--scenes", type=int, default=60, help="(default: 60)")
    args = parser.parse_args()
    model = load_model("vov3d_n", None, torch.device("cpu"))
    classifier = VideoClassifier(model.network, class_names=model.names)
    reports = {
        "shots": measure(classifier, args.shots, scenes=False),
        "scenes": measure(classifier, args.scenes, scenes=True),
    }
    RESULTS.write_text(json.dumps(reports, indent=2) + "\n")
    fill(PAGE, localized=table(reports))
    print(table(reports))


if __name__ == "__main__":
    main()
