"""`vov3d list` and `vov3d info`: what models there are, and what each costs."""

import argparse
from functools import cache
from typing import Any

from huggingface_hub import constants
from torch import nn

from vov3d.cli._arguments import positive
from vov3d.layers import MIDDLE_CONVS
from vov3d.models import Budget, create_model, list_models, list_pretrained, measure_budget, model_entrypoint
from vov3d.models._pretrained_cfg import resolve_cfg
from vov3d.models._sources import find_local, source_sha256


def add_commands(commands: Any) -> None:
    """Adds `list` and `info` to the parser's commands."""
    p = commands.add_parser("list", help="the models and their published weights")
    p.add_argument("filter", nargs="?", default="", help="wildcard, as in 'vov3d_l*'")
    what = p.add_mutually_exclusive_group()
    what.add_argument("--markdown", action="store_true", help="print a Markdown table")
    what.add_argument("--weights", action="store_true", help="sizes, sources, and what is on this machine already")
    p.set_defaults(run=_list)

    p = commands.add_parser("info", help="parameters, multiply-adds, activations and shapes of a model")
    p.add_argument("name", metavar="NAME", help="a model or model.tag of 'vov3d list'")
    p.add_argument("--frames", type=positive, help="frames of the clip (default: the tag's)")
    p.add_argument(
        "--size", type=positive, help="height and width of the clip in pixels (default: the tag's test crop)"
    )
    p.add_argument("--conv", choices=MIDDLE_CONVS, help="another middle convolution (Table 4)")
    p.set_defaults(run=_info)


_COLUMNS = ("model.tag", "params (M)", "frames", "crop", "GMACs/view", "views", "top-1", "top-5", "licence")


@cache
def _skeleton(model: str, num_classes: int) -> nn.Module:
    """A network without memory, to count."""
    return model_entrypoint(model)(device="meta", num_classes=num_classes)


def zoo_rows(filter: str = "") -> list[tuple[str, ...]]:
    """One row a set of published weights, in the order of `_COLUMNS`; accuracies are the published ones."""
    rows: list[tuple[str, ...]] = []
    for name in list_pretrained(filter):
        model, tag = name.split(".")
        cfg = resolve_cfg(model, tag, None)
        params = f"{sum(p.numel() for p in _skeleton(model, cfg.num_classes).parameters()) / 1e6:.2f}"
        frames = f"{cfg.num_frames} x {cfg.frame_stride}" if cfg.frame_stride else f"{cfg.num_frames} segments"
        crop = (cfg.test_input_size or cfg.input_size)[-1]
        views = "{} x {}".format(*cfg.views)
        figures = (str(crop), f"{cfg.gmacs_per_view:g}", views, f"{cfg.top1:.1f}", f"{cfg.top5:.1f}")
        rows.append((name, params, frames, *figures, cfg.license or ""))
    return rows


def zoo_table(filter: str = "") -> str:
    """The zoo as a Markdown table."""
    lines = [_COLUMNS, tuple("---" for _ in _COLUMNS), *((f"`{row[0]}`", *row[1:]) for row in zoo_rows(filter))]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _list(args: argparse.Namespace) -> int:
    if not list_pretrained(args.filter):
        raise ValueError(f"no model matches {args.filter!r}; the models are {', '.join(list_models())}")
    if args.markdown:
        print(zoo_table(args.filter))
        return 0
    table = [_WEIGHTS_COLUMNS, *_weights_rows(args.filter)] if args.weights else [_COLUMNS, *zoo_rows(args.filter)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


_WEIGHTS_COLUMNS = ("model.tag", "MB", "top-1", "licence", "here", "SHA-256 of source", "sources")


def _weights_rows(filter: str) -> list[tuple[str, ...]]:
    """One row a set of weights, in the order of `_WEIGHTS_COLUMNS`; nothing is asked over the network."""
    rows: list[tuple[str, ...]] = []
    for name in list_pretrained(filter):
        model, tag = name.split(".")
        cfg = resolve_cfg(model, tag, None)
        tensors = _skeleton(model, cfg.num_classes).state_dict().values()
        size = sum(t.numel() * t.element_size() for t in tensors) / 1e6
        local = find_local(cfg)
        sha256 = source_sha256(local[1]) if local else None
        here = (local[0] if local else "no", (sha256 or "")[:12])
        sources = "the package" if cfg.packaged else f"{constants.ENDPOINT}/{cfg.hf_hub_id} {cfg.url}"
        rows.append((name, f"{size:.1f}", f"{cfg.top1:.1f}", cfg.license or "", *here, sources))
    return rows


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
