"""Streams video data sets of the Hugging Face Hub and decodes them with `vov3d.video.VideoReader`.

`datasets` itself decodes videos with torchcodec only; here it returns files or bytes.
"""

from __future__ import annotations

import copy
import os
import random
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from vov3d.extras import install

__all__ = ["VideoStream", "open_videos", "video_source"]

Keep = Callable[[Any], bool]
"""Returns True if a row with this video belongs to a stream."""

_HELD_OUT = ("validation", "valid", "val", "test")  # validation splits; the first one that exists is used
_SHARE = 5  # one in so many videos is held out if there is no such split
_BUFFER = 1 << 28  # bytes of undecoded videos in the buffer
_HEAD = 1 << 16  # bytes of a video that are hashed
_ROW = 1 << 10  # bytes of a row without its video


class VideoStream(IterableDataset):
    """Videos with their classes, read from a data set row by row, also by several workers of a `DataLoader`."""

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        columns: tuple[str, str],
        count: int,
        index: Mapping[Any, int],
        keep: Keep,
    ) -> None:
        """Makes a stream of rows.

        Args:
            rows: a `datasets.IterableDataset` whose videos are not decoded.
            columns: names of the columns of videos and of classes.
            count: how many videos there are.
            index: index of each class by its value in the rows.
            keep: returns True if a row with this video belongs to the stream.
        """
        self._rows, self._columns, self._count, self._index, self._keep = rows, columns, count, index, keep
        self._load: Callable[[Any, int], Any] = lambda source, label: (source, label)
        self._shuffled = False

    def map(self, load: Callable[[Any, int], Any], shuffle: bool = False) -> VideoStream:
        """Returns the stream with a function applied to every video.

        Args:
            load: called with a path or the bytes of a file, and the index of the class.
            shuffle: shuffles the files of the data set, and rows within a buffer of 256 MB, anew in each pass.
        """
        stream = copy.copy(self)
        stream._load, stream._shuffled = load, shuffle
        return stream

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        rows: Any = self._rows
        if self._shuffled:
            info = get_worker_info()  # all workers need the same order of files
            seed = info.seed - info.id if info else int(torch.randint(1 << 62, ()))
            files = rows.shuffle(seed=seed % (1 << 32), buffer_size=1, max_buffer_input_shards=1)
            rows = _drawn(files, self._columns[0], random.Random(seed))
        for row in rows:
            video, label = (row[column] for column in self._columns)
            if not self._keep(video):
                continue
            if label not in self._index:
                raise ValueError(f"a video has the class {label!r}, which has no name; is the split without labels?")
            yield self._load(video_source(video), self._index[label])


def open_videos(
    name: str | os.PathLike[str], *, subset: str | None = None, video: str | None = None, label: str | None = None
) -> tuple[list[str], VideoStream, VideoStream]:
    """Opens a data set of the Hub or of a folder for training and validation.

    The validation videos are the split `validation`, `valid`, `val` or `test`. Without such a split they are a fifth of
    `train`, chosen by a hash of name and content, so that they are the same on every call.

    All rows are read once to count them if their number is not known, a fifth is held out, or classes are strings.
    Nothing is decoded, but rows that contain whole videos are downloaded.

    Args:
        name: `"org/name"`, `"org/name:subset"`, or a folder; with or without `"hf:"` in front.
        subset: which part of the data set, where it has several.
        video: column of the videos; the only one of type `Video` if None.
        label: column of the classes; the only one of type `ClassLabel`, else `"label"`, if None.

    Returns:
        Class names in index order, training videos and validation videos.

    Raises:
        ImportError: if `datasets` is not installed.
        ValueError: if it has no split `train`, columns cannot be told, a video has no class, or too few are there.
    """
    try:
        from datasets import Video, load_dataset
    except ImportError as error:
        raise ImportError(f"data sets of the Hub need the package datasets: {install('datasets')}") from error
    name = os.fspath(name).removeprefix("hf:")
    if subset is None and re.fullmatch(r"[\w.-]+/[\w.-]+:[\w.-]+", name):
        name, subset = name.split(":")
    splits: Any = load_dataset(name, subset, streaming=True)
    if "train" not in splits:
        raise ValueError(f"{name}: has no split 'train' but {', '.join(splits)}")
    columns = _columns(name, splits["train"].features, video, label)
    undecoded = {split: rows.select_columns(list(columns)) for split, rows in splits.items()}
    if isinstance(splits["train"].features[columns[0]], Video):
        undecoded = {s: rows.cast_column(columns[0], Video(decode=False)) for s, rows in undecoded.items()}
    held_out = next((split for split in _HELD_OUT if split in splits), None)
    return _streams(name, undecoded, held_out, columns)


def _streams(
    name: str, splits: Mapping[str, Any], held_out: str | None, columns: tuple[str, str]
) -> tuple[list[str], VideoStream, VideoStream]:
    """Returns class names and both streams with their lengths."""
    names = getattr(splits["train"].features[columns[1]], "names", None)
    parts: list[tuple[str, Keep]] = [("train", _every), (held_out or "train", _every)]
    if held_out is None:
        parts = [("train", partial(_is_drawn, wanted=False)), ("train", partial(_is_drawn, wanted=True))]
    totals: list[int] = []
    labels: set[Any] = set()
    for (split, keep), purpose in zip(parts, ("train on", "validate on"), strict=True):
        total = _known(splits[split]) if names and keep is _every else None
        if total is None:
            counts = Counter(row[columns[1]] for row in splits[split] if keep(row[columns[0]]))
            total, labels = counts.total(), labels | counts.keys()
        if not total:
            raise ValueError(f"{name}: its split {split!r} has no video to {purpose}; add videos")
        totals.append(total)
    known = range(len(names)) if names else sorted(labels - {None, ""})
    if unknown := labels - {*known}:
        raise ValueError(f"{name}: videos have the class {min(unknown, key=str)!r}, which has no name")
    index = {label: number for number, label in enumerate(known)}
    train, measured = (
        VideoStream(splits[split], columns, total, index, keep)
        for (split, keep), total in zip(parts, totals, strict=True)
    )
    return names or [str(label) for label in known], train, measured


def _every(video: Any) -> bool:
    return True


def _is_drawn(video: Any, wanted: bool) -> bool:
    """Returns True if a hash of name and content puts a video on the wanted side of the split."""
    path, content = _file_of(video)
    named = "/".join(Path(path or "").parts[-2:])  # the same wherever the data set is stored
    return (zlib.crc32(named.encode() + (content or b"")[:_HEAD]) % _SHARE == 0) is wanted


def _known(rows: Any) -> int | None:
    """Returns the number of rows that the data set states for a split."""
    splits = rows.info.splits or {}
    return getattr(splits.get(str(rows.split)), "num_examples", None)


def _columns(name: str, features: Any, video: str | None, label: str | None) -> tuple[str, str]:
    """Returns the columns of videos and of classes."""
    if features is None:
        raise ValueError(f"{name}: does not tell the types of its columns; its card must list them")
    types = {column: type(feature).__name__ for column, feature in features.items()}
    listed = ", ".join(f"{column} ({kind})" for column, kind in types.items())
    found = []
    for given, wanted, fallback, what in (
        (video, "Video", "video", "video"),
        (label, "ClassLabel", "label", "label"),
    ):
        of_type = [column for column, kind in types.items() if kind == wanted]
        column = given or (of_type[0] if len(of_type) == 1 else fallback)
        if column not in types:
            problem = (
                f"has no column {given!r}; give"
                if given
                else f"which column holds the {what} cannot be told; name it {fallback!r}, or give open_videos"
            )
            raise ValueError(f"{name}: {problem} {what}=... of {listed}")
        found.append(column)
    if types[found[1]] not in ("ClassLabel", "Value"):
        raise ValueError(
            f"{name}: its column {found[1]!r} is a {types[found[1]]}, but one class for each video is expected: a"
            f" ClassLabel, a text or a number; give label=... of {listed}"
        )
    return found[0], found[1]


def _drawn(rows: Iterable[Any], column: str, rng: random.Random) -> Iterator[Any]:
    """Yields rows in random order from a buffer."""
    buffer: list[Any] = []
    size = 0
    for row in rows:
        buffer.append(row)
        size += _bytes_of(row[column])
        while size > _BUFFER:
            at = rng.randrange(len(buffer))
            buffer[at], buffer[-1] = buffer[-1], buffer[at]
            drawn = buffer.pop()
            size -= _bytes_of(drawn[column])
            yield drawn
    rng.shuffle(buffer)
    yield from buffer


def _bytes_of(video: Any) -> int:
    return _ROW + len(_file_of(video)[1] or b"")


def _file_of(video: Any) -> tuple[Any, bytes | None]:
    """Returns path and content of the video of a row, either of which may be None."""
    if isinstance(video, Mapping):
        return video.get("path"), video.get("bytes")
    return (None, video) if isinstance(video, bytes) else (video, None)


def video_source(value: Any) -> Any:
    """Returns the video of a row as a source for `VideoReader`.

    Args:
        value: `{"path": ..., "bytes": ...}` of a `Video` feature that is not decoded, or a source of `VideoReader`.

    Returns:
        A file on this machine, or the bytes of a file.

    Raises:
        ValueError: if there is neither.
    """
    if value is not None and not isinstance(value, Mapping):
        return value
    path, content = _file_of(value)
    if content is not None:
        return content
    if not path:
        raise ValueError(
            f"a video of the data set has neither path nor bytes: {value!r:.200}; leave out rows without a video, such"
            " as by the filter of datasets, and give the column of the video, not the whole row"
        )
    if Path(path).is_file():
        return path
    import fsspec  # comes with datasets

    with fsspec.open(path, "rb") as file:
        return file.read()
