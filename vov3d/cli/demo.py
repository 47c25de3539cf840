"""`vov3d demo`: labels generated clips with the packaged model and shows which are correct, or starts a web page."""

import argparse
import random
import sys
from pathlib import Path
from typing import Any

from vov3d.cli.arguments import positive
from vov3d.cli.predict import DEFAULT_MODEL
from vov3d.deploy import optimize_for_inference
from vov3d.files import make_folder
from vov3d.models import create_model

_FOLDER = "vov3d_demo"
_CLIPS = 6


def add_commands(commands: Any) -> None:
    """Adds `demo` to the parser's commands."""
    p = commands.add_parser(
        "demo",
        description="Writes clips of moving shapes as video files, labels them with vov3d_n, whose weights come with"
        " the package, and draws the frames with their labels. The classes differ only in motion. With --web: starts a"
        " web page on which to drop videos (extra 'demo').",
    )
    p.add_argument("-o", "--output", type=Path, metavar="FOLDER", help=f"default: {_FOLDER}")
    p.add_argument("--clips", type=positive, metavar="N", help=f"clips to make (default: {_CLIPS})")
    p.add_argument("--seed", type=int, help="seed of the clips (default: a new one for each call)")
    p.add_argument("--web", action="store_true", help="start a web page, on this machine only, until Ctrl-C")
    p.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="with --web: a model.tag or a folder that the page offers; repeat it for more (default: all of 'vov3d"
        " list' with weights)",
    )
    p.add_argument("--port", type=int, help="with --web: the port (default: the first free one from 7860)")
    p.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    _check_effect(args)
    return _web(args) if args.web else _clips(args)


def _check_effect(args: argparse.Namespace) -> None:
    """Raises ValueError for an option that has no effect."""
    of_clips = {"--output": args.output, "--clips": args.clips, "--seed": args.seed}
    of_web = {"--model": args.model, "--port": args.port}
    for option, value in (of_clips if args.web else of_web).items():
        if value is not None:
            raise ValueError(f"{option} has no effect {'with' if args.web else 'without'} --web; leave it out")


def _web(args: argparse.Namespace) -> int:
    from vov3d.serving.page import build_app, launch_app, wait_for_end

    app = build_app(args.model)
    address = launch_app(app, port=args.port, block=False)
    print(f"vov3d demo: {address} (Ctrl-C to stop)", file=sys.stderr, flush=True)
    wait_for_end(app)
    return 0


def _clips(args: argparse.Namespace) -> int:
    import numpy as np

    from vov3d.synthetic.moving_shapes import CLASSES, make_clip, write_clip
    from vov3d.video import VideoClassifier
    from vov3d.video.picture import save_board

    count, output = args.clips or _CLIPS, args.output or Path(_FOLDER)
    seed = random.randrange(10**6) if args.seed is None else args.seed
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.resize(rng.permutation(len(CLASSES)), count))
    make_folder(output)
    files = [output / f"{seed}_{i:02d}.mp4" for i in range(count)]
    for file, label in zip(files, labels, strict=True):
        write_clip(file, make_clip(int(label), rng))

    classifier = VideoClassifier(optimize_for_inference(create_model(DEFAULT_MODEL, pretrained=True).eval()))
    results = list(classifier.results([str(file) for file in files], topk=1))
    truths = [CLASSES[label] for label in labels]
    for file, result, truth in zip(files, results, truths, strict=True):
        print(_line(file, result.predictions[0], truth))
    correct = sum(result.predictions[0].label == truth for result, truth in zip(results, truths, strict=True))
    picture = output / f"{seed}.png"
    save_board(results, truths, picture)
    print(f"\n{correct} of {len(files)} correct; picture: {picture}; to repeat: --seed {seed}")
    return 0


def _line(file: Path, best: Any, truth: str) -> str:
    wrong = "" if best.label == truth else f"   wrong: {truth}"
    return f"{file}  {best.score:4.0%}  {best.label}{wrong}"
