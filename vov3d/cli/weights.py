"""`vov3d convert` and `vov3d publish`: converts weights between formats, and uploads them to the Hub."""

import argparse
import io
import sys
from pathlib import Path
from typing import Any

import torch

from vov3d.files import check_not_source, make_folder, replacing
from vov3d.hub import convert, convert_state_dict, from_pretrained, publish
from vov3d.labels import read_label_names
from vov3d.layers import MIDDLE_CONVS
from vov3d.models import WeightsError, is_model, list_pretrained
from vov3d.weights.state_dict import read_state_dict


def add_commands(commands: Any) -> None:
    """Adds `convert` and `publish` to the parser's commands."""
    p = commands.add_parser("convert")
    p.add_argument("source", metavar="FILE", help="a checkpoint in any known format; with --to also a saved folder")
    p.add_argument("-o", "--output", required=True, metavar="OUT", help="the folder to write; with --to the file")
    p.add_argument("--to", choices=("slowfast", "pytorchvideo"), help="write a checkpoint of that codebase instead")
    p.add_argument("--model", metavar="NAME.TAG", help="the weights' tag, if tensors and file name leave it open")
    p.add_argument("--labels", metavar="FILE", help="class names in index order, one per line or JSON")
    p.add_argument("--conv", choices=MIDDLE_CONVS, help="d1plus2d, whose tensors are named like those of d2plus1d")
    p.set_defaults(run=_convert)

    p = commands.add_parser("publish")
    p.add_argument("tags", nargs="*", metavar="NAME.TAG", help="tags of 'vov3d list'")
    p.add_argument("--all", action="store_true", help="every tag of 'vov3d list'")
    p.add_argument("--org", required=True, metavar="ORG", help="organisation or user on the Hub")
    p.add_argument("--dry-run", action="store_true", help="write the folders and send nothing")
    p.add_argument("-o", "--output", metavar="FOLDER", help="folder for --dry-run (default: published)")
    p.set_defaults(run=_publish)


# --- convert ---------------------------------------------------------------------------------------------------------


def _convert(args: argparse.Namespace) -> int:
    if args.to:
        return _convert_back(args)
    names = read_label_names(args.labels) if args.labels else None
    found, model = convert(args.source, args.output, args.model, names, args.conv)
    cfg: Any = model.pretrained_cfg
    tag = f"{cfg['architecture']}.{cfg['tag']}" if cfg.get("tag") else None
    print(f"format    {found.format}")
    print(f"network   {found}")
    if len(found.variants) > 1:
        hint = "" if args.model or tag else "; --model selects another"
        print(f"          {', '.join(found.variants)} are one network: taken for {cfg['architecture']}{hint}")
    print(f"classes   {found.num_classes}, {_names(cfg, names)}")
    if found.num_classes == 174 and not tag and not names:
        print("          V1 and V2 of Something-Something have as many; give --model NAME.TAG or --labels")
    print(f"weights   {tag or 'of no published tag'}, licence {cfg.get('license') or 'not stated'}")
    print(f"written   {args.output}: vov3d.create_model('local-dir:{args.output}', pretrained=True)")
    return 0


def _names(cfg: dict[str, Any], names: list[str] | None) -> str:
    if names:
        return "named by --labels"
    return f"named as in {cfg['label_set']}" if cfg.get("label_set") else "without names (--labels FILE gives them)"


def _convert_back(args: argparse.Namespace) -> int:
    unused = [f"--{name}" for name in ("model", "labels", "conv") if getattr(args, name)]
    if unused:
        raise ValueError(f"{', '.join(unused)} has no effect with --to, which only renames tensors")
    source = Path(args.source)
    check_not_source(args.output, source)
    tensors = convert_state_dict(from_pretrained(source) if source.is_dir() else read_state_dict(source), args.to)
    output = Path(args.output)
    if output.is_dir():
        raise ValueError(f"{output}: is a folder; --to writes a file, such as {output / 'model.pyth'}")
    make_folder(output.parent)
    content = io.BytesIO()  # where torch itself writes, an error does not say that the disk is full
    torch.save({"model_state": tensors}, content)
    with replacing(output) as draft:
        draft.write_bytes(content.getbuffer())
    print(f"written   {output}: {len(tensors)} tensors, format {args.to}")
    return 0


# --- publish ---------------------------------------------------------------------------------------------------------


def _publish(args: argparse.Namespace) -> int:
    if bool(args.tags) == args.all:
        raise ValueError("name the tags to publish, or give --all")
    if args.output and not args.dry_run:
        raise ValueError("-o has no effect without --dry-run, which writes folders instead of sending them")
    tags = args.tags or list_pretrained()
    wrong = [tag for tag in tags if tag not in list_pretrained()]
    if wrong:
        whole = [t for t in wrong if is_model(t)]
        hint = f"; the tags of {whole[0]} are {', '.join(list_pretrained(f'{whole[0]}.*'))}" if whole else ""
        raise ValueError(f"no published tag {', '.join(wrong)}; see 'vov3d list'{hint}")
    failed = 0
    for tag in tags:
        try:
            files = publish(tag, args.org, (args.output or "published") if args.dry_run else None)
            print(f"{tag}: {', '.join(files) if files else 'unchanged'}", flush=True)
        except (WeightsError, RuntimeError) as e:
            failed += 1
            print(f"vov3d publish: {e}", file=sys.stderr)
    if failed:
        print(f"vov3d publish: {failed} of {len(tags)} tags failed; run it again for those", file=sys.stderr)
    return int(failed > 0)
