"""mAP of segments in generated videos: the trained head, with and without cuts, and the labels of a model alone.

    python docs/measure localized_segments --runs runs/segments     # writes the table of docs/guides/localization.md

Videos are those of `python -m reference.localize train --annotations shapes`, seed 0; heads are trained with three
seeds. Features that lie in the folder already are taken as they are.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from localize import look_over, segments_of
from pages import DOCS, STORED, fill
from reference.evaluation.models import load_model
from reference.localization.annotations import read_annotations
from reference.localization.features import read_features, videos_of
from reference.localization.metrics import TIOUS, Found, measure
from reference.localization.model import find
from reference.localization.shapes import EVERY, SECONDS, write_shapes
from reference.localization.training import Plan, train

from vov3d.cli import main as vov3d_command
from vov3d.video import VideoClassifier

RESULTS, PAGE = STORED / "localized_segments.json", DOCS / "guides" / "localization.md"
HEAD, ACROSS, LABELS = "head", "head, features `--across-cuts`", "`examples/localize.py`, without training"
SEEDS = 3


def heads(folder: Path, across: bool, epochs: int) -> tuple[list[list[float]], dict[str, Any]]:
    """Returns the mAP at each overlap of a head of each seed, and counts."""
    path = folder / ("across.npz" if across else "features.npz")
    if not path.exists():
        argv = ["embed", str(folder / "videos"), "-o", str(path), "--every", f"{EVERY}s", "--seconds", str(SECONDS)]
        if vov3d_command(argv + ["--across-cuts"] * across):
            raise RuntimeError("the features could not be made")
    features, annotations = read_features(path), read_annotations(folder / "annotations.json")
    training, validation = annotations.subset("training"), annotations.subset("validation")
    known, unknown = videos_of(features, training), videos_of(features, validation)
    values = []
    for seed in range(SEEDS):
        head = train(features, known, training.segments, annotations.labels, Plan(epochs, seed=seed))
        found = [segment for name, video in unknown.items() for segment in find(head, video, name)]
        values.append(measure(validation.segments, found).by_tiou)
    counts = {name: len(part.segments) for name, part in (("training", training), ("validation", validation))}
    minutes = {
        name: sum(v.duration for v in part.values()) / 60
        for name, part in (("training", known), ("validation", unknown))
    }
    return values, {"segments": counts, "minutes": {name: round(value, 1) for name, value in minutes.items()}}


def labels_alone(folder: Path) -> list[float]:
    """Returns the mAP of what `examples/localize.py` writes."""
    annotations = read_annotations(folder / "annotations.json").subset("validation")
    model = load_model("vov3d_n", None, torch.device("cpu"))
    classifier = VideoClassifier(model.network, class_names=model.names)
    found = []
    for name in annotations.videos:
        timeline = look_over(classifier, folder / "videos" / f"{name}.mp4", EVERY, SECONDS)
        for one in segments_of(timeline, classifier.class_names, 0.3):
            found.append(Found(name, one.start, one.end, one.label, one.score))
    return measure(annotations.segments, found).by_tiou


def table(report: dict[str, Any]) -> str:
    """Returns the rows as Markdown."""
    lines = [
        f"| mAP, %, at tIoU of | {' | '.join(f'{tiou:g}' for tiou in TIOUS)} | mean |",
        f"| --- |{' --- |' * (len(TIOUS) + 1)}",
    ]
    for name, runs in report["map"].items():
        values = 100 * np.array([[*row, np.mean(row)] for row in runs])
        spread = f" ± {values[:, -1].std(ddof=1):.1f}" if len(values) > 1 else ""
        lines.append(f"| {name} | {' | '.join(f'{value:.1f}' for value in values.mean(0))}{spread} |")
    parts = [
        f"{report['segments'][part]} segments in {report['minutes'][part]:.1f} minutes for {part}"
        for part in ("training", "validation")
    ]
    said = f"{'; '.join(parts)}. Heads are means of {SEEDS} seeds, with the standard deviation of the last column."
    return "\n".join([*lines, "", said])


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, metavar="FOLDER", help="of videos and features")
    parser.add_argument("--videos", type=int, default=40, help="to train on (default: 40)")
    parser.add_argument("--val-videos", type=int, default=20, help="held out (default: 20)")
    parser.add_argument("--epochs", type=int, default=Plan.epochs, help=f"(default: {Plan.epochs})")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    if not (args.runs / "annotations.json").exists():
        write_shapes(args.runs, args.videos, args.val_videos)
    found: dict[str, Any] = {}
    kept, counts = heads(args.runs, False, args.epochs)
    found[HEAD] = kept
    found[ACROSS] = heads(args.runs, True, args.epochs)[0]
    found[LABELS] = [labels_alone(args.runs)]
    report = {"map": found, **counts}
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    fill(PAGE, segments=table(report))
    print(table(report))


if __name__ == "__main__":
    main()
