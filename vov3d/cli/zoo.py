"""`vov3d list`: lists the models, with the published figures of their weights.

The table is read from `zoo.json`, which needs no slow imports; `python -m vov3d.cli.zoo` writes that file from the
registry, which imports PyTorch and timm.
"""

import argparse
import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

_TABLE = Path(__file__).with_name("zoo.json")
_COLUMNS = ("model.tag", "params (M)", "frames", "crop", "GMACs/view", "views", "top-1", "top-5", "licence")
_WEIGHTS_COLUMNS = ("model.tag", "MB", "top-1", "licence", "here", "SHA-256 of source", "sources")


def add_commands(commands: Any) -> None:
    """Adds `list` to the parser's commands."""
    p = commands.add_parser("list")
    p.add_argument("filter", nargs="?", default="", help="wildcard, as in 'vov3d_l*'")
    what = p.add_mutually_exclusive_group()
    what.add_argument("--markdown", action="store_true", help="print a Markdown table")
    what.add_argument("--weights", action="store_true", help="show sizes, sources, and weights on this machine")
    p.set_defaults(run=_list)


def zoo_rows(filter: str = "") -> list[list[str]]:
    """Returns one row per set of published weights, in the order of `_COLUMNS`; accuracies are the published ones.

    Args:
        filter: Wildcards, as in `vov3d.list_models`; all if empty.
    """
    rows = json.loads(_TABLE.read_text(encoding="utf-8"))
    # A filter without a tag means all tags of its models.
    model, _, tag = filter.partition(".")
    patterns = [filter] if tag else [filter, f"{model}.*"]
    return [row for row in rows if not filter or any(fnmatchcase(row[0], pattern) for pattern in patterns)]


def zoo_table(filter: str = "") -> str:
    """Returns the zoo as a Markdown table.

    Args:
        filter: As in `zoo_rows`.
    """
    lines = [_COLUMNS, tuple("---" for _ in _COLUMNS), *((f"`{row[0]}`", *row[1:]) for row in zoo_rows(filter))]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _list(args: argparse.Namespace) -> int:
    rows = zoo_rows(args.filter)
    if not rows:
        models = sorted({row[0].split(".")[0] for row in zoo_rows()})
        raise ValueError(f"no model matches {args.filter!r}; the models are {', '.join(models)}")
    if args.markdown:
        print(zoo_table(args.filter))
        return 0
    names = [row[0] for row in rows]
    table: list[Any] = [_WEIGHTS_COLUMNS, *_weights_rows(names)] if args.weights else [_COLUMNS, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


# --- from the registry -----------------------------------------------------------------------------------------------


def registered_rows() -> list[list[str]]:
    """Builds the rows of `zoo.json` from the registry."""
    from vov3d.models import list_pretrained
    from vov3d.weights.config import resolve_cfg

    rows = []
    for name in list_pretrained():
        model, tag = name.split(".")
        cfg = resolve_cfg(model, tag, None)
        params = f"{sum(p.numel() for p in _skeleton(model, cfg.num_classes).parameters()) / 1e6:.2f}"
        frames = f"{cfg.num_frames} x {cfg.frame_stride}" if cfg.frame_stride else f"{cfg.num_frames} segments"
        crop = (cfg.test_input_size or cfg.input_size)[-1]
        views = "{} x {}".format(*cfg.views)
        figures = (str(crop), f"{cfg.gmacs_per_view:g}", views, f"{cfg.top1:.1f}", f"{cfg.top5:.1f}")
        rows.append([name, params, frames, *figures, cfg.license or ""])
    return rows


def _weights_rows(names: list[str]) -> list[tuple[str, ...]]:
    """Returns one row per set of weights, in the order of `_WEIGHTS_COLUMNS`, without using the network."""
    from huggingface_hub import constants

    from vov3d.weights.config import resolve_cfg
    from vov3d.weights.sources import find_local, source_sha256

    rows: list[tuple[str, ...]] = []
    for name in names:
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


def _skeleton(model: str, num_classes: int) -> Any:
    """Builds a network on the meta device, for counting."""
    from vov3d.models import model_entrypoint

    return model_entrypoint(model)(device="meta", num_classes=num_classes)


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(row) for row in registered_rows())
    _TABLE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
