"""`vov3d info`: shows the cost of a model and its clips, or what an exported file takes and gives."""

import argparse
from pathlib import Path
from typing import Any

from vov3d.cli.arguments import positive
from vov3d.deploy import load_exported
from vov3d.deploy.formats import FORMATS
from vov3d.layers import MIDDLE_CONVS
from vov3d.models import Budget, create_model, measure_budget
from vov3d.models.names import model_name
from vov3d.weights.tasks import make_task


def add_commands(commands: Any) -> None:
    """Adds `info` to the parser's commands."""
    p = commands.add_parser("info")
    p.add_argument(
        "name", metavar="NAME", help="a model or model.tag of 'vov3d list', a saved model's folder, or an exported file"
    )
    p.add_argument("--frames", type=positive, help="frames of the clip (default: the tag's)")
    p.add_argument(
        "--size", type=positive, help="height and width of the clip in pixels (default: the tag's test crop)"
    )
    p.add_argument("--conv", choices=MIDDLE_CONVS, help="another middle convolution (Table 4)")
    p.add_argument("--layers", action="store_true", help="also print a table by stage and block")
    p.add_argument("--time", action="store_true", help="also measure the share of time of each part, on the CPU")
    p.set_defaults(run=_info)


def _info(args: argparse.Namespace) -> int:
    if Path(args.name).suffix in FORMATS:
        _print_exported(args)
        return 0
    kwargs: dict[str, Any] = {"conv": args.conv} if args.conv else {}
    name = model_name(args.name)
    skeleton: Any = create_model(name, device="meta", **kwargs)
    cfg = skeleton.pretrained_cfg
    frames = args.frames or cfg["num_frames"]
    size = args.size or (cfg.get("test_input_size") or cfg["input_size"])[-1]
    budget = measure_budget(name, frames, size, **kwargs)
    _print_weights(cfg)
    _print_budget(budget, frames, size)
    if args.layers or args.time:
        # Time does not depend on the weights.
        model: Any = create_model(name, **kwargs) if args.time else skeleton
        print(f"\n{model.summary(frames, size, args.time)}")
    return 0


def _print_exported(args: argparse.Namespace) -> None:
    """Prints what the metadata of an exported file say.

    Raises:
        ValueError: For options that describe a model in PyTorch.
    """
    for option in ("frames", "size", "conv", "layers", "time"):
        if getattr(args, option):
            raise ValueError(
                f"--{option} has no effect on {args.name}, an exported file: give the model it was made from"
            )
    file = load_exported(args.name).metadata
    _print_weights(file.pretrained_cfg | {"architecture": file.architecture, "num_classes": file.num_classes})
    made = f"{FORMATS[Path(args.name).suffix].title}, {file.dtype}, {file.form}"
    print(f"file             {made}, written by vov3d {file.vov3d_version}")
    frames, *size = file.clip or ("T", "H", "W")
    if file.stream:
        print(f"input            B x {file.in_chans} x {' x '.join(map(str, size))}, frame after frame, and the state")
        print(
            "stream           {delay} frames of delay, {receptive_field} seen, {window} averaged".format(**file.stream)
        )
    else:
        least = "" if file.clip else f", from {file.min_size} pixels on"
        print(f"input            B x {file.in_chans} x {' x '.join(map(str, (frames, *size)))}{least}")
    print(f"outputs          {', '.join(file.outputs)}")


def _print_weights(cfg: dict[str, Any]) -> None:
    names = cfg.get("label_set") or "its own labels"
    task = make_task(cfg.get("task"), cfg.get("heads"))
    print(f"model            {cfg['architecture']}")
    print(
        f"weights          {cfg.get('tag', 'its own')}: {task.describe(cfg['num_classes'])} of {names}",
        cfg.get("license", ""),
    )
    if "top1" in cfg:
        print("published        top-1 {top1}, top-5 {top5} with {views[0]} x {views[1]} views".format(**cfg))
    stride, seconds = cfg.get("frame_stride"), cfg.get("clip_seconds")
    segments = f"in equal segments of videos of {seconds:g} s" if seconds else "in equal segments"
    print(f"clip             {cfg['num_frames']} frames, {f'every {stride} at 30 fps' if stride else segments}")
    if "url" in cfg:
        print(f"from             {cfg['url']}")


def _print_budget(budget: Budget, frames: int, size: int) -> None:
    print(f"input            3 x {frames} x {size} x {size}")
    print(f"parameters       {budget.params:,} ({budget.params / 1e6:.2f} M)")
    print(f"multiply-adds    {budget.macs:,} ({budget.macs / 1e9:.3f} G)")
    print(f"activations      {budget.activations:,} ({budget.activations / 1e6:.1f} M)")
    for name, shape in budget.stages:
        print(f"{name:<16} {' x '.join(map(str, shape))}")
