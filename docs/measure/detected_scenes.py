"""Measures a detector that was trained on scenes, and writes docs/guides/detection.md and the data of its picture.

    python -m reference.detect train --data scenes --output runs/detect
    python docs/measure detected_scenes --run runs/detect

Beside the frame mAP on held-out scenes it measures the mAP without motion: with the key frame for every
frame, and with the frames in a random order. It writes docs/results/benchmarks/detection.json and the table of
docs/guides/detection.md.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import DOCS, STORED, fill
from reference.detection.data import SceneMoments, annotations_of
from reference.detection.metrics import frame_ap, mean_ap
from reference.detection.model import Detector, load_detector
from reference.detection.training import score_boxes

from vov3d.benchmark import machine
from vov3d.synthetic.moving_scenes import ACTIONS

RESULTS, PAGE = STORED / "detection.json", DOCS / "guides" / "detection.md"
SEED = 1  # detect.py trains on 0
SHOWN = 12


def scenes_of(detector: Detector, number: int, change: str = "") -> SceneMoments:
    """Returns held-out scenes: unchanged, with the key frame for every frame, or with frames in a random order."""
    own = detector.settings
    data, rng = SceneMoments(number, SEED, own.num_frames, own.size), np.random.default_rng(0)
    for i, scene in enumerate(data.scenes):
        order = {"key": np.full(len(scene.frames), scene.key), "shuffled": rng.permutation(len(scene.frames))}
        if change:
            data.scenes[i] = scene._replace(frames=scene.frames[order[change]])
    return data


def measure(run: Path, number: int) -> dict[str, Any]:
    """Returns average precisions with and without motion, and the detections in the first scenes."""
    cpu, detector = torch.device("cpu"), load_detector(run / "model")
    trained = json.loads((run / "results.json").read_text())
    report: dict[str, Any] = {"machine": machine(cpu), **{k: trained[k] for k in ("seconds", "core_seconds")}}
    report |= {"backbone": detector.settings.backbone, "output_stride": detector.settings.output_stride}
    report["scenes"] = number
    for change in ("", "key", "shuffled"):
        data = scenes_of(detector, number, change)
        found, truth = score_boxes(detector, data, cpu), annotations_of(data.moments)
        values = frame_ap(truth, found, data.actions)
        report[f"map_{change}" if change else "map"] = round(mean_ap(values), 4)
        if not change:
            report["ap"] = {data.actions[action]: round(value or 0, 4) for action, value in values.items()}
            report["boxes"] = sum(len(moment.boxes) for moment in data.moments)
            report["found"] = found_alone_and_moving(data, np.array([row.score for row in found]))
            names = {moment.video for moment in data.moments[:SHOWN]}
            report["shown"] = [
                [row.video, [round(v, 4) for v in row.box], data.actions[row.action or 0], round(row.score, 3)]
                for row in found
                if row.video in names and row.score >= 0.5
            ]
    return report


def found_alone_and_moving(data: SceneMoments, scores: np.ndarray) -> dict[str, list[float]]:
    """Returns, for each of the four changes, the share of boxes found in shapes that stand still and that move."""
    truth = np.concatenate([scene.actions for scene in data.scenes])
    said, several = scores.reshape(truth.shape) >= 0.5, truth.sum(1) > 1
    return {
        name: [round(float(said[truth[:, i] & (several == both), i].mean()), 4) for both in (False, True)]
        for i, name in enumerate(ACTIONS[4:8], 4)
    }


def page(report: dict[str, Any]) -> str:
    """Returns the measured part of the page."""
    device, minutes = report["machine"]["device"], [report[k] / 60 for k in ("core_seconds", "seconds")]
    lines = [
        f"{report['scenes']} scenes with {report['boxes']} boxes, of another seed than those of training. Trained from"
        f" `{report['backbone']}` with `output_stride={report['output_stride']}` in {minutes[0]:.0f} minutes of one"
        f" core ({device}), {minutes[1]:.0f} by the clock on a busy machine:",
        "",
        "| | frame mAP at 0.5 IoU |",
        "| --- | --- |",
        f"| the detector | {report['map']:.3f} |",
        f"| its frames in a random order | {report['map_shuffled']:.3f} |",
        f"| the key frame, eight times over | {report['map_key']:.3f} |",
        "",
        "| action | AP |",
        "| --- | --- |",
        *(f"| {name} | {value:.3f} |" for name, value in report["ap"].items()),
        "",
        "| found with a score of 0.5 or more | alone, % | in shapes that move as well, % |",
        "| --- | --- | --- |",
        *(f"| {name} | {100 * alone:.0f} | {100 * both:.0f} |" for name, (alone, both) in report["found"].items()),
    ]
    return "\n".join(lines)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, metavar="FOLDER", help="of detect.py train --data scenes")
    parser.add_argument("--scenes", type=int, default=1000, help="(default: 1000)")
    args = parser.parse_args()
    report = measure(args.run, args.scenes)
    RESULTS.write_text(json.dumps(report) + "\n")
    fill(PAGE, measured=page(report))
    print(page(report))


if __name__ == "__main__":
    main()
