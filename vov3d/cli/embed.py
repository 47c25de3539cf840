"""`vov3d embed`: videos as vectors to compare them by."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from vov3d.cli._arguments import device, say_what_it_knows, show_warnings
from vov3d.cli._files import videos_in
from vov3d.cli.predict import add_settings, built_model, classifier_for
from vov3d.deploy._formats import FORMATS

_VECTOR = "forward_head(pre_logits=True)"
_RANDOM = "RANDOM WEIGHTS: these vectors mean nothing, only the speed is real"


def add_commands(commands: Any) -> None:
    """Adds `embed` to the parser's commands."""
    p = commands.add_parser(
        "embed",
        description="Writes, for each video, what the model's classifier takes: features pooled over the clip, after"
        " the hidden layer, averaged over the views, not normalised. Beside them the file names the videos, the model"
        " and how it looked.",
    )
    p.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="video files, folders of videos or of frames (00001.jpg ...), http(s) addresses",
    )
    p.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="OUT",
        help=f"the file to write: {' or '.join(_WRITERS)}; what is there is replaced",
    )
    p.add_argument(
        "--broken",
        choices=("stop", "leave-out"),
        default="stop",
        help="a video that cannot be read ends the command, or is left out and named at the end (default: stop)",
    )
    add_settings(p)
    p.set_defaults(run=_embed)


def _embed(args: argparse.Namespace) -> int:
    from vov3d.video import parse_views  # needs the extra `video`

    parse_views(args.views)
    _check_output(args.output)
    if Path(args.model).suffix in FORMATS:
        raise ValueError(f"{args.model}: an exported file gives labels, no vectors; name the model it was made from")
    target = device(args.device)
    if args.random_weights:
        print(_RANDOM, file=sys.stderr)
        torch.manual_seed(0)
    files = [video for file in args.files for video in (videos_in(Path(file), True) if os.path.isdir(file) else [file])]
    model = built_model(args, target)
    say_what_it_knows("embed", model)
    names, vectors, broken = _vectors(args, model, files)
    if not names:
        raise ValueError(f"none of {len(files)} videos can be read, first {broken[0]}; nothing was written")
    about = _about(args, model, vectors.shape[1])
    _write(args.output, names, vectors, about)
    made_by = ".".join(filter(None, (str(about["model"]), str(about["tag"]))))
    print(f"written   {args.output}: {len(names)} vectors of {about['dimension']} by {made_by}")
    for error in broken:
        print(f"left out  {error}", file=sys.stderr)
    return 0


def _vectors(
    args: argparse.Namespace, model: torch.nn.Module, files: list[str]
) -> tuple[list[str], torch.Tensor, list[Exception]]:
    """Names and vectors `(N, D)` of the videos that can be read, and what is wrong with the others."""
    names, vectors, broken = [], [], []
    errors = "raise" if args.broken == "stop" else "return"
    with show_warnings("embed"):
        for file, vector in classifier_for(args, model).embeddings(files, args.fps, errors):
            if isinstance(vector, Exception):
                broken.append(vector)
            else:
                names.append(file)
                vectors.append(vector)
    return names, torch.stack(vectors) if vectors else torch.empty(0, 0), broken


def _about(args: argparse.Namespace, model: Any, dimension: int) -> dict[str, str | int]:
    """What is to be known of the vectors: those of two files compare only where all of it agrees."""
    cfg = model.pretrained_cfg
    own = args.frames or cfg["num_frames"], args.stride or cfg.get("frame_stride")
    return {
        "model": cfg["architecture"],
        "tag": cfg.get("tag") or "",
        "weights": "random" if args.random_weights else str(args.checkpoint or args.model),
        "dimension": dimension,
        "vector": _VECTOR,
        "views": args.views,
        "sampling": f"{own[0]} frames, {'in equal segments' if own[1] is None else f'every {own[1]:g} at 30 fps'}",
    }


# --- files -----------------------------------------------------------------------------------------------------------


def _check_output(path: Path) -> None:
    """Refuses a file that could not be written, before anything is computed."""
    if path.suffix.lower() not in _WRITERS:
        raise ValueError(f"{path}: a file of vectors must end in {' or '.join(_WRITERS)}")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.absolute().parent}; make it first")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name a file")
    if path.suffix.lower() == ".parquet":
        _pyarrow()


def _write(path: Path, names: Sequence[str], vectors: torch.Tensor, about: dict[str, str | int]) -> None:
    """Writes the vectors; nothing half-written is ever there."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        _WRITERS[path.suffix.lower()](unfinished, names, vectors, about)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_npz(path: Path, names: Sequence[str], vectors: torch.Tensor, about: dict[str, str | int]) -> None:
    """Arrays `paths` and `vectors`, and one of a single text for each thing to be known."""
    import numpy as np

    arrays: dict[str, Any] = {"paths": names, "vectors": vectors.numpy(), **about}
    with path.open("wb") as file:  # a name would be given another ending
        np.savez(file, **arrays)


def _write_parquet(path: Path, names: Sequence[str], vectors: torch.Tensor, about: dict[str, str | int]) -> None:
    """Columns `path` and `vector`, and what is to be known as the metadata of the schema."""
    pa, pq = _pyarrow()
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.numpy().ravel()), vectors.shape[1])
    table = pa.table({"path": pa.array(names), "vector": column})
    pq.write_table(table.replace_schema_metadata({key: str(value) for key, value in about.items()}), path)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(".parquet files need pyarrow: pip install 'vov3d[train]'") from error
    return pyarrow, pyarrow.parquet


_WRITERS: dict[str, Callable[..., None]] = {".npz": _write_npz, ".parquet": _write_parquet}
