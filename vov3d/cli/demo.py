"""`vov3d demo`: makes clips, labels them with the packaged model, and shows which labels are correct."""

import argparse
import random
from pathlib import Path
from typing import Any

from vov3d.cli.arguments import positive
from vov3d.cli.predict import DEFAULT_MODEL
from vov3d.deploy import optimize_for_inference
from vov3d.models import create_model


def add_commands(commands: Any) -> None:
    """Adds `demo` to the parser's commands."""
    p = commands.add_parser(
        "demo",
        description="Writes clips of moving shapes as video files, labels them with vov3d_n, whose weights come with"
        " the package, and draws the frames with their labels. The classes differ only in motion.",
    )
    p.add_argument(
        "-o", "--output", type=Path, default=Path("vov3d_demo"), metavar="FOLDER", help="default: vov3d_demo"
    )
    p.add_argument("--clips", type=positive, default=6, metavar="N", help="clips to make (default: 6)")
    p.add_argument("--seed", type=int, help="seed of the clips (default: a new one for each call)")
    p.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    import numpy as np

    from vov3d.synthetic.moving_shapes import CLASSES, make_clip, write_clip
    from vov3d.video import VideoClassifier
    from vov3d.video.picture import save_board

    seed = random.randrange(10**6) if args.seed is None else args.seed
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.resize(rng.permutation(len(CLASSES)), args.clips))
    args.output.mkdir(parents=True, exist_ok=True)
    files = [args.output / f"{seed}_{i:02d}.mp4" for i in range(args.clips)]
    for file, label in zip(files, labels, strict=True):
        write_clip(file, make_clip(int(label), rng))

    classifier = VideoClassifier(optimize_for_inference(create_model(DEFAULT_MODEL, pretrained=True).eval()))
    results = list(classifier.results([str(file) for file in files], topk=1))
    truths = [CLASSES[label] for label in labels]
    for file, result, truth in zip(files, results, truths, strict=True):
        print(_line(file, result.predictions[0], truth))
    correct = sum(result.predictions[0].label == truth for result, truth in zip(results, truths, strict=True))
    picture = args.output / f"{seed}.png"
    save_board(results, truths, picture)
    print(f"\n{correct} of {len(files)} correct; picture: {picture}; to repeat: --seed {seed}")
    return 0


def _line(file: Path, best: Any, truth: str) -> str:
    wrong = "" if best.label == truth else f"   wrong: {truth}"
    return f"{file}  {best.score:4.0%}  {best.label}{wrong}"
