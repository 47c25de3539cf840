"""`vov3d embed`: turns videos into vectors for comparison."""

import argparse
import math
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from vov3d.cli._kept import Kept, KeptRows
from vov3d.cli.arguments import Progress, check_output, device, say_what_it_knows, show_warnings, span
from vov3d.cli.files import named_videos, share_of
from vov3d.cli.predict import add_files, add_settings, classifier_for, fast_on, loaded_model
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
        description="Writes, for each video, what the model's classifier takes: features pooled over the clip, after"
        " the hidden layer, averaged over the views, not normalised. Beside them the file names the videos, the model"
        " and how it looked. With --every, the same of windows at regular times of long videos, each video decoded in "
        "one pass.",
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
    over = p.add_argument_group("long videos")
    over.add_argument(
        "--every",
        type=span,
        metavar="TIME",
        help="a vector for each window, the windows so far apart: 0.5s, 0.5 or 500ms",
    )
    over.add_argument(
        "--seconds",
        type=span,
        metavar="TIME",
        help="length of a window, for models that take their frames from equal segments (default: that of their "
        "training videos, where they state it); in others it follows from the stride",
    )
    over.add_argument("--across-cuts", action="store_true", help="windows may lie across cuts between shots")
    p.set_defaults(run=_embed)


def _embed(args: argparse.Namespace) -> int:
    from vov3d.video import parse_views  # needs the extra `video`

    clips, _ = parse_views(args.views)
    _check_every(args, clips)
    check_output(args.output)
    ending = args.output.suffix.lower()
    if ending not in _WRITERS:
        raise ValueError(f"{args.output}: a file of vectors must end in {' or '.join(_WRITERS)}")
    if ending == ".parquet":
        _pyarrow()
    if Path(args.model).suffix in FORMATS:
        raise ValueError(f"{args.model}: an exported file gives labels, not vectors; name the model it was made from")
    files = share_of(_once(named_videos(args.files, "embed")), args.shard)
    target = device(args.device)
    if args.random_weights:
        print(_RANDOM, file=sys.stderr)
        torch.manual_seed(0)
    network = loaded_model(args)
    say_what_it_knows("embed", network)
    about = _about(args, network)
    model = fast_on(target, network)
    form: Any = KeptRows if args.every else Kept
    with form(args.output, {**about, "fps": str(args.fps)}) as kept:
        broken = (_compute_over if args.every else _compute)(args, model, files, kept)
        names = [file for file in files if file in kept]
        if not names:
            raise ValueError(f"none of {len(files)} videos can be read, first {broken[0]}; nothing was written")
        count = (_write_rows if args.every else _write)(args.output, names, kept, about)
        kept.forget()
    made_by = ".".join(filter(None, (str(about["model"]), str(about["tag"]))))
    of = f" of {len(names)} videos" if args.every else ""
    print(f"written   {args.output}: {count} vectors of {about['dimension']}{of} by {made_by}")
    for error in broken:
        print(f"left out  {error}", file=sys.stderr)
    return 0


def _check_every(args: argparse.Namespace, clips: int) -> None:
    """Refuses what has no effect without `--every`, or none with it."""
    for option, given in (("--seconds", args.seconds is not None), ("--across-cuts", args.across_cuts)):
        if given and not args.every:
            raise ValueError(f"{option} is for windows over long videos: give --every too, or leave it out")
    if args.every and clips != 1:
        raise ValueError(f"--views {args.views} has {clips} clips, and with --every each window is one: use 1x1 or 1x3")


def _once(files: list[str]) -> list[str]:
    """Returns each video once, even if it was named twice or in two ways, as by its folder and by its own name."""
    from vov3d.video.sources import is_address

    places: dict[str, str] = {}
    for file in files:
        places.setdefault(file if is_address(file) else os.path.abspath(file), file)
    return list(places.values())


def _compute(args: argparse.Namespace, model: torch.nn.Module, files: list[str], kept: Kept) -> list[Exception]:
    """Adds the vectors that are not there yet; what is wrong with the videos that cannot be read."""
    todo = _left(files, kept)
    broken: list[Exception] = []
    progress = Progress("embed", len(todo))
    with show_warnings("embed", progress.clear):
        classifier = classifier_for(args, model, len(todo))
        for file, vector in classifier.embeddings(kept.reading(todo), args.fps, "return"):
            progress.clear()
            if isinstance(vector, torch.Tensor):
                kept.add(str(file), vector)
            elif args.broken == "stop":
                raise RuntimeError(f"{vector}{kept}") from vector
            else:
                broken.append(vector)
            progress.step()
    return broken


def _compute_over(
    args: argparse.Namespace, model: torch.nn.Module, files: list[str], kept: KeptRows
) -> list[Exception]:
    """Adds the windows of videos that are not there yet; what is wrong with the videos that cannot be read."""
    from vov3d.video import VideoError
    from vov3d.video.sources import is_file

    todo = _left(files, kept)
    broken: list[Exception] = []
    progress = Progress("embed", len(todo))
    classifier = classifier_for(args, model, 2)  # windows are no views, which a bar would count
    with show_warnings("embed", progress.clear):
        for file in kept.reading(todo):
            try:
                fps = None if is_file(file) else args.fps
                windows = classifier.embeddings_over(file, args.every, args.seconds, args.across_cuts, fps)
                kept.add_windows(file, _told(progress, file, windows))
            except VideoError as error:
                progress.clear()
                if args.broken == "stop":
                    raise RuntimeError(f"{error}{kept}") from error
                broken.append(error)
            progress.step()
    return broken


def _told(progress: Progress, file: str, windows: Iterator[Any]) -> Iterator[Any]:
    """Yields the windows of a video, and prints from time to time how much of it is done."""
    for window in windows:
        progress.within(file, window.end, window.duration)
        yield window
    progress.clear()


def _left(files: list[str], kept: Kept) -> list[str]:
    """Returns the videos that are not done, and prints how many are."""
    todo = [file for file in files if file not in kept]
    if len(todo) < len(files):
        print(f"vov3d embed: {len(files) - len(todo)} of {len(files)} videos are done", file=sys.stderr)
    return todo


def _about(args: argparse.Namespace, model: Any) -> dict[str, str | int]:
    """Returns the settings of the vectors: two files can be compared only if all settings agree."""
    cfg = model.pretrained_cfg
    own = args.frames or cfg["num_frames"], args.stride or cfg.get("frame_stride")
    every: dict[str, str | int] = {}
    if args.every:
        window = args.seconds or cfg.get("clip_seconds") or (own[1] or math.nan) * own[0] / 30
        every = {"every": f"{args.every:g}", "window": f"{window:g}", "cuts": "crossed" if args.across_cuts else "kept"}
    if cfg["sampling"] == "segment":
        way = "in equal segments" if args.views.startswith("1x") else "drawn from equal segments"
    else:
        way = f"every {own[1]:g} at 30 fps"
    return {
        "model": cfg["architecture"],
        "tag": cfg.get("tag") or "",
        "weights": "random" if args.random_weights else str(args.checkpoint or args.model),
        "digest": digest(model),  # of the weights, wherever they are
        "dimension": 0,  # not known yet
        "vector": _VECTOR,
        "views": args.views,
        "sampling": f"{own[0]} frames, {way}",
        **every,
    }


# --- files -----------------------------------------------------------------------------------------------------------


def _write(path: Path, names: Sequence[str], kept: Kept, about: dict[str, str | int]) -> int:
    """Writes a vector for each video and returns how many; the file is put in place whole or not at all."""
    vectors = torch.stack([kept.vectors[name] for name in names])
    about["dimension"] = vectors.shape[1]
    with replacing(path) as draft:
        _WRITERS[path.suffix.lower()](draft, names, vectors, about)
    return len(names)


def _write_rows(path: Path, names: Sequence[str], kept: KeptRows, about: dict[str, str | int]) -> int:
    """Writes the vectors of windows, as `_write` does, without holding all in memory; returns how many."""
    about["dimension"] = kept.dimension
    with replacing(path) as draft:
        _ROW_WRITERS[path.suffix.lower()](draft, names, kept, about)
    return sum(len(kept.rows[name].times) for name in names)


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
    texts = [_utf8(name) for name in names]
    table = pa.table({"path": pa.array(texts), "vector": column})
    pq.write_table(table.replace_schema_metadata({key: str(value) for key, value in about.items()}), path)


def _write_npz_rows(path: Path, names: Sequence[str], kept: KeptRows, about: dict[str, str | int]) -> None:
    """Arrays `paths`, `times`, `shot_starts`, `shot_ends` and `vectors`, and what is to be known as in `_write_npz`."""
    import numpy as np

    rows = [kept.rows[name] for name in names]
    arrays: dict[str, Any] = {
        "paths": np.repeat(np.array(names), [len(part.times) for part in rows]),
        "times": np.concatenate([part.times for part in rows]),
        "shot_starts": np.concatenate([part.shots for part in rows]),
        "shot_ends": np.concatenate([part.shot_ends() for part in rows]),
        **about,
    }
    with path.open("wb") as file:
        np.savez(file, **arrays)
    shape = (len(arrays["times"]), kept.dimension)
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with zipfile.ZipFile(path, "a") as archive, archive.open("vectors.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for name in names:
            for content in kept.vectors_of(name):
                member.write(content)


def _write_parquet_rows(path: Path, names: Sequence[str], kept: KeptRows, about: dict[str, str | int]) -> None:
    """Columns `path`, `time`, `shot_start`, `shot_end` and `vector`, and the metadata of `_write_parquet`."""
    pa, pq = _pyarrow()
    fields = {"path": pa.string(), "time": pa.float64(), "shot_start": pa.float64(), "shot_end": pa.float64()}
    fields["vector"] = pa.list_(pa.float32(), kept.dimension)
    schema = pa.schema(fields, {key: str(value) for key, value in about.items()})
    with pq.ParquetWriter(path, schema) as writer:
        for name in names:
            rows, at = kept.rows[name], 0
            ends = rows.shot_ends()
            for content in kept.vectors_of(name):
                values = pa.Array.from_buffers(pa.float32(), len(content) // 4, [None, pa.py_buffer(content)])
                column = pa.FixedSizeListArray.from_arrays(values, kept.dimension)
                part = slice(at, at + len(column))
                columns = [pa.array(given[part], pa.float64()) for given in (rows.times, rows.shots, ends)]
                texts = pa.array([_utf8(name)] * len(column))
                writer.write_table(pa.table([texts, *columns, column], schema=schema))
                at = part.stop


def _utf8(name: str) -> str:
    """Returns a name, with escapes for bytes that are no UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f".parquet files need pyarrow: {install('train')}") from error
    return pyarrow, pyarrow.parquet


_WRITERS: dict[str, Callable[..., None]] = {".npz": _write_npz, ".parquet": _write_parquet}
_ROW_WRITERS: dict[str, Callable[..., None]] = {".npz": _write_npz_rows, ".parquet": _write_parquet_rows}
