"""Reads the videos and classes of a data set, in every common layout, into one form.

folder     one folder a class, of video files or frame folders; `train`, `val`, `test` folders above them or none
csv        a path and a label a line, separated by space, comma or tab; labels are class numbers or names
frames     a path, a number of frames and a label a line, as in lists of mmaction2
sections   `path,start,end,label`, which `prepare` writes: parts of videos, of one or many labels
classpath  `CLASS/NAME` a line, where the folder is the class

As published, with their files: kinetics, ssv1, ssv2, ucf101, hmdb51, jester, diving48, epic100, charades
(charades-segments: each annotated action by itself), ava, moments.

videos = read_list("kinetics/val.csv", root="kinetics/val")
videos.paths[0], videos.classes[videos.labels[0]]
"""

import csv
import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reference.data.annotations import (
    LABEL,
    PAIR,
    PUBLISHED,
    Annotations,
    Classes,
    moments_names,
    names_of_something,
    numbered_names,
    numbers_beside,
    published_lists,
    rows_of_ids,
    rows_of_kinetics,
    rows_of_templates,
)
from reference.data.finding import Entry, Row
from reference.data.layouts import (
    LISTS,
    Folders,
    check_no_lists,
    check_no_split,
    chosen_split,
    class_key,
    from_folders,
    from_paths,
    holds_class_folders,
    layout_of,
    list_in,
    roots_of,
    short,
)
from reference.data.placing import place
from reference.data.prepared import read_prepared
from reference.data.text import csv_reader, read_lines
from vov3d.labels import LABEL_SETS, load_labels, read_label_names
from vov3d.video import Section

__all__ = ["LAYOUTS", "VideoList", "described", "first_label", "is_published", "label_name", "read_list", "read_names"]

LAYOUTS = ("folder", "csv", "frames", "sections", "classpath", *PUBLISHED)
"""Layouts that `read_list` knows."""

_MOST_CLASSES = 100_000  # a larger number is no class
_OF_IDS = ("kinetics", "ssv1", "ssv2", "sections")  # layouts of one list, told by its content


@dataclass(frozen=True)
class VideoList:
    """The videos of a data set.

    Attributes:
        paths: A video file, or a folder of frames, each.
        labels: The index in `classes` of each. Of many labels, the indices of each; of verbs and nouns, both numbers.
            Empty where labels are not known.
        classes: Class names in index order; of verbs and nouns, both lists of names.
        name: Its name in results.
        missing: Videos that the list names and that are not there; none unless a partial set was allowed.
        origin: The file or folder that was read, and its layout.
        notes: Notes about the reading: the source of class names, files that were left out.
        sections: The part of its file that each is, None for all of it; empty where all are whole.
        kind: `"label"`, `"labels"` (any number of them), or `"verb and noun"`.
        rows: The number that the list names, those that are not there among them.
    """

    paths: tuple[Path, ...]
    labels: tuple[Any, ...]
    classes: Classes
    name: str
    missing: tuple[Path, ...] = ()
    origin: str = ""
    notes: tuple[str, ...] = ()
    sections: tuple[Section | None, ...] = ()
    kind: str = LABEL
    rows: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def sources(self) -> tuple[Path | Section, ...]:
        """The path or section of each, for `VideoReader`."""
        return tuple(part or path for part, path in zip(self.sections or (None,) * len(self), self.paths, strict=True))


def read_list(
    source: str | Path,
    root: str | Path | None = None,
    layout: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
    split: str | None = None,
    partial: bool = False,
    labels_from: int | None = None,
    labelled: bool = True,
    fold: int = 1,
    none_there: bool = False,
) -> VideoList:
    """Reads which videos a data set holds. No video is opened, but a few of Kinetics that are named by an id alone.

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
        labelled: Refuses the list of a test set, which has no labels; else its videos are read without.
        fold: Which division into training and test, of UCF101 and HMDB51, which have three.
        none_there: Takes a partial list for one, too, none of whose videos is there; of lists as published.

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
    if (annotations := _annotations(source, layout, split, fold)) is not None:
        asked = _Asked(source, root, layout, classes, split, partial, labels_from, labelled, none_there)
        return _annotated(*annotations, asked)
    listed = None if layout == "folder" else list_in(source, split)
    numbers: dict[int, str] = {}
    if listed is None:
        if layout is None and source.is_dir():
            check_no_lists(source, classes)
        layout, (known, entries, notes) = "folder", _of_folders(source, root, layout, split)
    else:
        doubtful = layout is None  # told by nothing but its not being another
        layout = layout or layout_of(listed)
        if listed == source:
            check_no_split(source, split)
        known, (entries, read) = (), from_paths(listed, None if doubtful else layout, root)
        numbers, told = _numbers(listed, classes, entries)
        notes = (*read, *told)
    if not entries:
        raise ValueError(f"{listed or source}: names no video; expected one or more")
    if listed is None and classes is None:
        classes = moments_names(source)
    names = _given_names(classes) if classes is not None else tuple(numbers.values())
    entries = _from_zero(listed or source, entries, numbers, labels_from, names or known)
    names = names or _own_names(source, layout, entries, known)
    title = source.stem if listed == source else "-".join(filter(None, (source.resolve().name, split)))
    return _present(
        entries, _labels(source, entries, names), names, title, partial, f"{listed or source}, {layout}", tuple(notes)
    )


# --- lists as published ----------------------------------------------------------------------------------------------


def is_published(source: str | Path, layout: str | None, split: str | None) -> bool:
    """Returns True for data that `read_list` reads as published: it says by itself what the labels of a video are.

    Args:
        source: As for `read_list`.
        layout: As for `read_list`.
        split: As for `read_list`; needed where the source holds several lists.

    Raises:
        ValueError: As `read_list`, for lists that cannot be read.
    """
    return Path(source).exists() and _annotations(Path(source), layout, split, 1) is not None


def _annotations(source: Path, layout: str | None, split: str | None, fold: int) -> tuple[Path, Annotations] | None:
    """Returns the list, or folder of lists, of a published data set, and its content; None for other data."""
    if layout in ("folder", "csv", "frames"):
        return None
    if (found := published_lists(source, layout, fold)) is not None:
        return source, found
    listed = list_in(source, split)
    if listed is None:
        return None
    told = layout or ("classpath" if _is_of_class_paths(listed) else layout_of(listed))
    if told == "classpath":
        rows = [row for row in map(_of_class_path, rows_of_lines(listed)) if row.name]
        return listed, Annotations("classpath", {"": rows}, ending="", strict=True)
    if told == "sections":
        return listed, read_prepared(listed)
    if told == "kinetics":
        return listed, Annotations("kinetics", rows_of_kinetics(listed), edition="400")
    if told in ("ssv1", "ssv2"):
        rows = rows_of_ids(listed) if told == "ssv1" else rows_of_templates(listed)
        ending = "" if told == "ssv1" else ".webm"
        return listed, Annotations(told, {"": rows}, names_of_something(listed, told), ending=ending)
    if layout is not None:
        raise ValueError(f"{source}: holds no list of layout {layout}; its files are named as published, see the docs")
    return None


def rows_of_lines(file: Path) -> list[Row]:
    """Returns a row per line, without a label."""
    return [Row(line.strip(), None, f"{file}:{number}") for number, line in enumerate(read_lines(file), 1)]


def _of_class_path(row: Row) -> Row:
    folder, _, base = row.name.rpartition("/")
    if row.name and not (folder and base):
        raise ValueError(f"{row.where}: found {short(row.name)!r}, expected CLASS/NAME")
    return row._replace(label=folder.rpartition("/")[2])


def _is_of_class_paths(file: Path) -> bool:
    """Returns True if all lines are `CLASS/NAME` of known classes."""
    if file.suffix.lower() == ".json":
        return False
    lines = [line.strip() for line in read_lines(file) if line.strip()]
    folders = {line.rpartition("/")[0].rpartition("/")[2] for line in lines}
    # what stands behind a space or comma is a label
    if "" in folders or not folders or any(not re.fullmatch(r"[^\s,;]+", line.rpartition("/")[2]) for line in lines):
        return False
    beside = numbers_beside(file)
    sets = [load_labels(name) for name in LABEL_SETS] + ([tuple(beside[1].values())] if beside else [])
    keys = {class_key(folder) for folder in folders}
    return any(keys <= {class_key(name) for name in names} for names in sets)


@dataclass(frozen=True)
class _Asked:
    """The arguments of `read_list`."""

    source: Path
    root: str | Path | None
    layout: str | None
    classes: Any
    split: str | None
    partial: bool
    labels_from: int | None
    labelled: bool
    none_there: bool


def _annotated(listed: Path, told: Annotations, asked: _Asked) -> VideoList:
    """Returns the videos of one split of lists as published."""
    source, labels = asked.source, list[Any]()
    names: Classes
    rows = {name: part for name, part in told.rows.items() if part}
    if not rows:
        raise ValueError(f"{listed}: names no video; expected one or more")
    if list(rows) == [""]:
        if listed == source:
            check_no_split(source, asked.split)
        chosen = ""
    else:
        chosen = chosen_split(source, asked.split, list(rows))
    if asked.labelled:
        _check_labels(told.layout, rows[chosen])
    if asked.labels_from is not None and (told.classes or told.layout != "jester"):
        raise ValueError(f"{listed}: labels_from={asked.labels_from} has no effect, labels are names; leave it out")
    entries, notes = place(told, chosen, roots_of(listed, asked.root))
    unseen = (
        source.is_dir() and asked.layout is None and asked.root is None and not any(entry.there for entry in entries)
    )
    if unseen and holds_class_folders(source):
        check_no_lists(source, asked.classes)  # class folders, and a list of other videos
    title = "-".join(filter(None, (source.resolve().name, chosen or asked.split))) if source.is_dir() else source.stem
    origin, notes = f"{listed}, {told.layout}", [*told.notes, *notes]
    if not asked.labelled and any(entry.label is None for entry in entries):
        names = told.classes
    elif told.kind != LABEL:
        names, labels = _many(listed, told, entries, asked.classes)
    else:
        given = _given_names(asked.classes) if asked.classes is not None else ()
        if not told.classes:
            entries = _from_zero(listed, entries, {}, asked.labels_from, given)
        names = given or _names_of(source, told, entries)
        labels = _labels(source, entries, names)
    return _present(entries, labels, names, title, asked.partial, origin, tuple(notes), told.kind, asked.none_there)


_EXPECTED = {"kinetics": "label,youtube_id,time_start,time_end", "ssv1": "id;label", "sections": "path,start,end,label"}


def _check_labels(layout: str, rows: Sequence[Row]) -> None:
    """Refuses rows without a label.

    Raises:
        ValueError: If there is one; says what can be done with such a list.
    """
    if (bare := next((row for row in rows if row.label is None), None)) is not None:
        raise ValueError(
            f"{bare.where}: found {short(bare.name)!r}, expected {_EXPECTED.get(layout, 'a label')}; the list of a "
            "test set has no labels, so that nothing can be learned or measured on it. Labels can be predicted: "
            "python -m reference.prepare writes its videos to a file for vov3d predict @FILE"
        )


def _names_of(source: Path, told: Annotations, entries: list[Entry]) -> tuple[str, ...]:
    """Returns the class names of lists as published, where the caller gives none."""
    known: Any = told.classes
    if told.layout == "kinetics" and told.edition != "400":
        return known
    if not known and told.layout not in ("kinetics", "ssv1", "ssv2"):
        labels = {str(row.label) for part in told.rows.values() for row in part if row.label is not None}
        known = () if any(label.isdecimal() for label in labels) else tuple(sorted(labels))
    if told.layout not in ("kinetics", "ssv1", "ssv2") and known:
        return known
    return _own_names(source, told.layout, entries, known)


def _many(listed: Path, told: Annotations, entries: list[Entry], classes: Any) -> tuple[Classes, list[tuple[int, ...]]]:
    """Returns class names, and class numbers of each video, of many labels or of a verb and a noun."""
    known: Any = told.classes
    if told.kind == PAIR:
        if classes is not None and tuple(map(tuple, classes)) != tuple(map(tuple, known)):
            raise ValueError(f"{listed}: has other verbs and nouns than were given; leave the classes out")
        return known, [tuple(map(int, entry.label or ())) for entry in entries]
    names = _given_names(classes) if classes is not None else known
    by_key = {class_key(name): index for index, name in enumerate(names)}
    for entry in entries:
        if unknown := [name for name in entry.label or () if class_key(name) not in by_key]:
            raise ValueError(
                f"{entry.where}: found class {short(str(unknown[0]))!r}, expected one of {len(names)} names"
            )
    return names, [tuple(by_key[class_key(name)] for name in entry.label or ()) for entry in entries]


def described(videos: VideoList) -> tuple[str, ...]:
    """Describes a list in lines: its source, numbers of videos and classes, the first and the last class."""
    if videos.kind != LABEL or not videos.labels:
        return (_described_many(videos), *videos.notes)
    counts = Counter(videos.labels)
    fewest, most = min(counts.values()), max(counts.values())
    each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    names = [short(str(name)) for name in videos.classes]
    last = len(names) - 1
    lines = [
        f"{videos.origin}: {len(videos)} videos of {len(counts)} classes, {each} of each; "
        f"0 is {names[0]!r}" + (f", {last} is {names[last]!r}" if last else "")
    ]
    if empty := [name for index, name in enumerate(names) if index not in counts]:
        lines.append(f"{len(empty)} of {len(names)} classes have no video, as {empty[0]!r}")
    return (*lines, *videos.notes)


def _described_many(videos: VideoList) -> str:
    """Describes a list of many labels or of none."""
    parts = "actions" if any(videos.sections) else "videos"
    if not videos.labels:
        return f"{videos.origin}: {len(videos)} {parts} without labels"
    if videos.kind == PAIR:
        verbs, nouns = ({label[place] for label in videos.labels} for place in (0, 1))
        return (
            f"{videos.origin}: {len(videos)} {parts} of {len(verbs)} of {len(videos.classes[0])} verbs and "
            f"{len(nouns)} of {len(videos.classes[1])} nouns"
        )
    used = {index for label in videos.labels for index in label}
    each = sum(map(len, videos.labels)) / len(videos)
    return (
        f"{videos.origin}: {len(videos)} {parts} of {len(used)} of {len(videos.classes)} classes, {each:.1f} of each "
        "on average"
    )


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
    """Class names of a file in index order, one a line or JSON; numbers beside all of them say the order."""
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"classes {str(file)!r}: give a file of names, or one of {', '.join(LABEL_SETS)}")
    return list(_numbered(path).values()) or read_label_names(path)


def _numbered(path: Path) -> dict[int, str]:
    """Returns class names by number, of a file that numbers them; none of JSON."""
    return {} if path.read_bytes().lstrip()[:1] in (b"[", b"{") else numbered_names(path) or _tabulated(path)


def _tabulated(path: Path) -> dict[int, str]:
    """Returns class names by number of a table of both columns, with a heading such as `id,name` or without."""
    lines = [line for line in read_lines(path) if line.strip()]
    sign = max(",;\t", key=lambda sign: sum(sign in line for line in lines))
    try:
        rows = [[cell.strip() for cell in cells] for cells in csv_reader(lines, sign)]
    except csv.Error:  # a field that is too long
        return {}
    if not rows or any(len(cells) != 2 for cells in rows):
        return {}
    for part in (rows, rows[1:]):
        for number, name in ((0, 1), (1, 0)):
            found = {int(cells[number]): cells[name] for cells in part if re.fullmatch("[0-9]{1,6}", cells[number])}
            numbers, first = sorted(found), min(found, default=0)
            if first in (0, 1) and numbers == list(range(first, first + len(part))) and len({*found.values()}) > 1:
                return {index: found[index] for index in numbers}
    return {}


def _numbers(listed: Path, classes: object, entries: list[Entry]) -> tuple[dict[int, str], list[str]]:
    """Returns names by number for a list of numbers: of the file given as `classes`, or of one beside the list."""
    if not entries or not all(str(entry.label).isdecimal() for entry in entries):
        return {}, []
    if isinstance(classes, (str, Path)) and Path(classes).is_file():
        numbers, file = _numbered(Path(classes)), Path(classes)
    else:
        file, numbers = numbers_beside(listed) or (listed, {})
    told = f"{file}: {min(numbers)} is {short(numbers[min(numbers)])!r}" if numbers else ""
    return numbers, [f"numbers are classes as in {told}"] if numbers else []


def _from_zero(
    source: Path, entries: list[Entry], numbers: dict[int, str], labels_from: int | None, names: Sequence[str]
) -> list[Entry]:
    """Returns entries whose numeric labels count from 0, or are names where the names of numbers are known.

    Labels that are all among the class names are names, though they be `1` and `2`.
    """
    keys = {class_key(name) for name in names}
    if not numbers and all(class_key(str(entry.label)) in keys for entry in entries):
        if labels_from is not None:
            raise ValueError(f"{source}: labels_from={labels_from} has no effect, labels are names; leave it out")
        return entries
    decimal = [str(entry.label).isdecimal() for entry in entries]
    for entry in entries:
        if str(entry.label).isdecimal() and (len(entry.label) > 9 or int(entry.label) >= _MOST_CLASSES):
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
    numeric = ("csv", "frames", "jester", "ucf101")
    if layout in numeric and len(numbered) > 1:
        odd = next(entry for entry in entries if str(entry.label).isdecimal() != entries[0].label.isdecimal())
        raise ValueError(
            f"{odd.where}: found class {short(odd.label)!r} after {short(entries[0].label)!r}, expected all names or "
            "all numbers; give the classes that this list was made for"
        )
    if layout in numeric and numbered == {True}:
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
    numbers = not any(key.isdecimal() for key in by_key)  # of names such as '1', a number is the name
    return [_label(entry, by_key, names, numbers) for entry in entries]


def _label(entry: Entry, by_key: dict[str, int], names: Sequence[str], numbers: bool) -> int:
    """Returns the class number of an entry: that of its name, else the number that it is."""
    index = by_key.get(class_key(entry.label))
    if index is None and numbers and str(entry.label).isdecimal() and int(entry.label) < len(names):
        return int(entry.label)
    if index is None:
        raise ValueError(
            f"{entry.where}: found class {short(entry.label)!r}, expected one of {len(names)} names ({names[0]!r}, ...)"
            + (f" or a number from 0 to {len(names) - 1}" if numbers else "")
            + "; give the classes that this list was made for"
        )
    return index


def _place(entry: Entry) -> tuple[object, ...]:
    """Returns what is equal for the same video or section, whether its path goes through `..` or not."""
    part = entry.section
    if part is None:
        return (os.path.normpath(entry.path),)
    return os.path.normpath(part.video), part.start, part.end, part.in_frames


def _present(
    entries: list[Entry],
    labels: Sequence[Any],
    names: Classes,
    title: str,
    partial: bool,
    origin: str,
    notes: tuple[str, ...],
    kind: str = LABEL,
    none_there: bool = False,
) -> VideoList:
    """Returns the list of the videos that are there, each once."""
    seen: dict[object, Any] = {}
    once: list[tuple[Entry, Any]] = []
    for entry, label in zip(entries, labels or [None] * len(entries), strict=True):
        key = _place(entry)
        if key not in seen:
            once.append((entry, label))
        if (other := seen.setdefault(key, label)) != label:
            told = [_called(names, number, kind) for number in (label, other)]
            raise ValueError(f"{entry.where}: {entry.section or entry.path} is {told[0]} here and {told[1]} above")
    if twice := len(entries) - len(once):
        notes = (*notes, f"{twice} lines name a video again, and count once")
    missing = tuple(entry.path for entry, _ in once if not entry.there)
    if missing:
        lost = f"{len(missing)} of {len(once)} videos are not there, first {', '.join(map(str, missing[:3]))}"
        if not partial or (len(missing) == len(once) and not none_there):
            raise FileNotFoundError(f"{title}: {lost}; say where they are (root), or leave them out (partial)")
        warnings.warn(f"{title}: {lost}; they are left out", RuntimeWarning, stacklevel=3)
    kept = [(entry, label) for entry, label in once if entry.there]
    sections = tuple(entry.section for entry, _ in kept)
    return VideoList(
        tuple(entry.path for entry, _ in kept),
        tuple(label for _, label in kept) if labels else (),
        names,
        title,
        missing,
        origin,
        notes,
        sections if any(sections) else (),
        kind,
        len(once),
    )


def label_name(videos: VideoList, index: int) -> str:
    """Returns the class of a video in words; of several, all of them; `""` where none is known."""
    if not videos.labels:
        return ""
    label, names = videos.labels[index], videos.classes
    if videos.kind == LABEL:
        return str(names[label])
    both = names if videos.kind == PAIR else (names,) * len(label)
    return " + ".join(str(known[number]) for known, number in zip(both, label, strict=True))


def _called(names: Any, label: Any, kind: str) -> str:
    """Returns a label in words for errors."""
    if kind == LABEL:
        return repr(names[label]) if label is not None else "without a label"
    both = names if kind == PAIR else (names,) * len(label or ())
    return " and ".join(repr(known[number]) for known, number in zip(both, label or (), strict=False)) or "of no class"
