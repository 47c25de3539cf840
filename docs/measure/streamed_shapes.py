"""Sliding clips against a stream at the same hop: time and accuracy of `localize.py` with and without `--streaming`.

    python docs/measure streamed_shapes      # writes the table of docs/guides/localization.md

One video of moving shapes, shots and then scenes as in `localized_shapes`, is labelled in all ways, one after the
other and again, so that what else the machine does meets all of them. Times are of the processor, of all threads,
decoding included; of each way the lowest counts. A way's accuracy is the share of the frames that its segments label
rightly.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from localize import Timeline, look_over, segments_of, stream_over
from localized_shapes import EVERY, FPS, SECONDS, SEED, THRESHOLD, frame_labels, share, write_motions
from pages import DOCS, STORED, fill
from reference.evaluation.models import load_model

import vov3d
from vov3d.live import StreamClassifier
from vov3d.synthetic.moving_shapes import CLASSES
from vov3d.video import VideoClassifier

RESULTS, PAGE = STORED / "streamed_shapes.json", DOCS / "guides" / "localization.md"
MODELS = {"vov3d_n": "vov3d_n", "vov3d_n.shapes_stream": "vov3d_n.shapes_stream (causal)"}

Way = Callable[[Path, bool], Timeline]


def by_clips(classifier: VideoClassifier) -> Way:
    """Returns how a video is looked over."""
    return lambda video, across: look_over(classifier, video, EVERY, SECONDS, across_cuts=across)


def by_stream(classifier: StreamClassifier) -> Way:
    """Returns how a video is taken frame by frame."""
    return lambda video, across: stream_over(classifier, video, across_cuts=across)


def ways() -> dict[str, tuple[Way, Way]]:
    """Returns the two ways of each model, by clips and as a stream, as functions of a video and `across_cuts`."""
    found: dict[str, tuple[Way, Way]] = {}
    for name in MODELS:
        model = load_model(name, None, torch.device("cpu"))
        clips = VideoClassifier(model.network, class_names=model.names)
        stream = StreamClassifier(vov3d.create_model(name, pretrained=True))
        found[name] = by_clips(clips), by_stream(stream)
    return found


def measure(shots: int, scenes: int, rounds: int) -> dict[str, Any]:
    """Times and accuracies of all ways."""
    rows: dict[str, dict[str, Any]] = {}
    videos: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, count in (("shots", shots), ("scenes", scenes)):
            path = Path(folder) / f"{name}.mp4"
            truth = write_motions(path, count, SEED, scenes=name == "scenes")
            frames = round(truth[-1].end * FPS)
            videos[name] = {"motions": count, "minutes": round(frames / FPS / 60, 2)}
            right = frame_labels(truth, frames)
            for _ in range(rounds):
                for model, both in ways().items():
                    for across in (False, True):
                        row = rows.setdefault(f"{name}, {model}, {'crossed' if across else 'kept'}", {})
                        for kind, way in zip(("clips", "stream"), both, strict=True):
                            began = time.process_time()
                            timeline = way(path, across)
                            spent = time.process_time() - began
                            said = frame_labels(segments_of(timeline, CLASSES, THRESHOLD), frames)
                            row[f"{kind} s"] = round(min(spent, row.get(f"{kind} s", np.inf)), 2)
                            row[f"{kind} right"] = share(said == right)
    return {"videos": videos, "threads": torch.get_num_threads(), "rounds": rounds, "rows": rows}


def table(report: dict[str, Any]) -> str:
    """Returns the rows as Markdown."""
    lines = [
        "| video, model, cuts | clips, s | stream, s | ratio | clips, % right | stream, % right |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in report["rows"].items():
        slow, fast = row["clips s"], row["stream s"]
        label = next(name.replace(f", {key},", f", {shown},") for key, shown in MODELS.items() if f", {key}," in name)
        right = f"{row['clips right']:.1f} | {row['stream right']:.1f}"
        lines.append(f"| {label} | {slow:.1f} | {fast:.1f} | {slow / fast:.1f} | {right} |")
    parts = [f"{video['motions']} {name} in {video['minutes']:.1f} minutes" for name, video in report["videos"].items()]
    threads = "1 thread" if report["threads"] == 1 else f"{report['threads']} threads"
    return "\n".join([*lines, "", f"{' and '.join(parts)}; {threads}, {report['rounds']} rounds."])


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, default=40, help="(default: 40)")
    parser.add_argument("--scenes", type=int, default=10, help="(default: 10)")
    parser.add_argument("--rounds", type=int, default=2, help="(default: 2)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = measure(args.shots, args.scenes, args.rounds)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    fill(PAGE, streamed=table(report))
    print(table(report))


if __name__ == "__main__":
    main()
