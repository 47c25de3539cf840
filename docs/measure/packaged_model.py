"""Measures vov3d_n on moving shapes that it was not trained on, and writes what comes with the package and its page.

    python examples/train.py --recipe shapes_nano --output runs/nano
    python docs/measure packaged_model --model runs/nano/model   # puts the weights into the package, and measures them
    python docs/measure packaged_model                           # measures those of the package

Beside the accuracy it measures what is left when motion is taken away: one frame eight times over, and the eight
frames in a random order. It writes `vov3d/models/weights/vov3d_n.shapes_f8.*` and docs/packaged_model.md.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluation.metrics import wilson
from pages import DOCS, ROOT, fill
from safetensors.torch import load_file, save

import vov3d
from vov3d.video.moving_shapes import CLASSES, make_set

WEIGHTS = ROOT / "vov3d" / "models" / "weights" / "vov3d_n.shapes_f8.safetensors"
PAGE = DOCS / "packaged_model.md"
SEED = 777  # the recipe trains on 0 and validates on 1


def measure(clips: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Accuracies in percent, per class, and the confusion matrix (rows: the truth)."""
    model: Any = vov3d.create_model("vov3d_n", pretrained=True).eval()
    cfg, rng = model.pretrained_cfg, np.random.default_rng(0)
    frames = cfg["num_frames"]
    every = clips[:, clips.shape[1] // frames // 2 :: clips.shape[1] // frames]
    one = every[np.arange(len(every)), rng.integers(frames, size=len(every))][:, None].repeat(frames, 1)
    shuffled = np.stack([clip[rng.permutation(frames)] for clip in every])
    logits = scores(model, every)
    said = logits.argmax(1)
    confusion = np.zeros((len(CLASSES), len(CLASSES)), int)
    np.add.at(confusion, (labels, said), 1)
    top5 = (np.argsort(-logits, 1)[:, :5] == labels[:, None]).any(1)
    return {
        "clips": len(clips),
        "seed": SEED,
        "top1": percent(said == labels),
        "top5": percent(top5),
        "one_frame_top1": percent(scores(model, one).argmax(1) == labels),
        "shuffled_frames_top1": percent(scores(model, shuffled).argmax(1) == labels),
        "per_class": {name: percent(said[labels == i] == i) for i, name in enumerate(CLASSES)},
        "confusion": confusion.tolist(),
    }


@torch.inference_mode()
def scores(model: Any, clips: np.ndarray) -> np.ndarray:
    """Logits `(N, classes)` of uint8 clips `(N, T, S, S, 3)`."""
    parts = []
    for batch in torch.from_numpy(np.ascontiguousarray(clips)).split(50):
        x = batch.permute(0, 4, 1, 2, 3) / 255
        parts.append(model((x - model.pretrained_cfg["mean"][0]) / model.pretrained_cfg["std"][0]))
    return torch.cat(parts).numpy()


def percent(right: np.ndarray) -> float:
    """With two digits."""
    return round(100 * float(np.mean(right)), 2)


def page(report: dict[str, Any]) -> str:
    """The part of the page that is measured."""
    low, high = (100 * value for value in wilson(round(report["top1"] * report["clips"] / 100), report["clips"])[1:])
    lines = [
        f"{report['clips']} clips of another seed than those of training and validation, of the default difficulty:",
        "",
        "| | top-1, % |",
        "| --- | --- |",
        f"| vov3d_n | {report['top1']:.1f} (95% interval {low:.1f} to {high:.1f}), top-5 {report['top5']:.1f} |",
        f"| one of its frames, eight times over | {report['one_frame_top1']:.1f} |",
        f"| its frames in a random order | {report['shuffled_frames_top1']:.1f} |",
        f"| chance | {100 / len(CLASSES):.1f} |",
        "",
        "| class | right, % | most often taken for |",
        "| --- | --- | --- |",
    ]
    for i, (name, right) in enumerate(report["per_class"].items()):
        row = np.array(report["confusion"][i])
        total, row[i] = row.sum(), 0
        other = f"{CLASSES[row.argmax()]} ({100 * row.max() / total:.1f})" if row.any() else ""
        lines.append(f"| {name} | {right:.1f} | {other} |")
    return "\n".join(lines)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a trained vov3d_n that takes the package's place")
    parser.add_argument("--clips", type=int, default=4000, help="(default: 4000)")
    args = parser.parse_args()
    if args.model:
        draft = WEIGHTS.with_suffix(".draft")
        draft.write_bytes(save(load_file(args.model / "model.safetensors"), metadata={"format": "pt"}))
        os.replace(draft, WEIGHTS)
    report = measure(*make_set(args.clips, SEED))
    WEIGHTS.with_suffix(".json").write_text(json.dumps(report) + "\n")
    fill(PAGE, measured=page(report))
    print(page(report))


if __name__ == "__main__":
    main()
