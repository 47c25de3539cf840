"""`vov3d embed`: turns videos into vectors for comparison."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from vov3d.cli._files import named_videos
from vov3d.cli._kept import Kept
from vov3d.cli.arguments import Progress, check_output, device, say_what_it_knows, show_warnings
from vov3d.cli.predict import add_files, add_settings, built_model, classifier_for
from vov3d.deploy.formats import FORMATS
from vov3d.extras import install
from vov3d.files import replacing
from vov3d.weights.state_dict import digest

_VECTOR = "forward_head(pre_logits=True)"
_RANDOM = "RANDOM WEIGHTS: these vectors mean nothing, only the speed is real"


def add_commands(commands: Any) -> None:
    """Adds `embed` to the parser's commands."""
    p = commands.add_parser(
        "embed",
        description="Writes, for each video, the input of the model's classifier: features pooled over the clip, after"
        " the hidden layer, averaged over the views, not normalised. The file also has the names of the videos, the"
        " model and its settings.",
    )
    add_files(p)
    p.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="OUT",
        help=f"the file to write: {' or '.join(_WRITERS)}; an existing one is replaced",
    )
    p.add_argument(
        "--broken",
        choices=("stop", "leave-out"),
        default="stop",
        help="an unreadable video ends the command, which keeps its vectors so far for the next call, or is "
        "left out and named at the end (default: stop)",
    )
    add_settings(p)
    p.set_defaults(run=_embed)


def _embed(args: argparse.Namespace) -> int:
    from vov3d.video import parse_views  # needs the extra `video`

    parse_views(args.views)
    check_output(args.output)
    ending = args.output.suffix.lower()
    if ending not in _WRITERS:
        raise ValueError(f"{args.output}: a file of vectors must end in {' or '.join(_WRITERS)}")
    if ending == ".parquet":
        _pyarrow()
    if Path(args.model).suffix in FORMATS:
        raise ValueError(f"{args.model}: an exported file gives labels, not vectors; name the model it was made from")
    files = named_videos(args.files, "embed")
    target = device(args.device)
    if args.random_weights:
        print(_RANDOM, file=sys.stderr)
        torch.manual_seed(0)
    model = built_model(args, target)
    say_what_it_knows("embed", model)
    about = _about(args, model)
    with Kept(args.output, {**about, "fps": str(args.fps), "digest": digest(model)}) as kept:
        broken = _compute(args, model, files, kept)
        names = [file for file in files if file in kept.vectors]
        if not names:
            raise ValueError(f"none of {len(files)} videos can be read, first {broken[0]}; nothing was written")
        vectors = torch.stack([kept.vectors[name] for name in names])
        about["dimension"] = vectors.shape[1]
        _write(args.output, names, vectors, about)
        kept.forget()
    made_by = ".".join(filter(None, (str(about["model"]), str(about["tag"]))))
    print(f"written   {args.output}: {len(names)} vectors of {about['dimension']} by {made_by}")
    for error in broken:
        print(f"left out  {error}", file=sys.stderr)
    return 0


def _compute(args: argparse.Namespace, model: torch.nn.Module, files: list[str], kept: Kept) -> list[Exception]:
    """Adds the missing vectors; returns the errors of videos that cannot be read."""
    todo = [file for file in dict.fromkeys(files) if file not in kept.vectors]
    if len(todo) < len(set(files)):
        print(f"vov3d embed: {len(set(files)) - len(todo)} of {len(set(files))} videos are done", file=sys.stderr)
    broken: list[Exception] = []
    progress = Progress("embed", len(todo))
    with show_warnings("embed", progress.clear):
        for file, vector in classifier_for(args, model, len(todo)).embeddings(todo, args.fps, "return"):
            progress.clear()
            if isinstance(vector, torch.Tensor):
                kept.add(str(file), vector)
            elif args.broken == "stop":
                raise RuntimeError(f"{vector}{kept}") from vector
            else:
                broken.append(vector)
            progress.step()
    return broken


def _about(args: argparse.Namespace, model: Any) -> dict[str, str | int]:
    """Returns the settings of the vectors: two files can be compared only if all settings agree."""
    cfg = model.pretrained_cfg
    own = args.frames or cfg["num_frames"], args.stride or cfg.get("frame_stride")
    if cfg["sampling"] == "segment":
        way = "in equal segments" if args.views.startswith("1x") else "drawn from equal segments"
    else:
        way = f"every {own[1]:g} at 30 fps"
    return {
        "model": cfg["architecture"],
        "tag": cfg.get("tag") or "",
        "weights": "random" if args.random_weights else str(args.checkpoint or args.model),
        "dimension": 0,  # not known yet
        "vector": _VECTOR,
        "views": args.views,
        "sampling": f"{own[0]} frames, {way}",
    }


# --- files -----------------------------------------------------------------------------------------------------------


def _write(path: Path, names: Sequence[str], vectors: torch.Tensor, about: dict[str, str | int]) -> None:
    """Writes the vectors; the file is put in place whole or not at all."""
    with replacing(path) as draft:
        _WRITERS[path.suffix.lower()](draft, names, vectors, about)


def _write_npz(path: Path, names: Sequence[str], vectors: torch.Tensor, about: dict[str, str | int]) -> None:
    """Writes arrays `paths` and `vectors`, and an array of a single text for each setting."""
    import numpy as np

    arrays: dict[str, Any] = {"paths": names, "vectors": vectors.numpy(), **about}
    with path.open("wb") as file:  # np.savez may append an extension to a name
        np.savez(file, **arrays)


def _write_parquet(path: Path, names: Sequence[str], vectors: torch.Tensor, about: dict[str, str | int]) -> None:
    """Writes columns `path` and `vector`, and the settings as metadata of the schema."""
    pa, pq = _pyarrow()
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.numpy().ravel()), vectors.shape[1])
    texts = [name.encode("utf-8", "backslashreplace").decode() for name in names]  # for names that are not UTF-8
    table = pa.table({"path": pa.array(texts), "vector": column})
    pq.write_table(table.replace_schema_metadata({key: str(value) for key, value in about.items()}), path)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f".parquet files need pyarrow: {install('train')}") from error
    return pyarrow, pyarrow.parquet


_WRITERS: dict[str, Callable[..., None]] = {".npz": _write_npz, ".parquet": _write_parquet}
