"""Which videos a data set holds, and which class each is of: every layout that users have, read into one form.

folder     one folder a class, of video files or frame folders; `train`, `val`, `test` folders above them or none
csv        a path and a label a line, apart by space, comma or tab; labels are class numbers or names
kinetics   `label,youtube_id,time_start,time_end,split`, as published; files `<id>_<start:06d>_<end:06d>.mp4`
ssv1       `id;label`, as published; frame folders `<id>/00001.jpg`
ssv2       `something-something-v2-validation.json`, as published; files `<id>.webm`

videos = read_list("kinetics/val.csv", root="kinetics/val")
videos.paths[0], videos.classes[videos.labels[0]]
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from video_layouts import (
    LISTS,
    Entry,
    check_no_split,
    class_key,
    from_file,
    from_folders,
    layout_of,
    list_in,
    names_beside,
)

from vov3d.labels import LABEL_SETS, load_labels, read_label_names

__all__ = ["LAYOUTS", "VideoList", "read_list"]

LAYOUTS = ("folder", "csv", "kinetics", "ssv1", "ssv2")
"""Layouts that `read_list` knows."""

_MOST_CLASSES = 100_000  # a larger number is no class


@dataclass(frozen=True)
class VideoList:
    """The videos of a data set.

    Attributes:
        paths: A video file, or a folder of frames, each.
        labels: The index in `classes` of each.
        classes: Class names in index order.
        name: What results call it.
        missing: Videos that the list names and that are not there; none unless a partial set was allowed.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    name: str
    missing: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)


def read_list(
    source: str | Path,
    root: str | Path | None = None,
    layout: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
    split: str | None = None,
    partial: bool = False,
) -> VideoList:
    """Reads which videos a data set holds. No video is opened.

    Args:
        source: A list file, a folder of class folders, or the folder of a data set with its lists.
        root: Where the videos of a list lie; looked for beside the list if None.
        layout: One of `LAYOUTS`; told by what is there if None.
        classes: Class names in index order: the names, such as a model's, a file of them, or `"k400"`, `"ssv1"`,
            `"ssv2"`. If None, published names are in the order of the published weights, others sorted; class folders
            and the names in a CSV count as published where they are all of the set.
        split: `"train"`, `"val"` or `"test"`, where the source has several.
        partial: Leaves out videos that are not there, with a warning that counts them, in place of an error.

    Returns:
        The list, in the order of the source; class folders in the order of their names.

    Raises:
        FileNotFoundError: If the source is not there, or videos are missing.
        ValueError: If the source cannot be read as its layout; names the file, the line, what is there and what was
            expected.
    """
    source = Path(source)
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is not known; use one of {', '.join(LAYOUTS)}")
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder; give a list of videos or a folder of classes")
    listed = None if layout == "folder" else list_in(source, split)
    if listed is None:
        layout, (known, entries) = "folder", _of_folders(source, root, layout, split)
    else:
        layout = layout or layout_of(listed)
        if listed == source and layout != "kinetics":
            check_no_split(source, split)
        known = names_beside(listed, layout)
        entries = from_file(listed, layout, root, split if listed == source else None)
    if not entries:
        raise ValueError(f"{listed or source}: names no video; expected one or more")
    names = _given_names(classes) if classes is not None else _own_names(source, layout, entries, known)
    title = source.stem if listed == source else "-".join(filter(None, (source.resolve().name, split)))
    return _present(entries, _labels(source, entries, names), names, title, partial)


def _of_folders(
    source: Path, root: object, layout: str | None, split: str | None
) -> tuple[tuple[str, ...], list[Entry]]:
    """Class names and videos of class folders."""
    if layout not in (None, "folder"):
        expected = ", ".join(pattern.format(split or "val") for pattern in LISTS)
        raise ValueError(f"{source}: holds no list of layout {layout}; expected {expected}, or give the file itself")
    if not source.is_dir():
        raise ValueError(f"{source}: is a file; layout 'folder' is one folder a class")
    if root is not None:
        raise ValueError(f"{source}: root={str(root)!r} has no effect on class folders; it is for lists")
    return from_folders(source, split)


def _given_names(classes: str | Path | Sequence[str]) -> tuple[str, ...]:
    """The class names that a caller gives."""
    if isinstance(classes, str) and classes in LABEL_SETS:
        return load_labels(classes)
    if isinstance(classes, (str, Path)):
        if not Path(classes).is_file():
            raise ValueError(f"classes {str(classes)!r}: give a file of names, or one of {', '.join(LABEL_SETS)}")
        return tuple(read_label_names(classes))
    return tuple(classes)


def _own_names(source: Path, layout: str, entries: list[Entry], known: tuple[str, ...]) -> tuple[str, ...]:
    """The class names of a list, in index order, where the caller gives none."""
    used = {class_key(entry.label): entry.label for entry in entries}
    numbered = {label.isdecimal() for label in used}
    if layout == "csv" and len(numbered) > 1:
        odd = next(entry for entry in entries if entry.label.isdecimal() != entries[0].label.isdecimal())
        raise ValueError(
            f"{odd.where}: found class {odd.label!r} after {entries[0].label!r}, expected all names or all numbers; "
            "give the classes that this list was made for"
        )
    if layout == "csv" and numbered == {True}:
        highest = max(map(int, used))
        if highest >= _MOST_CLASSES:
            raise ValueError(f"{source}: found label {highest}, expected class numbers below {_MOST_CLASSES}")
        return tuple(f"class {index}" for index in range(highest + 1))
    published = layout in ("kinetics", "ssv1", "ssv2")  # there a partial set has the numbers of the whole
    keys = used.keys() | {class_key(name) for name in known}
    candidates = [layout] if layout in LABEL_SETS else ["k400"] if layout == "kinetics" else list(LABEL_SETS)
    sets = {name: {class_key(label) for label in load_labels(name)} for name in candidates}
    fits = [name for name, everything in sets.items() if keys == everything or (published and keys <= everything)]
    if len(fits) > 1:
        raise ValueError(
            f"{source}: its class names are those of {' and of '.join(fits)}, which number them differently; say "
            f"which with classes={' or '.join(map(repr, fits))}"
        )
    return load_labels(fits[0]) if fits else known or tuple(sorted(used.values()))


def _labels(source: Path, entries: list[Entry], names: Sequence[str]) -> list[int]:
    """The class number of each entry."""
    by_key: dict[str, int] = {}
    for index, name in enumerate(names):
        if (same := by_key.setdefault(class_key(name), index)) != index:
            raise ValueError(f"{source}: classes {names[same]!r} and {name!r} cannot be told apart; rename one")
    return [_label(entry, by_key, names) for entry in entries]


def _label(entry: Entry, by_key: dict[str, int], names: Sequence[str]) -> int:
    """The class number of an entry: that of its name, else the number that it is."""
    index = by_key.get(class_key(entry.label))
    if index is None and entry.label.isdecimal() and int(entry.label) < len(names):
        return int(entry.label)
    if index is None:
        raise ValueError(
            f"{entry.where}: found class {entry.label!r}, expected one of {len(names)} names ({names[0]!r}, ...) or a "
            f"number from 0 to {len(names) - 1}; give the classes that this list was made for"
        )
    return index


def _present(entries: list[Entry], labels: list[int], names: tuple[str, ...], title: str, partial: bool) -> VideoList:
    """The list of the videos that are there."""
    seen: dict[Path, int] = {}
    for entry, label in zip(entries, labels, strict=True):
        if (other := seen.setdefault(entry.path, label)) != label:
            raise ValueError(f"{entry.where}: {entry.path} is {names[label]!r} here and {names[other]!r} above")
    missing = tuple(entry.path for entry in entries if not entry.there)
    if missing:
        lost = f"{len(missing)} of {len(entries)} videos are not there, first {', '.join(map(str, missing[:3]))}"
        if not partial or len(missing) == len(entries):
            raise FileNotFoundError(f"{title}: {lost}; say where they are (root), or leave them out (partial)")
        warnings.warn(f"{title}: {lost}; they are left out", RuntimeWarning, stacklevel=3)
    kept = [(entry.path, label) for entry, label in zip(entries, labels, strict=True) if entry.there]
    return VideoList(tuple(path for path, _ in kept), tuple(label for _, label in kept), names, title, missing)
