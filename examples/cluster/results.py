"""Stores results as Parquet files in a folder, so that a run continues where it stopped and no video stands twice."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vov3d.files import alone_in, make_folder, replacing

SETTINGS = "_settings.json"  # readers of Parquet folders pass over such names
_PARTS = "part-*.parquet"
_START = "start"  # in the settings: the folder that names of videos start from


def schema(embedding: bool) -> pa.Schema:
    """Returns the columns of the results.

    Args:
        embedding: Whether there is a vector of each video.
    """
    fields = [
        pa.field("path", pa.string()),
        pa.field("labels", pa.list_(pa.string())),
        pa.field("indices", pa.list_(pa.int32())),
        pa.field("scores", pa.list_(pa.float32())),
        *([pa.field("embedding", pa.list_(pa.float32()))] if embedding else []),
        pa.field("views", pa.int32()),
        pa.field("decode_seconds", pa.float64()),
        pa.field("decode_cpu_seconds", pa.float64()),
        pa.field("model_seconds", pa.float64()),
        pa.field("model_cpu_seconds", pa.float64()),
        pa.field("note", pa.string()),
        pa.field("error", pa.string()),
        pa.field("model", pa.string()),
        pa.field("weights", pa.string()),
    ]
    return pa.schema(fields)


def text_of(path: str) -> str:
    """Returns a path as Parquet can hold it: bytes that are no UTF-8 become escapes."""
    return path.encode("utf-8", "backslashreplace").decode()


def begin(folder: Path, settings: Mapping[str, Any], start: str | None = None) -> None:
    """Makes the folder of results, or checks that those in it were made with the same settings.

    Args:
        folder: The folder.
        settings: All that the rows depend on.
        start: The folder that names of videos start from; None where all are whole.

    Raises:
        ValueError: If they were not, or their names start from another folder; the message names what differs.
    """
    make_folder(folder)
    file = folder / SETTINGS
    wanted = json.loads(json.dumps(settings))
    found: dict[str, Any] = {}
    if file.exists():
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file}: is damaged ({error}); name another folder") from error
        _check(folder, wanted, found, start)
    elif any(folder.glob(_PARTS)):
        raise ValueError(f"{folder}: has results without {SETTINGS}, which says how they were made; name another")
    content = wanted | ({_START: found.get(_START) or start} if found.get(_START) or start else {})
    if content != found:
        with replacing(file) as draft:
            draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _check(folder: Path, wanted: Mapping[str, Any], found: Mapping[str, Any], start: str | None) -> None:
    other = [key for key in sorted({*wanted, *found} - {_START}) if wanted.get(key) != found.get(key)]
    if other:
        changes = ", ".join(f"{key} {found.get(key)!r} and not {wanted.get(key)!r}" for key in other)
        raise ValueError(f"{folder}: holds results made with {changes}; name another folder")
    if start and found.get(_START, start) != start:
        raise ValueError(
            f"{folder}: holds rows of videos that are named from {found[_START]}, so the same names here, in {start}, "
            f"may be others; start the command there, or name another folder. If {found[_START]} was moved here, say "
            f"so in {SETTINGS}"
        )


def done(folder: Path) -> set[str]:
    """Returns the videos, as `text_of` writes them, that have a row.

    Raises:
        ValueError: If a file cannot be read.
    """
    return {path for file in _parts(folder) for path in _paths(file)}


def left(videos: Sequence[str], finished: set[str]) -> list[str]:
    """Returns the videos that have no row, in their order."""
    return [video for video in videos if text_of(video) not in finished]


def shard_of(videos: Sequence[str], shard: tuple[int, int]) -> list[str]:
    """Returns the videos of a shard `(i, n)`, i from 1: the shares of all n are disjoint and differ by at most one."""
    number, count = shard
    return list(videos[number - 1 :: count])


def write(folder: Path, table: pa.Table, shard: tuple[int, int] = (1, 1)) -> Path:
    """Puts results in place as one file, whole or not at all.

    The name follows from the videos: a stage that runs again after a lost worker replaces its own file.

    Args:
        folder: The folder.
        table: Rows, with the columns of `schema`.
        shard: The shard that they belong to.
    """
    digest = hashlib.sha256("\0".join(table["path"].to_pylist()).encode()).hexdigest()
    path = folder / f"part-{shard[0]:05d}-{digest[:24]}.parquet"
    with replacing(path) as draft:
        pq.write_table(table, draft, compression="zstd")
    return path


def remove_repeats(folder: Path) -> int:
    """Removes all rows of a video but one, and returns how many: a row with an error before one without.

    They come about when a machine is lost after it wrote a file and before it said so. Several runs may do this at
    once: all of them keep the same row.
    """
    with alone_in(folder):
        counts = Counter(path for file in _parts(folder) for path in _paths(file))
        repeated = {path for path, count in counts.items() if count > 1}
        if not repeated:
            return 0
        sound = {path for file in _parts(folder) for path, error in _errors(file) if error is None} & repeated
        seen: set[str] = set()

        def is_kept(path: str, error: str | None) -> bool:
            kept = path not in seen and (error is None or path not in sound)
            if kept and path in repeated:
                seen.add(path)
            return kept

        return _filter(folder, is_kept)


def forget_broken(folder: Path, videos: Iterable[str]) -> int:
    """Removes the rows of broken videos, so that they are done again; returns how many.

    Several runs may do this at once, each for videos of its own.

    Args:
        folder: The folder.
        videos: Those that are meant; rows of others stay.
    """
    meant = {text_of(video) for video in videos}
    with alone_in(folder):
        return _filter(folder, lambda path, error: error is None or path not in meant)


def merged(counts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Returns the sums of what the write stage counted."""
    total: dict[str, float] = {}
    for each in counts:
        for key, value in each.items():
            total[key] = total.get(key, 0) + value
    return total


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob(_PARTS))


def _paths(file: Path) -> list[str]:
    return _read(file, ["path"])["path"].to_pylist()


def _errors(file: Path) -> list[tuple[str, str | None]]:
    """Returns the videos of a file, each with why it is broken or None."""
    table = _read(file, ["path", "error"])
    return list(zip(table["path"].to_pylist(), table["error"].to_pylist(), strict=True))


def _read(file: Path, columns: Sequence[str]) -> pa.Table:
    """Returns columns of a file; no rows if another run has just deleted it, which it does where none is left."""
    try:
        return pq.read_table(file, columns=list(columns))
    except FileNotFoundError:
        return pa.table({column: pa.array([], pa.string()) for column in columns})
    except (pa.ArrowException, KeyError) as error:
        raise ValueError(
            f"{file}: is no file of results ({error}); delete it, and its videos are done again"
        ) from error


def _filter(folder: Path, is_kept: Callable[[str, str | None], bool]) -> int:
    """Rewrites the files with rows that are not kept, by video and error; returns how many these are."""
    removed = 0
    for file in _parts(folder):
        keep = [is_kept(path, error) for path, error in _errors(file)]
        if not all(keep):
            _keep(file, keep)
            removed += len(keep) - sum(keep)
    return removed


def _keep(file: Path, rows: Sequence[bool]) -> None:
    """Rewrites a file with some of its rows; one without rows is deleted."""
    if not any(rows):
        os.unlink(file)
        return
    table = pq.read_table(file).filter(pa.array(rows))
    with replacing(file) as draft:
        pq.write_table(table, draft, compression="zstd")
