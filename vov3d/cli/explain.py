"""`vov3d explain`: shows where and when a video speaks for a label."""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from vov3d.cli.arguments import check_output, device, positive, say_what_it_knows, show_warnings
from vov3d.cli.predict import DEFAULT_MODEL
from vov3d.deploy.formats import FORMATS
from vov3d.models import create_model
from vov3d.models.names import model_name

_METHODS = ("hirescam", "gradcam", "gradcam++", "layercam", "xgradcam")  # importing them would take seconds


def add_commands(commands: Any) -> None:
    """Adds `explain` to the parser's commands."""
    p = commands.add_parser("explain")
    p.add_argument("file", metavar="FILE", help="a video file, a folder of frames, or an http(s) address")
    p.add_argument(
        "-o", "--output", metavar="OUT", help="animation (.mp4, .gif, .webp) or still (.png, .jpg) with the heat maps"
    )
    p.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="model or model.tag of 'vov3d list', or the folder of a saved model; several are shown side by side "
        "(default: vov3d_n)",
    )
    p.add_argument(
        "--label",
        action="append",
        metavar="LABEL",
        help="name of the output to explain, or its number from 0 if none has that name; several are shown side by "
        "side (default: the best label)",
    )
    p.add_argument("--method", choices=_METHODS, default=_METHODS[0], help="how the map is made (default: hirescam)")
    p.add_argument("--layer", metavar="NAME", help="where it is taken, such as stages.1 (default: last stage but one)")
    p.add_argument("--occlusion", action="store_true", help="also print how much the output falls without each frame")
    p.add_argument("--topk", type=positive, default=3, metavar="K", help="labels to print (default: 3)")
    p.add_argument("--fps", type=float, help="frames per second of folders (default: 12); files have their own")
    p.add_argument("--backend", choices=("pyav", "torchcodec"), help="decoder for files (default: pyav)")
    p.add_argument("--random-weights", action="store_true", help="no trained weights: the map means nothing")
    p.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    p.epilog = "Exit codes: 0 success, 1 an error, named on stderr, 2 wrong arguments."
    p.set_defaults(run=_explain)


def _explain(args: argparse.Namespace) -> int:
    from vov3d.interpret import explain, occlusion, save_explanations  # needs the extras `explain` and `video`
    from vov3d.interpret.picture import check_ending

    if args.output is not None:
        check_ending(args.output)
        check_output(args.output, args.file)
    target = device(args.device)
    found = []
    settings: dict[str, Any] = {"fps": args.fps, "backend": args.backend}
    with show_warnings("explain"):
        for name in args.model or [DEFAULT_MODEL]:
            model = _model(name, args.random_weights).to(target)
            say_what_it_knows("explain", model)
            for label in args.label or [None]:
                wanted = _wanted(label, model)
                e = explain(model, args.file, wanted, method=args.method, layer=args.layer, **settings)
                drops = occlusion(model, args.file, wanted, **settings) if args.occlusion else None
                _print(e, args.topk, drops)
                found.append(e)
        if args.output is not None:
            save_explanations(found, args.output, args.file)
    return 0


def _wanted(label: str | None, model: torch.nn.Module) -> int | str | None:
    """Returns an output's name, or its number if none has that name: classes may have numbers as names."""
    from vov3d.video.settings import checked_names  # needs the extra `video`

    if label is None or not label.isdecimal() or label in checked_names(model, None):
        return label
    return int(label)


def _model(name: str, random_weights: bool) -> torch.nn.Module:
    if Path(name).suffix in FORMATS:
        raise ValueError(
            f"{name} is an exported file, which runs outside PyTorch and gives no gradients; name the model that it "
            "was made from"
        )
    if random_weights:
        print("RANDOM WEIGHTS: this explanation means nothing", file=sys.stderr)
        torch.manual_seed(0)
    return create_model(model_name(name), pretrained=not random_weights).eval()


def _print(e: Any, topk: int, drops: torch.Tensor | None) -> None:
    """Prints the labels, and each frame's share of the map."""
    from vov3d.video.predictions import line

    print(e.model)
    print("\n".join(f"  {line(p)}" for p in e.predictions[:topk]))
    print(f"  explained: {e.target.label} ({e.method} of {e.layer})")
    print("    time   share" + ("  falls by" if drops is not None else ""))
    for number, (time, share) in enumerate(zip(e.times, e.per_frame.tolist(), strict=True)):
        print(f"  {time:5.2f}s  {share:6.1%}" + (f"  {drops[number]:8.3f}" if drops is not None else ""))
    if drops is not None:
        pair = torch.stack([e.per_frame, drops])
        print(f"  correlation of share and fall: {torch.corrcoef(pair)[0, 1]:.2f}", flush=True)
