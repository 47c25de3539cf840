"""The command line: `vov3d list`, `vov3d info`, `vov3d predict`.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 something failed (named on stderr), 2 the
command was not understood.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch

import vov3d
from vov3d.models import Budget, create_model, list_models, list_pretrained, measure_budget, model_entrypoint
from vov3d.models._pretrained_cfg import resolve_cfg

_RANDOM = "RANDOM WEIGHTS: these labels mean nothing, only the speed is real"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ImportError, OSError, RuntimeError, ValueError) as e:
        print(f"vov3d {args.command}: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vov3d", description="Efficient video 3D CNNs: VoV3D and X3D.")
    parser.add_argument("--version", action="version", version=f"vov3d {vov3d.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    p = commands.add_parser("list", help="the models and their published weights")
    p.add_argument("filter", nargs="?", default="", help="wildcard, as in 'vov3d_l*'")
    p.add_argument("--markdown", action="store_true", help="print a Markdown table")
    p.set_defaults(run=_list)

    p = commands.add_parser("info", help="parameters, multiply-adds, activations and shapes of a model")
    p.add_argument("name", metavar="NAME", help="a model or model.tag of 'vov3d list'")
    p.add_argument("--frames", type=_positive, help="frames of the clip (default: the tag's)")
    p.add_argument(
        "--size", type=_positive, help="height and width of the clip in pixels (default: the tag's test crop)"
    )
    p.add_argument("--conv", choices=vov3d.layers.MIDDLE_CONVS, help="another middle convolution (Table 4)")
    p.set_defaults(run=_info)

    p = commands.add_parser("predict", help="labels for video files")
    p.add_argument("files", nargs="+", metavar="FILE", help="video files")
    p.add_argument(
        "--model", required=True, metavar="NAME", help="model or model.tag of 'vov3d list', or local-dir:FOLDER"
    )
    weights = p.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", metavar="FILE", help="weights; without it the tag's are fetched from the Hub")
    weights.add_argument("--random-weights", action="store_true", help="no weights: to try the speed, labels are noise")
    p.add_argument("--views", default="1x1", metavar="CLIPSxCROPS", help="as 10x3 or 2x3 (default: 1x1)")
    p.add_argument("--topk", type=_positive, default=5, metavar="K", help="labels per file (default: 5)")
    p.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    p.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    p.set_defaults(run=_predict)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


# --- list ------------------------------------------------------------------------------------------------------------

_COLUMNS = ("model.tag", "params (M)", "frames", "crop", "GMACs/view", "views", "top-1", "top-5", "licence")


def zoo_rows(filter: str = "") -> list[tuple[str, ...]]:
    """One row a set of published weights, in the order of `_COLUMNS`; accuracies are the published ones."""
    params: dict[tuple[str, int], str] = {}
    rows: list[tuple[str, ...]] = []
    for name in list_pretrained(filter):
        model, tag = name.split(".")
        cfg = resolve_cfg(model, tag, None)
        key = (model, cfg.num_classes)
        if key not in params:
            skeleton = model_entrypoint(model)(device="meta", num_classes=cfg.num_classes)
            params[key] = f"{sum(p.numel() for p in skeleton.parameters()) / 1e6:.2f}"
        frames = f"{cfg.num_frames} x {cfg.frame_stride}" if cfg.frame_stride else f"{cfg.num_frames} segments"
        crop = (cfg.test_input_size or cfg.input_size)[-1]
        views = "{} x {}".format(*cfg.views)
        figures = (str(crop), f"{cfg.gmacs_per_view:g}", views, f"{cfg.top1:.1f}", f"{cfg.top5:.1f}")
        rows.append((name, params[key], frames, *figures, cfg.license or ""))
    return rows


def zoo_table(filter: str = "") -> str:
    """The zoo as a Markdown table."""
    lines = [_COLUMNS, tuple("---" for _ in _COLUMNS), *((f"`{row[0]}`", *row[1:]) for row in zoo_rows(filter))]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _list(args: argparse.Namespace) -> int:
    rows = zoo_rows(args.filter)
    if not rows:
        raise ValueError(f"no model matches {args.filter!r}; the models are {', '.join(list_models())}")
    if args.markdown:
        print(zoo_table(args.filter))
        return 0
    widths = [max(len(row[i]) for row in (_COLUMNS, *rows)) for i in range(len(_COLUMNS))]
    for row in (_COLUMNS, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


# --- info ------------------------------------------------------------------------------------------------------------


def _info(args: argparse.Namespace) -> int:
    kwargs: dict[str, Any] = {"conv": args.conv} if args.conv else {}
    skeleton: Any = create_model(args.name, device="meta", **kwargs)
    cfg = skeleton.pretrained_cfg
    frames = args.frames or cfg["num_frames"]
    size = args.size or (cfg.get("test_input_size") or cfg["input_size"])[-1]
    budget = measure_budget(args.name, frames, size, **kwargs)
    _print_weights(cfg)
    _print_budget(budget, frames, size)
    return 0


def _print_weights(cfg: dict[str, Any]) -> None:
    names = cfg.get("label_set") or "its own labels"
    print(f"model            {cfg['architecture']}")
    print(
        f"weights          {cfg.get('tag', 'its own')}: {cfg['num_classes']} classes of {names}", cfg.get("license", "")
    )
    if "top1" in cfg:
        print("published        top-1 {top1}, top-5 {top5} with {views[0]} x {views[1]} views".format(**cfg))
    stride = cfg.get("frame_stride")
    print(
        f"clip             {cfg['num_frames']} frames, {f'every {stride} at 30 fps' if stride else 'in equal segments'}"
    )
    if "url" in cfg:
        print(f"from             {cfg['url']}")


def _print_budget(budget: Budget, frames: int, size: int) -> None:
    print(f"input            3 x {frames} x {size} x {size}")
    print(f"parameters       {budget.params:,} ({budget.params / 1e6:.2f} M)")
    print(f"multiply-adds    {budget.macs:,} ({budget.macs / 1e9:.3f} G)")
    print(f"activations      {budget.activations:,} ({budget.activations / 1e6:.1f} M)")
    for name, shape in budget.stages:
        print(f"{name:<16} {' x '.join(map(str, shape))}")


# --- predict ---------------------------------------------------------------------------------------------------------


def _predict(args: argparse.Namespace) -> int:
    from vov3d.video import VideoClassifier, VideoError, parse_views  # needs the extra `video`

    parse_views(args.views)
    device = _device(args.device)
    if args.random_weights:
        print(_RANDOM, file=sys.stderr)
        torch.manual_seed(0)
    model = create_model(args.model, pretrained=not args.random_weights, checkpoint_path=args.checkpoint)
    classifier = VideoClassifier(model.to(device), views=args.views, progress=True)
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


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (AssertionError, RuntimeError) as e:
        raise ValueError(f"--device {name} cannot be used here: {str(e).splitlines()[0]}") from e


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
