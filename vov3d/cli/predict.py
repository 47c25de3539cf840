"""`vov3d predict`: labels for video files."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from vov3d.cli._arguments import device, positive, say_what_it_knows, show_warnings
from vov3d.deploy import load_exported, optimize_for_inference
from vov3d.deploy._formats import FORMATS
from vov3d.models import create_model

DEFAULT_MODEL = "vov3d_n"
_RANDOM = "RANDOM WEIGHTS: these labels mean nothing, only the speed is real"


def add_commands(commands: Any) -> None:
    """Adds `predict` to the parser's commands."""
    p = commands.add_parser("predict")
    p.add_argument(
        "files", nargs="+", metavar="FILE", help="video files, folders of frames (00001.jpg ...), http(s) addresses"
    )
    add_settings(p)
    p.add_argument("--topk", type=positive, default=5, metavar="K", help="labels per file (default: 5)")
    p.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    p.add_argument(
        "--picture",
        metavar="FILE",
        help="draw the frames seen, the labels and the time line; of several videos into FILE-1, FILE-2, ...",
    )
    p.set_defaults(run=_predict)


def add_settings(p: argparse.ArgumentParser) -> None:
    """Adds which model looks, and how: what `classifier_for` takes."""
    p.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME",
        help="model or model.tag of 'vov3d list', the folder of a saved model, or a file of 'vov3d export' (default: "
        "vov3d_n, which comes with the package and knows the motions of 'vov3d demo')",
    )
    weights = p.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", metavar="FILE", help="weights; without it the tag's are fetched from the Hub")
    weights.add_argument("--random-weights", action="store_true", help="no weights: to try the speed, labels are noise")
    p.add_argument("--views", default="1x1", metavar="CLIPSxCROPS", help="as 10x3 or 2x3 (default: 1x1)")
    p.add_argument("--frames", type=positive, metavar="T", help="frames of a clip (default: the model's)")
    p.add_argument(
        "--stride",
        type=float,
        metavar="S",
        help="distance of a clip's frames, at 30 fps (default: the model's)",
    )
    p.add_argument("--fps", type=float, help="frames per second of folders (default: 12); files have their own")
    p.add_argument("--batch-size", type=positive, metavar="N", help="views at once (default: by the free memory)")
    p.add_argument("--backend", choices=("pyav", "torchcodec"), help="what decodes files (default: pyav)")
    p.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")


def _predict(args: argparse.Namespace) -> int:
    from vov3d.video import parse_views  # needs the extra `video`

    parse_views(args.views)
    if args.picture:
        from vov3d.video.picture import check_picture_name

        check_picture_name(args.picture)
    target = device(args.device)
    if args.random_weights:
        print(_RANDOM, file=sys.stderr)
        torch.manual_seed(0)
    model = _exported(args) or built_model(args, target)
    say_what_it_knows("predict", model)
    looks = classifier_for(args, model).looks(args.files, topk=args.topk, fps=args.fps, errors="return")
    results: list[dict[str, Any]] = []
    failed = False
    with show_warnings("predict"):
        for file, look in zip(args.files, looks, strict=True):
            if look.error is not None:
                failed = True
                print(f"vov3d predict: {look.error}", file=sys.stderr)
            elif args.picture:
                _draw(args, look, len(results))
            results.append(_result(file, look, args.random_weights))
            if not args.json and look.error is None:
                print("\n".join(_lines(file, look.predictions)), flush=True)
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


def built_model(args: argparse.Namespace, target: torch.device) -> torch.nn.Module:
    """The model that was asked for, rewritten for speed where that is measured to gain: on CPUs."""
    name = f"local-dir:{args.model}" if Path(args.model, "config.json").is_file() else args.model
    model = create_model(name, pretrained=not args.random_weights, checkpoint_path=args.checkpoint).eval()
    return optimize_for_inference(model) if target.type == "cpu" else model.to(target)


def classifier_for(args: argparse.Namespace, model: torch.nn.Module) -> Any:
    """The `VideoClassifier` of a model, with the settings of the command line."""
    from vov3d.video import VideoClassifier

    return VideoClassifier(
        model,
        views=args.views,
        batch_size=args.batch_size,
        progress=True,
        stride=args.stride,
        num_frames=args.frames,
        backend=args.backend,
    )


def _draw(args: argparse.Namespace, look: Any, number: int) -> None:
    """Writes the picture of one file."""
    from vov3d.video.picture import save_look

    stem, ending = os.path.splitext(args.picture)
    save_look(look, args.picture if len(args.files) == 1 else f"{stem}-{number + 1}{ending}")


def _result(file: str, look: Any, random_weights: bool) -> dict[str, Any]:
    labels = [{"label": p.label, "index": p.index, "score": p.score} for p in look.predictions]
    result: dict[str, Any] = {"file": file, "predictions": labels}
    if look.error is not None:
        result["error"] = str(look.error)
    if random_weights:
        result["random_weights"] = True
    return result


def _lines(file: str, predictions: list) -> list[str]:
    return [file, *(f"  {100 * p.score:5.1f}%  {p.label}" for p in predictions)]
