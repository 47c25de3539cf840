"""Reads the videos and classes of a data set, in every common layout, into one form.

folder     one folder a class, of video files or frame folders; `train`, `val`, `test` folders above them or none
csv        a path and a label a line, separated by space, comma or tab; labels are class numbers or names
frames     a path, a number of frames and a label a line, as in lists of mmaction2
kinetics   `label,youtube_id,time_start,time_end,split`, as published; files `<id>_<start:06d>_<end:06d>.mp4`
ssv1       `id;label`, as published; frame folders `<id>/00001.jpg`
ssv2       `something-something-v2-validation.json`, as published; files `<id>.webm`

videos = read_list("kinetics/val.csv", root="kinetics/val")
videos.paths[0], videos.classes[videos.labels[0]]
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reference.data.layouts import (
    LISTS,
    Entry,
    Folders,
    check_no_lists,
    check_no_split,
    class_key,
    from_file,
    from_folders,
    layout_of,
    list_in,
    names_beside,
    numbered_names,
    numbers_beside,
    short,
)
from vov3d.labels import LABEL_SETS, load_labels, read_label_names

__all__ = ["LAYOUTS", "VideoList", "described", "first_label", "read_list", "read_names"]

LAYOUTS = ("folder", "csv", "frames", "kinetics", "ssv1", "ssv2")
"""Layouts that `read_list` knows."""

_MOST_CLASSES = 100_000  # a larger number is no class


@dataclass(frozen=True)
class VideoList:
    """The videos of a data set.

    Attributes:
        paths: A video file, or a folder of frames, each.
        labels: The index in `classes` of each.
        classes: Class names in index order.
        name: Its name in results.
        missing: Videos that the list names and that are not there; none unless a partial set was allowed.
        origin: The file or folder that was read, and its layout.
        notes: Notes about the reading: the source of class names, files that were left out.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    name: str
    missing: tuple[Path, ...] = ()
    origin: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)


def read_list(
    source: str | Path,
    root: str | Path | None = None,
    layout: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
    split: str | None = None,
    partial: bool = False,
    labels_from: int | None = None,
) -> VideoList:
    """Reads which videos a data set holds. No video is opened.

    Ambiguous data is refused; the error names the argument that decides.

    Args:
        source: A list file, a folder of class folders, or the folder of a data set with its lists.
        root: Where the videos of a list lie; looked for beside the list if None.
        layout: One of `LAYOUTS`; recognised by the files if None.
        classes: Class names in index order: the names, such as a model's, a file of them, or `"k400"`, `"ssv1"`,
            `"ssv2"`. If None, published names are in the order of the published weights, others sorted; class folders
            and the names in a CSV count as published where they are all of the set. A file of lines such as
            `1 ApplyEyeMakeup`, given or beside the list, says which number is which class.
        split: `"train"`, `"val"` or `"test"`, where the source has several.
        partial: Leaves out videos that are not there, with a warning that counts them, in place of an error.
        labels_from: The number of the first class in a list of numbers, 0 or 1. If None, 0 where the list has a 0.

    Returns:
        The list, in the order of the source; class folders in the order of their names.

    Raises:
        FileNotFoundError: If the source is not there, or videos are missing.
        ValueError: If the source cannot be read as its layout, or is ambiguous; names the file, the line,
            what is there and what was expected.
    """
    source = Path(source)
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is not known; use one of {', '.join(LAYOUTS)}")
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder; give a list of videos or a folder of classes")
    listed = None if layout == "folder" else list_in(source, split)
    numbers: dict[int, str] = {}
    if listed is None:
        if layout is None and source.is_dir():
            check_no_lists(source, classes)
        layout, (known, entries, notes) = "folder", _of_folders(source, root, layout, split)
    else:
        asked, layout = layout, layout or layout_of(listed)
        if listed == source and layout != "kinetics":
            check_no_split(source, split)
        known = names_beside(listed, layout)
        doubtful = asked is None and layout == "csv"  # recognised only by not being another layout
        entries, read = from_file(listed, None if doubtful else layout, root, split if listed == source else None)
        numbers, told = _numbers(listed, classes, entries)
        notes = (*read, *told)
    if not entries:
        raise ValueError(f"{listed or source}: names no video; expected one or more")
    entries = _from_zero(listed or source, entries, numbers, labels_from)
    names = _given_names(classes) if classes is not None else tuple(numbers.values())
    names = names or _own_names(source, layout, entries, known)
    title = source.stem if listed == source else "-".join(filter(None, (source.resolve().name, split)))
    return _present(
        entries, _labels(source, entries, names), names, title, partial, f"{listed or source}, {layout}", tuple(notes)
    )


def described(videos: VideoList) -> tuple[str, ...]:
    """Describes a list in lines: its source, numbers of videos and classes, the first and the last class."""
    counts = Counter(videos.labels)
    fewest, most = min(counts.values()), max(counts.values())
    each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    last = len(videos.classes) - 1
    lines = [
        f"{videos.origin}: {len(videos)} videos of {len(counts)} classes, {each} of each; "
        f"0 is {short(videos.classes[0])!r}" + (f", {last} is {short(videos.classes[last])!r}" if last else "")
    ]
    if empty := [name for index, name in enumerate(videos.classes) if index not in counts]:
        lines.append(f"{len(empty)} of {len(videos.classes)} classes have no video, as {short(empty[0])!r}")
    return (*lines, *videos.notes)


def first_label(source: object, labels: Sequence[int], labels_from: int | None) -> int:
    """Returns the number of the first class of labels that are numbers.

    Raises:
        ValueError: If there is no 0 among them, and nobody says whether they count from 1; or a label is below the
            first one.
    """
    low, high = min(labels), max(labels)
    if labels_from is None and low > 0:
        raise ValueError(
            f"{source}: its labels go from {low} to {high}, and none is 0: do they count from 1? Say labels_from=1, or "
            f"labels_from=0 if class 0 merely has no video here; a file classInd.txt beside the list, of lines such as "
            f"'{low} name', says so too"
        )
    first = labels_from or 0
    if low < first:
        raise ValueError(f"{source}: found label {low}, expected labels from {first} on (labels_from={first})")
    return first


def read_names(file: str | Path) -> list[str]:
    """Class names of a file in index order, one a line or JSON; numbers before all of them are left out."""
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"classes {str(file)!r}: give a file of names, or one of {', '.join(LABEL_SETS)}")
    return list(_numbered(path).values()) or read_label_names(path)


def _numbered(path: Path) -> dict[int, str]:
    return {} if path.read_bytes().lstrip()[:1] in (b"[", b"{") else numbered_names(path)


def _numbers(listed: Path, classes: object, entries: list[Entry]) -> tuple[dict[int, str], list[str]]:
    """Returns names by number for a list of numbers: of the file given as `classes`, or of one beside the list."""
    if not entries or not all(entry.label.isdecimal() for entry in entries):
        return {}, []
    if isinstance(classes, (str, Path)) and Path(classes).is_file():
        numbers, file = _numbered(Path(classes)), Path(classes)
    else:
        file, numbers = numbers_beside(listed) or (listed, {})
    told = f"{file}: {min(numbers)} is {short(numbers[min(numbers)])!r}" if numbers else ""
    return numbers, [f"numbers are classes as in {told}"] if numbers else []


def _from_zero(source: Path, entries: list[Entry], numbers: dict[int, str], labels_from: int | None) -> list[Entry]:
    """Returns entries whose numeric labels count from 0, or are names where the names of numbers are known."""
    decimal = [entry.label.isdecimal() for entry in entries]
    for entry in entries:
        if entry.label.isdecimal() and (len(entry.label) > 9 or int(entry.label) >= _MOST_CLASSES):
            raise ValueError(
                f"{entry.where}: found label {short(entry.label)}, expected class numbers below {_MOST_CLASSES}"
            )
    if not all(decimal) or numbers:
        if labels_from is not None:
            what = "the file of class names has their numbers" if numbers else "labels are names"
            raise ValueError(f"{source}: labels_from={labels_from} has no effect, {what}; leave it out")
        for entry in entries if numbers else []:
            if int(entry.label) not in numbers:
                raise ValueError(
                    f"{entry.where}: found class {entry.label}, expected one from {min(numbers)} to {max(numbers)}"
                )
        return [e._replace(label=numbers[int(e.label)]) for e in entries] if numbers else entries
    first = first_label(source, [int(entry.label) for entry in entries], labels_from)
    return [e._replace(label=str(int(e.label) - first)) for e in entries] if first else entries


def _of_folders(source: Path, root: object, layout: str | None, split: str | None) -> Folders:
    """Returns class names and videos of class folders."""
    if layout not in (None, "folder"):
        expected = ", ".join(pattern.format(split or "val") for pattern in LISTS)
        raise ValueError(f"{source}: holds no list of layout {layout}; expected {expected}, or give the file itself")
    if not source.is_dir():
        raise ValueError(f"{source}: is a file; layout 'folder' is one folder a class")
    if root is not None:
        raise ValueError(f"{source}: root={str(root)!r} has no effect on class folders; it is for lists")
    return from_folders(source, split)


def _given_names(classes: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Returns the class names that a caller gives."""
    if isinstance(classes, str) and classes in LABEL_SETS:
        return load_labels(classes)
    return tuple(read_names(classes) if isinstance(classes, (str, Path)) else classes)


def _own_names(source: Path, layout: str, entries: list[Entry], known: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the class names of a list, in index order, where the caller gives none."""
    used = {class_key(entry.label): entry.label for entry in entries}
    numbered = {label.isdecimal() for label in used}
    if layout in ("csv", "frames") and len(numbered) > 1:
        odd = next(entry for entry in entries if entry.label.isdecimal() != entries[0].label.isdecimal())
        raise ValueError(
            f"{odd.where}: found class {short(odd.label)!r} after {short(entries[0].label)!r}, expected all names or "
            "all numbers; give the classes that this list was made for"
        )
    if layout in ("csv", "frames") and numbered == {True}:
        return tuple(f"class {index}" for index in range(max(map(int, used)) + 1))
    published = layout in ("kinetics", "ssv1", "ssv2")  # so that a partial set has the numbers of the whole
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
    """Returns the class number of each entry."""
    by_key: dict[str, int] = {}
    for index, name in enumerate(names):
        if (same := by_key.setdefault(class_key(name), index)) != index:
            raise ValueError(f"{source}: classes {names[same]!r} and {name!r} cannot be told apart; rename one")
    return [_label(entry, by_key, names) for entry in entries]


def _label(entry: Entry, by_key: dict[str, int], names: Sequence[str]) -> int:
    """Returns the class number of an entry: that of its name, else the number that it is."""
    index = by_key.get(class_key(entry.label))
    if index is None and entry.label.isdecimal() and int(entry.label) < len(names):
        return int(entry.label)
    if index is None:
        raise ValueError(
            f"{entry.where}: found class {short(entry.label)!r}, expected one of {len(names)} names ({names[0]!r}, ...)"
            f" or a number from 0 to {len(names) - 1}; give the classes that this list was made for"
        )
    return index


def _present(
    entries: list[Entry],
    labels: list[int],
    names: tuple[str, ...],
    title: str,
    partial: bool,
    origin: str,
    notes: tuple[str, ...],
) -> VideoList:
    """Returns the list of the videos that are there."""
    seen: dict[Path, int] = {}
    for entry, label in zip(entries, labels, strict=True):
        if (other := seen.setdefault(entry.path, label)) != label:
            raise ValueError(f"{entry.where}: {entry.path} is {names[label]!r} here and {names[other]!r} above")
    if twice := len(entries) - len(seen):
        notes = (*notes, f"{twice} lines name a video again, and count again")
    missing = tuple(entry.path for entry in entries if not entry.there)
    if missing:
        lost = f"{len(missing)} of {len(entries)} videos are not there, first {', '.join(map(str, missing[:3]))}"
        if not partial or len(missing) == len(entries):
            raise FileNotFoundError(f"{title}: {lost}; say where they are (root), or leave them out (partial)")
        warnings.warn(f"{title}: {lost}; they are left out", RuntimeWarning, stacklevel=3)
    kept = [(entry.path, label) for entry, label in zip(entries, labels, strict=True) if entry.there]
    paths, numbers = tuple(path for path, _ in kept), tuple(label for _, label in kept)
    return VideoList(paths, numbers, names, title, missing, origin, notes)
