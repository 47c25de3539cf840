"""Holds out whole videos for validation, however many files they are in, and no file on both sides."""

import hashlib
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from reference.data.layouts import SplitError
from reference.data.sources import Member, Source, read_source
from reference.data.targets import strata_of
from vov3d.video import Section

_Item = Path | Member | Section | np.ndarray | None

ALONE = "none"
_LOOKED_AT = 4096  # bytes compared at each of three places in files of one size
# Names of clips that were cut out of one video, up to the part in which they differ.
_GROUPS = {
    "UCF101's groups, as g01": re.compile(r"(.*_g\d+)_c\d+"),
    "HMDB51's videos": re.compile(r"(.*)_[a-z]_(?:nm|cm)_np\d_[a-z]{2}_(?:goo|med|bad)_\d+"),
    "time ranges of one video": re.compile(r"(.+)_\d{4,6}_\d{4,6}"),
    "numbered clips of one video": re.compile(
        r"(.+?)[-_. ](?:clip|part|scene|segment|seg|shot)[-_. ]?\d+", re.IGNORECASE
    ),
}


def read_sources(data: SimpleNamespace, shapes: SimpleNamespace, task: str = "single") -> tuple[Source, Source | None]:
    """Returns the training data of a recipe and, where there are any, the videos for validation.

    Args:
        data: The section of the recipe.
        shapes: The section of the recipe.
        task: What the run is for, one of `vov3d.weights.tasks.TASKS`.

    Raises:
        ValueError: If the data is not there, has no videos, names other classes for validation, or has videos on both
            sides.
    """
    if not data.path:
        raise ValueError("no data was named: give --data FOLDER, a list, shards, an .npz file, or shapes")
    train, has_parts = read_source(data.path, "train", data, shapes, data.classes or None, task)
    val = None
    if data.val:
        val, _ = read_source(data.val, "val", data, shapes, train.classes, task, train.heads)
    elif has_parts:
        with suppress(SplitError):  # there is a part for training and one for tests
            val, _ = read_source(data.path, "val", data, shapes, train.classes, task, train.heads)
    if val is None:
        return held_out(train, data.val_share, data.group) if data.val_share else (train, None)
    if data.group:
        raise ValueError(f"data.group={data.group!r} has no effect: {val.name} is for validation; leave it out")
    if val.classes != train.classes:
        raise ValueError(f"{val.name} has other classes than {train.name}: {val.classes} and {train.classes}")
    if data.val == data.path:  # which nobody gives by mistake
        note = "validation uses the training videos, as data.val says: its accuracy does not hold for other videos"
        return train, replace(val, notes=(*val.notes, note))
    if not data.overlap:
        check_apart(train, val)
    return train, replace(val, notes=(*val.notes, *_shared_groups(train, val)))


def _shared_groups(train: Source, val: Source) -> list[str]:
    """Returns a note where clips for validation were cut out of videos that are trained on, as their names tell."""
    if train.files is None or val.files is None or (named := _by_name([*train.files, *val.files], "")) is None:
        return []
    what, keys = named
    learned = set(keys[: len(train)]) - {None}
    shared = [i for i, key in enumerate(keys[len(train) :]) if key in learned]
    told = f"{len(shared)} of {len(val)} videos for validation share a group with videos for training ({what})"
    return [f"{told}, as {val.file(shared[0])}: the accuracy is too high for new videos"] if shared else []


def held_out(source: Source, share: float, group: str = "") -> tuple[Source, Source]:
    """Holds out a share of each class, at least one video; always the same ones.

    Files of one group, and files of the same content, stay on one side.

    Args:
        source: The data to split.
        share: Of each class, between 0 and 1.
        group: A regular expression: names whose match (or first group) is the same belong together. Known namings if
            empty, each file alone if `"none"`.

    Returns:
        The training part, and the part held out.

    Raises:
        ValueError: If the share does not lie between 0 and 1, or the expression cannot be read.
    """
    if not 0 < share < 1:
        raise ValueError(f"data.val_share is {share}: a share lies between 0 and 1")
    groups, notes = groups_of(source, group)
    rng, out = np.random.default_rng(0), np.zeros(len(source), bool)
    whole = []
    strata = strata_of(source.labels, source.classes)
    several = strata is not source.labels
    for label in np.unique(strata) if several else range(len(source.classes)):
        own = np.flatnonzero(strata == label)
        members: dict[int, list[int]] = defaultdict(list)
        for index in rng.permutation(own):
            members[groups[index]].append(index)
        wanted = max(round(share * len(own)), 1)
        if len(members) == 1 and len(own) > 1:
            whole.append("videos of one kind" if several else source.classes[label])
        taken = 0
        for indices in list(members.values())[:-1]:  # one stays for training
            if taken >= wanted:
                break
            out[indices] = True
            taken += len(indices)
    # a group that spans classes follows its first member
    side = {g: out[i] for i, g in reversed(list(enumerate(groups)))}
    out = np.array([side[g] for g in groups], bool)
    if whole:
        notes.append(f"nothing is held out of {len(whole)} classes that are one group each, as {whole[0]!r}")
    if not out.any():
        raise ValueError(
            f"{source.name}: no class has videos to hold out ({'; '.join(notes) or 'one each'}); give --data.val"
        )
    val = replace(source.subset(np.flatnonzero(out)), name=f"{source.name} (held out)", notes=())
    return replace(source.subset(np.flatnonzero(~out)), notes=(*source.notes, *notes)), val


def groups_of(source: Source, group: str = "") -> tuple[list[int], list[str]]:
    """Returns the number of the group of each video, and notes about the groups.

    Raises:
        ValueError: If the expression cannot be read.
    """
    keys: list[Any] = list(range(len(source)))
    notes = []
    if source.files is not None and group != ALONE:
        if not group and any(isinstance(file, Section) for file in source.files):
            keys = [os.path.realpath(f.video) if isinstance(f, Section) else i for i, f in enumerate(source.files)]
            notes.append(f"parts of one video are on one side of the split: {len(set(keys))} videos")
            return _numbered(keys), notes
        named = _by_name(source.files, group)
        if named is not None:
            what, found = named
            keys = [key if key is not None else index for index, key in enumerate(found)]
            notes.append(
                f"{what}: {sum(key is not None for key in found)} files are {len(set(found) - {None})} groups, each "
                f"on one side of the split (data.group={ALONE!r} takes each file alone)"
            )
    leader = {key: key for key in keys}

    def find(key: Any) -> Any:
        while leader[key] != key:
            key = leader[key]
        return key

    copies, first = 0, dict[str, Any]()
    for key, same in zip(keys, contents(source), strict=True):
        if same is not None and same in first:
            copies += 1
            leader[find(key)] = find(first[same])
        elif same is not None:
            first[same] = key
    if copies:
        notes.append(f"{copies} files are copies of others; copies stay on one side of the split")
    return _numbered([find(key) for key in keys]), notes


def _numbered(keys: Sequence[Any]) -> list[int]:
    numbers: dict[Any, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def _by_name(files: Sequence[Path | Member | Section], group: str) -> tuple[str, list[str | None]] | None:
    """Returns the group of each file by its name, None for names without a group."""
    stems = [_stem(file) for file in files]
    if group:
        try:
            pattern = re.compile(group)
        except re.error as error:
            raise ValueError(f"data.group is {group!r}: is no regular expression ({error})") from None
        found = [match and (match[1] if pattern.groups else match[0]) for match in map(pattern.search, stems)]
        if not any(found):
            raise ValueError(f"data.group is {group!r}: matches no name of a file, such as {stems[0]!r}")
        return f"data.group {group!r}", found
    for what, pattern in _GROUPS.items():
        keys = [match and f"{match[1]}" for match in map(pattern.fullmatch, stems)]
        if sum(key is not None for key in keys) > len(stems) / 2 and len(set(keys)) < len(keys):
            return what, keys
    return None


def _stem(file: Path | Member | Section) -> str:
    if isinstance(file, Section):
        return Path(file.video).stem
    return Path(file.origin or file.name).stem if isinstance(file, Member) else file.stem


# --- the same video twice --------------------------------------------------------------------------------------------


def contents(*sources: Source) -> list[str | None]:
    """Returns a key for each file, equal for equal files of all sources; None for files of a unique size.

    Files are equal that have the same size and the same bytes at their beginning, middle and end, clips in memory that
    have the same pixels. Clips on the disk are generated ones, no two of which are equal.
    """
    files: list[_Item] = []
    for source in sources:
        clips = None if isinstance(source.clips, np.memmap) else source.clips
        files.extend(source.files or ([None] * len(source) if clips is None else clips))
    sizes = [_size(file) for file in files]
    often = Counter(sizes)
    return [
        _content(file, size) if file is not None and size and often[size] > 1 else None
        for file, size in zip(files, sizes, strict=True)
    ]


def _size(file: _Item) -> int | str:
    """Returns the bytes of a file or clip, or the place of a folder of frames; 0 for what cannot be compared."""
    if isinstance(file, np.ndarray):
        return file.nbytes
    if isinstance(file, Member):
        return file.size
    if isinstance(file, Section):
        return f"{os.path.realpath(file.video)} {file.start} {file.end}"  # parts of one video are different videos
    if file is None or not file.exists():
        return 0
    return str(file.resolve()) if file.is_dir() else file.stat().st_size


def _content(file: Path | Member | Section | np.ndarray, size: int | str) -> str | None:
    if isinstance(size, str) or isinstance(file, Section):
        return str(size)
    if isinstance(file, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(file).data).hexdigest()
    path, begin = (file.tar, file.offset) if isinstance(file, Member) else (file, 0)
    digest = hashlib.sha256(str(size).encode())
    try:
        with path.open("rb") as stream:
            for place in (0, max(size - _LOOKED_AT, 0) // 2, max(size - _LOOKED_AT, 0)):
                stream.seek(begin + place)
                digest.update(stream.read(min(_LOOKED_AT, size)))
    except OSError:  # reading the video reports it
        return None
    return digest.hexdigest()


def check_apart(train: Source, val: Source) -> None:
    """Raises ValueError if a video, or a stretch of one, is in both parts."""
    found = contents(train, val)
    places = {key: i for i, key in enumerate(found[: len(train)])}
    copies = [(places[key], i) for i, key in enumerate(found[len(train) :]) if key is not None and key in places]
    if both := copies or _overlapping(train, val):
        one, other = train.file(both[0][0]), val.file(both[0][1])
        shared = "is" if copies else "overlaps"
        raise ValueError(
            f"{len(both)} of {len(val)} videos for validation are among those for training, as {other}"
            + (f", which {shared} {one}" if str(one) != str(other) else "")
            + ": take them out of one list, or allow it with data.overlap=true"
        )


def _overlapping(train: Source, val: Source) -> list[tuple[int, int]]:
    """Returns the videos for validation of which a stretch is in training, with the first such video there."""
    if not any(isinstance(file, Section) for source in (train, val) for file in source.files or ()):
        return []
    spans: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for index, file in enumerate(train.files or ()):
        spans[_video_of(file)].append((*_span_of(file), index))
    both = []
    for number, file in enumerate(val.files or ()):
        begin, end = _span_of(file)
        shared = (index for start, stop, index in spans.get(_video_of(file), ()) if start < end and begin < stop)
        if (first := next(shared, None)) is not None:
            both.append((first, number))
    return both


def _video_of(file: Path | Member | Section) -> str:
    """Returns the place of a video, whichever part of it is meant, and the unit of the part."""
    if not isinstance(file, Section):
        return str(file) if isinstance(file, Member) else os.path.realpath(file)
    return f"{os.path.realpath(file.video)}{' in frames' if file.in_frames else ''}"


def _span_of(file: Path | Member | Section) -> tuple[float, float]:
    if not isinstance(file, Section):
        return 0.0, math.inf
    return file.start, math.inf if file.end is None else file.end
