"""Records the videos that a model was trained on and those held out, in the folder of the run and of the model.

    part,class,bytes,folder,file
    train,Opening a door,812331,Opening a door,a.mp4
    held out,Opening a door,790122,Opening a door,b.mp4

Videos are recognised by the name and the size of their file, even after a move or in shards of `make_shards`; clips in
memory by their content. A section has its times behind the name; one that shares a moment with a section or a whole
video for training counts as such.
"""

import csv
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from reference.data.finding import composed
from reference.data.sources import SHAPES, Member, Source
from vov3d.files import replacing
from vov3d.video import Section

VIDEOS = "videos.csv"
TRAIN, HELD_OUT = "train", "held out"
_COLUMNS = ("part", "class", "bytes", "folder", "file")

_Identity = tuple[str, str, int]
_Key = tuple[str, int]  # name and size
_Span = tuple[str, str, float, float]  # folder and part, start and end


def write_seen(path: Path, train: Source, val: Source | None) -> None:
    """Writes the list, whole or not at all; generated shapes need none, and one of an earlier run is deleted.

    Args:
        path: The file.
        train: The training data.
        val: The held-out data, or other data for validation.
    """
    if train.name.startswith(f"{SHAPES}:"):
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for name, source in ((HELD_OUT, val), (TRAIN, train)):
            for index in range(len(source) if source else 0):
                assert source is not None
                item = source.clips[index] if source.clips is not None else source.file(index)
                folder, base, size = _identity(item)
                writer.writerow((name, source.label_name(index), size, folder, base))


def parts_of(model: Path, items: Sequence[Path | Section | Member | np.ndarray]) -> list[str | None]:
    """Returns the part of each video in the training of a model: `TRAIN`, `HELD_OUT`, or None if in neither.

    Args:
        model: Folder of the model, or a file in such a folder, as a checkpoint or an exported file; without a list
            there, all are None.
        items: Videos, or clips in memory.

    Raises:
        ValueError: If the list in a folder cannot be read; one beside a file may be of something else.
    """
    listed = (model.parent if model.is_file() else model) / VIDEOS
    if not listed.is_file():
        return [None] * len(items)
    known: dict[_Key, dict[str, str]] = {}
    spans: dict[_Key, list[_Span]] = {}
    with listed.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            if model.is_file():
                return [None] * len(items)
            raise ValueError(f"{listed}: expected the columns {','.join(_COLUMNS)}")
        for row in reader:
            # a file for training counts as that, wherever else it is
            folder, base = composed(row["folder"]), composed(row["file"])
            size = int(row["bytes"] or 0)
            folders = known.setdefault((base, size), {})
            if folders.get(folder) != TRAIN:
                folders[folder] = row["part"]
            video, start, end = _span(base)
            spans.setdefault((video, size), []).append((folder, row["part"], start, end))
    return [_part(known, spans, *_identity(item)) for item in items]


def _part(
    known: Mapping[_Key, dict[str, str]], spans: Mapping[_Key, list[_Span]], folder: str, base: str, size: int
) -> str | None:
    """Returns the part of a video by its own name, or `TRAIN` if it shares a moment with something of that part."""
    folder, base = composed(folder), composed(base)
    part = _of_folder(known.get((base, size), {}), folder)
    video, start, end = _span(base)
    shared = {f: p for f, p, first, last in sorted(spans.get((video, size), [])) if first < end and start < last}
    return TRAIN if _of_folder(shared, folder) == TRAIN else part  # in a folder, TRAIN is sorted after HELD_OUT


def _of_folder(parts: Mapping[str, str], folder: str) -> str | None:
    """Returns the part of files of the same name and size, by their folders; if these differ, that of this folder."""
    if len(set(parts.values())) == 1:
        return next(iter(parts.values()))
    return parts.get(folder)


def _span(base: str) -> tuple[str, float, float]:
    """Returns the video of a name in the list, and from when to when a section of it lasts, in its unit."""
    found = re.fullmatch(r"(.+) (\d[\d.e+-]*) ([\d.e+-]*)", base)
    if found is None:
        return base, 0.0, math.inf
    return found[1], float(found[2]), float(found[3] or "inf")


def _identity(item: Path | Member | Section | str | np.ndarray) -> _Identity:
    """Returns folder, name and size of a file, 0 of a folder or a broken link; of a clip in memory a checksum."""
    if isinstance(item, np.ndarray):
        return "", "clip", zlib.crc32(np.ascontiguousarray(item).data)
    if isinstance(item, Member):
        place = Path(item.origin) if item.origin else item.tar / Path(item.name).name
        return place.parent.name, place.name, item.size
    if isinstance(item, Section):
        folder, base, size = _identity(Path(item.video))
        return folder, f"{base} {item.start:.10g} {'' if item.end is None else f'{item.end:.10g}'}", size
    path = Path(item)
    # a file that is not there is found broken when it is read
    return path.parent.name, path.name, path.stat().st_size if path.is_file() else 0
