"""`vov3d predict`: labels for video files."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from vov3d.cli._arguments import device, positive
from vov3d.deploy import load_exported
from vov3d.deploy._formats import FORMATS
from vov3d.models import create_model

_RANDOM = "RANDOM WEIGHTS: these labels mean nothing, only the speed is real"


def add_commands(commands: Any) -> None:
    """Adds `predict` to the parser's commands."""
    p = commands.add_parser("predict", help="labels for video files")
    p.add_argument("files", nargs="+", metavar="FILE", help="video files")
    p.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="model or model.tag of 'vov3d list', local-dir:FOLDER, or a file of 'vov3d export'",
    )
    weights = p.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", metavar="FILE", help="weights; without it the tag's are fetched from the Hub")
    weights.add_argument("--random-weights", action="store_true", help="no weights: to try the speed, labels are noise")
    p.add_argument("--views", default="1x1", metavar="CLIPSxCROPS", help="as 10x3 or 2x3 (default: 1x1)")
    p.add_argument("--topk", type=positive, default=5, metavar="K", help="labels per file (default: 5)")
    p.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    p.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    p.set_defaults(run=_predict)


def _predict(args: argparse.Namespace) -> int:
    from vov3d.video import VideoClassifier, VideoError, parse_views  # needs the extra `video`

    parse_views(args.views)
    target = device(args.device)
    if args.random_weights:
        print(_RANDOM, file=sys.stderr)
        torch.manual_seed(0)
    model = _exported(args) or create_model(
        args.model, pretrained=not args.random_weights, checkpoint_path=args.checkpoint
    )
    classifier = VideoClassifier(model.to(target), views=args.views, progress=True)
    results, failed = [], False
    for file in args.files:
        try:
            predictions, error = classifier(file, topk=args.topk), None
        except (VideoError, OSError, ValueError) as e:
            predictions, error, failed = [], str(e), True
            print(f"vov3d predict: {e}", file=sys.stderr)
        results.append(_result(file, predictions, error, args.random_weights))
        if not args.json and error is None:
            print("\n".join(_lines(file, predictions)), flush=True)
    if args.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    return int(failed)


def _exported(args: argparse.Namespace) -> torch.nn.Module | None:
    """The model in an exported file, or None where `--model` names none."""
    if Path(args.model).suffix not in FORMATS:
        return None
    without_effect = {
        "--checkpoint": args.checkpoint is not None,
        "--random-weights": args.random_weights,
        f"--device {args.device}": device(args.device).type != "cpu",
    }
    for option, given in without_effect.items():
        if given:
            raise ValueError(f"{option} has no effect on {args.model}: it has its weights inside and runs on the CPU")
    return load_exported(args.model)


def _result(file: str, predictions: list, error: str | None, random_weights: bool) -> dict[str, Any]:
    labels = [{"label": p.label, "index": p.index, "score": p.score} for p in predictions]
    result: dict[str, Any] = {"file": file, "predictions": labels}
    if error is not None:
        result["error"] = error
    if random_weights:
        result["random_weights"] = True
    return result


def _lines(file: str, predictions: list) -> list[str]:
    return [file, *(f"  {100 * p.score:5.1f}%  {p.label}" for p in predictions)]
