"""Lists that say more of a video than one class: many labels, values, or a class of each of several heads.

multilabel   `a.mp4,left;turning`, the labels apart by `;` or `|`; or `a.mp4,left,turning`, a label a column; or a
             heading `path,left,right,turning` above columns of 0 and 1; or a line for each label of a video
regression   `a.mp4,1.5,-0.2`, a value a column, named by a heading `path,speed (m/s),angle`
multihead    `a.mp4,open,door`, a class of each head a column, named by a heading `path,verb,noun`

Cells are apart by comma or tab, labels are names or numbers. A video without any of many labels has an empty cell.
"""

import csv
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reference.data.finding import composed, path_below
from reference.data.layouts import (
    check_no_json,
    class_key,
    is_label_word,
    is_path_word,
    roots_beside,
    short,
    whole_numbers,
)
from reference.data.lists import first_label, read_names
from reference.data.text import csv_reader, read_lines
from vov3d.video import VIDEO_ENDINGS
from vov3d.weights.tasks import SINGLE, Task, make_task

__all__ = ["Targets", "check_labels", "label_text", "read_targets", "strata_of", "task_of_data"]

Classes = tuple[Any, ...]
"""Names in index order; of several heads a tuple of names for each."""

HEADS = ("verb", "noun")
"""Names of two heads that have none of their own."""

_MOST_CLASSES = 100_000
_VIDEOS = tuple(VIDEO_ENDINGS)


@dataclass(frozen=True)
class Targets:
    """The contents of a list.

    Attributes:
        paths: A video file, or a folder of frames, each.
        labels: float32 `(N, num_classes)` of 0 and 1 for many labels, float32 `(N, V)` values, or int64 `(N, heads)`.
        classes: Names of the labels or of the values; of several heads a tuple of names for each.
        heads: Names of the heads; none for other tasks.
        missing: Videos that are not there; none unless a partial set was allowed.
        notes: What is to be said about the reading.
    """

    paths: tuple[Path, ...]
    labels: np.ndarray
    classes: Classes
    heads: tuple[str, ...] = ()
    missing: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Line:
    """A line of a list: `where` is the file and its number."""

    where: str
    path: str
    cells: tuple[str, ...]


def read_targets(
    file: Path,
    task: str,
    root: str | None = None,
    classes: str | Sequence[Any] | None = None,
    partial: bool = False,
    labels_from: int | None = None,
    heads: Sequence[str] = (),
) -> Targets:
    """Reads a list for a task of more than one label. No video is opened.

    Args:
        file: The list.
        task: `"multilabel"`, `"regression"` or `"multihead"`.
        root: Where its videos lie; looked for beside the list if None.
        classes: Names in index order, of several heads for each; or a file of names. If None those of the list, sorted.
        partial: Leaves out videos that are not there.
        labels_from: The number of the first class in a list of numbers, 0 or 1. If None 0 where the list has a 0.
        heads: Names of the heads that columns are for, where these are known, as a model's.

    Raises:
        FileNotFoundError: If videos are missing.
        ValueError: If the list cannot be read; names the file, the line, what is there and what was expected.
    """
    roots = roots_beside(file, root)
    heading, lines = _lines(file, roots)
    if isinstance(classes, str):
        if task == "multihead":
            raise ValueError(f"data.classes={classes!r} has no effect on several heads, whose names are the list's")
        classes = tuple(read_names(classes))
    names = tuple(classes) if classes is not None else None
    numbers, own, notes = _Numbers(file, labels_from), tuple[str, ...](), tuple[str, ...]()
    if task == "multilabel":
        lines, flagged = _named_by_columns(lines, heading)
        lines, joined = _joined(lines)
        labels, found = _many(lines, flagged, names, numbers)
        notes = (f"{joined} lines name a video again, and are joined",) if joined else ()
    else:
        _check_once(lines)
        if task == "regression":
            labels, found = _values(file, lines, heading, names)
        else:
            labels, found, own = _heads(file, lines, heading, names, numbers, tuple(heads))
    if heading:
        notes = (f"line 1, {short(','.join(heading))!r}, is a heading", *notes)
    paths, there = _placed([line.path for line in lines], roots)
    missing = tuple(path for path, here in zip(paths, there, strict=True) if not here)
    if missing and (not partial or len(missing) == len(paths)):
        raise FileNotFoundError(
            f"{file}: {len(missing)} of {len(paths)} videos are not there, first {', '.join(map(str, missing[:3]))}; "
            "say where they are (root), or leave them out (partial)"
        )
    if missing:
        notes = (*notes, f"{len(missing)} of {len(paths)} videos are not there and are left out")
    kept = np.flatnonzero(there)
    return Targets(tuple(paths[i] for i in kept), labels[kept], found, own, missing, notes)


def _lines(file: Path, roots: Sequence[Path]) -> tuple[tuple[str, ...], list[_Line]]:
    """Returns the header, if there is one, and the lines."""
    texts = [(number, text) for number, text in enumerate(read_lines(file), 1) if text.strip()]
    check_no_json(file, [(number, text.strip()) for number, text in texts])
    tab = bool(texts) and all("\t" in text for _, text in texts)
    rows = []
    for number, text in texts:
        try:
            cells = [cell.strip() for cell in next(csv_reader([text], "\t" if tab else ","))]
        except csv.Error as error:
            raise ValueError(f"{file}:{number}: cannot be read as CSV ({error})") from error
        rows.append(_Line(f"{file}:{number}", cells[0], tuple(cells[1:])))
    heading: tuple[str, ...] = ()
    if rows and _is_heading(rows, roots):
        heading = (rows[0].path, *rows[0].cells)
        rows = rows[1:]
    if not rows:
        raise ValueError(f"{file}: names no video; expected a path and what belongs to it on each line")
    for line in rows:
        if not line.path or not line.cells:
            raise ValueError(
                f"{line.where}: found {short(','.join((line.path, *line.cells)))!r}, expected a path, and behind a "
                "comma or tab what belongs to it"
            )
    return heading, rows


def _is_heading(rows: Sequence[_Line], roots: Sequence[Path]) -> bool:
    first = rows[0].path
    if first.lower().endswith(_VIDEOS) or any(path_below(root, first).exists() for root in roots):
        return False
    return is_path_word(first) or (len(rows) > 1 and all(line.path.lower().endswith(_VIDEOS) for line in rows[1:]))


def _placed(names: Sequence[str], roots: Sequence[Path]) -> tuple[list[Path], np.ndarray]:
    """Returns the videos under the root that holds the most of them, and which of them are there."""
    best, found = [Path(name) for name in names], np.zeros(len(names), bool)
    for number, root in enumerate(roots):
        paths = [path_below(root, name) for name in names]
        there = np.array([path.exists() for path in paths])
        if number == 0 or there.sum() > found.sum():
            best, found = paths, there
    return best, found


def _check_once(lines: Sequence[_Line]) -> None:
    seen: dict[str, str] = {}
    for line in lines:
        if other := seen.get(_place_key(line.path)):
            raise ValueError(f"{line.where}: {line.path} is in the list already ({other}); expected each video once")
        seen[_place_key(line.path)] = line.where


def _place_key(path: str) -> str:
    """Returns a path for comparing: `./a/b.mp4` and `a/b.mp4` are the same place."""
    return composed(os.path.normpath(path.replace("\\", "/")))


# --- many labels -----------------------------------------------------------------------------------------------------


def _joined(lines: Sequence[_Line]) -> tuple[list[_Line], int]:
    """Returns one line per video with the labels of all its lines, and the number of lines joined to others."""
    by_path: dict[str, _Line] = {}
    for line in lines:
        key = _place_key(line.path)
        before = by_path.get(key)
        by_path[key] = _Line(before.where, before.path, before.cells + line.cells) if before else line
    return list(by_path.values()), len(lines) - len(by_path)


def _many(
    lines: Sequence[_Line], flagged: tuple[str, ...], names: Classes | None, numbers: "_Numbers"
) -> tuple[np.ndarray, Classes]:
    """Returns the labels of each video, float32 `(N, num_classes)`, and their names.

    Args:
        lines: One for each video.
        flagged: The labels that have a column each; then the cells are the names of those that a video has.
        names: Of the classes, if they are given.
        numbers: Class numbers for labels.
    """
    rows = [list(dict.fromkeys(line.cells)) for line in lines] if flagged else _split(lines)
    if flagged and names is None:
        names = flagged
    given = [label for row in rows for label in row]
    if not given:
        raise ValueError(f"{lines[0].where}: no video of this list has a label; a list without labels is for predict")
    found, index = numbers.indices(
        [(line.where, label) for line, row in zip(lines, rows, strict=True) for label in row], names
    )
    labels, place = np.zeros((len(lines), len(found)), np.float32), 0
    for number, row in enumerate(rows):
        labels[number, index[place : place + len(row)]] = 1
        place += len(row)
    return labels, found


_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
_ANSWERS = {"no": False, "yes": True, "n": False, "y": True}  # names of classes, too, where there is one column


def _named_by_columns(lines: Sequence[_Line], heading: tuple[str, ...]) -> tuple[list[_Line], tuple[str, ...]]:
    """Reads a table with a column of 0 and 1 for each label.

    Returns:
        The lines, whose cells are the names of the columns with a 1, and the names of all columns. For other lists,
        whose cells are labels, the lines as they are and no names.

    Raises:
        ValueError: If the cells can only be such, and a name or a cell is missing: they would be read as the classes 0
            and 1.
    """
    columns = heading[1:]
    words = _FLAGS | _ANSWERS if len(columns) > 1 else _FLAGS
    told = [[cell.lower() for cell in line.cells if cell] for line in lines]
    if not all(cell in words for cells in told for cell in cells) or not any(told):
        return list(lines), ()
    named = len(columns) > 1 or (len(columns) == 1 and not is_label_word(columns[0]))
    twice = any(len({*cells}) < len(cells) for cells in told)
    both = all(len({*cells}) == 2 for cells in told)
    if not named and not twice and not both:
        return list(lines), ()  # class numbers
    for line in lines:
        if not named or len(line.cells) != len(columns) or not all(line.cells):
            raise ValueError(
                f"{line.where}: found {short(','.join(line.cells))!r} in a list of 0 and 1: a column for each label"
                " wants a heading that names all of them, as path,left,right, and a 0 or 1 in each cell"
            )
    rows = (tuple(name for name, cell in zip(columns, cells, strict=True) if words[cell]) for cells in told)
    return [_Line(line.where, line.path, row) for line, row in zip(lines, rows, strict=True)], columns


# A list as table programs write it into a cell; a name may have brackets, too, but no quotes or numbers alone in them.
_LITERAL = re.compile(r"""\[\s*\]|\[[\d.,\s-]+\]|[\[({]\s*['"].*[\])}]""")


def _split(lines: Sequence[_Line]) -> list[list[str]]:
    """Returns the labels of each line, separated by `;` or `|`, and by columns."""
    for line in lines:
        if text := next(filter(_LITERAL.fullmatch, (",".join(line.cells), *line.cells)), ""):
            raise ValueError(
                f"{line.where}: found {short(text)!r}, a list as Python or JSON writes it, which would be read as one "
                "name; expected them apart by ';', as left;turning, and an empty cell for none"
            )
    signs = {sign for line in lines for cell in line.cells for sign in ";|" if sign in cell}
    if len(signs) > 1:
        where = next(line.where for line in lines if any("|" in cell for cell in line.cells))
        raise ValueError(f"{where}: labels are apart by ';' and by '|' in one list; expected one of the two")
    sign = signs.pop() if signs else ";"
    return [
        list(dict.fromkeys(label.strip() for cell in line.cells for label in cell.split(sign) if label.strip()))
        for line in lines
    ]


class _Numbers:
    """Class numbers for the labels of a list.

    Args:
        file: The list.
        labels_from: The number of the first class in a list of numbers.
    """

    def __init__(self, file: Path, labels_from: int | None) -> None:
        self._file, self._first = file, labels_from

    def indices(self, given: Sequence[tuple[str, str]], names: Classes | None) -> tuple[tuple[str, ...], np.ndarray]:
        """Returns the names of the classes, and the index of each given label.

        Args:
            given: Where each stands, and what it says.
            names: Of the classes; those of the labels, sorted, if None.
        """
        given = list(zip([where for where, _ in given], whole_numbers([label for _, label in given]), strict=True))
        whole = [re.fullmatch(r"-?\d+", label) is not None for _, label in given]
        where, label = next(
            ((w, label) for w, label in given if label.startswith("-") and label[1:].isdecimal()), ("", "")
        )
        if label:
            raise ValueError(f"{where}: found label {label}, expected class numbers from 0 on, or names")
        keys = {class_key(name): index for index, name in enumerate(names or ())}
        if all(whole) and not any(class_key(label) in keys for _, label in given):
            return self._numbered(given, names)
        if names is None:
            if any(whole) and not all(whole):
                where, label = next(pair for pair, number in zip(given, whole, strict=True) if number != whole[0])
                raise ValueError(
                    f"{where}: found label {short(label)!r} after {short(given[0][1])!r}, expected all names or all "
                    "numbers"
                )
            by_key = {class_key(label): label for _, label in given}
            names = tuple(sorted(by_key.values()))
            keys = {class_key(name): index for index, name in enumerate(names)}
        for where, label in given:
            if class_key(label) not in keys:
                raise ValueError(
                    f"{where}: found label {short(label)!r}, expected one of {len(names)} names ({names[0]!r}, ...)"
                )
        return tuple(names), np.array([keys[class_key(label)] for _, label in given], np.int64)

    def _numbered(self, given: Sequence[tuple[str, str]], names: Classes | None) -> tuple[tuple[str, ...], np.ndarray]:
        most = len(names) if names is not None else _MOST_CLASSES
        first = self._first or 0
        if names is None:
            first = first_label(self._file, [min(int(label), most) for _, label in given], self._first)
        for where, label in given:
            if not first <= int(label) < most + first:
                raise ValueError(
                    f"{where}: found label {short(label)}, expected numbers from {first} to {most + first - 1}"
                )
        index = np.array([int(label) - first for _, label in given], np.int64)
        return tuple(names) if names is not None else tuple(f"class {i}" for i in range(int(index.max()) + 1)), index


# --- values ----------------------------------------------------------------------------------------------------------


def _values(
    file: Path, lines: Sequence[_Line], heading: tuple[str, ...], names: Classes | None
) -> tuple[np.ndarray, Classes]:
    """Returns the values of each video, float32 `(N, V)`, and their names."""
    count = len(lines[0].cells)
    own = heading[1:] if heading else None
    if own is not None and len(own) != count:
        raise ValueError(f"{file}:1: names {len(own)} values, but {lines[0].where} has {count}")
    if names is not None and own is not None and tuple(map(class_key, own)) != tuple(map(class_key, names)):
        raise ValueError(f"{file}:1: names the values {', '.join(own)}, expected {', '.join(names)}")
    if names is not None and len(names) != count:
        raise ValueError(f"{lines[0].where}: found {count} values, expected {len(names)} ({', '.join(names)})")
    names = names or own or (("value",) if count == 1 else tuple(f"value {i + 1}" for i in range(count)))
    return np.array([_numbers(line, names) for line in lines], np.float32), tuple(names)


def _numbers(line: _Line, names: Classes) -> list[float]:
    if len(line.cells) != len(names):
        raise ValueError(f"{line.where}: found {len(line.cells)} values, expected {len(names)} ({', '.join(names)})")
    found = []
    for name, cell in zip(names, line.cells, strict=True):
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or abs(value) > 3e38:
            raise ValueError(
                f"{line.where}: found {short(cell)!r} as {name}, expected a finite number, such as -1.5; leave out "
                "videos that have none"
            )
        found.append(value)
    return found


# --- several heads ---------------------------------------------------------------------------------------------------


def _heads(
    file: Path,
    lines: Sequence[_Line],
    heading: tuple[str, ...],
    names: Classes | None,
    numbers: _Numbers,
    wanted: tuple[str, ...],
) -> tuple[np.ndarray, Classes, tuple[str, ...]]:
    """Returns the class of each head, int64 `(N, heads)`, the names of each head's classes, and of the heads."""
    count = len(lines[0].cells)
    for line in lines:
        if len(line.cells) != count or count < 2 or not all(line.cells):
            raise ValueError(
                f"{line.where}: found {short(','.join(line.cells))!r}, expected a class of each head, such as "
                "'open,door', on every line"
            )
    heads = heading[1:] or wanted or (HEADS if count == 2 else tuple(f"head {i + 1}" for i in range(count)))
    if len(heads) != count or len(set(heads)) != count:
        raise ValueError(f"{file}: has {count} columns behind the path for the heads {', '.join(heads)}")
    columns = list(range(count))
    if wanted:
        if {*map(class_key, heads)} != {*map(class_key, wanted)}:
            raise ValueError(f"{file}: has the heads {', '.join(heads)}, expected {', '.join(wanted)}")
        place = {class_key(head): column for column, head in enumerate(heads)}
        columns, heads = [place[class_key(head)] for head in wanted], wanted
    labels, found = np.empty((len(lines), count), np.int64), []
    for head, column in enumerate(columns):
        given = [(line.where, line.cells[column]) for line in lines]
        own, labels[:, head] = numbers.indices(given, names[head] if names is not None else None)
        found.append(own)
    return labels, tuple(found), tuple(heads)


# --- what labels of any source must be -------------------------------------------------------------------------------


def task_of_data(name: str, classes: Classes, heads: Sequence[str] = ()) -> Task:
    """Returns the task of data with these classes.

    Args:
        name: The task.
        classes: Names; of several heads for each.
        heads: Names of the heads; `HEADS` where there are none.
    """
    if name == "single":
        return SINGLE
    if name != "multihead":
        return make_task(name)
    heads = tuple(heads) or (HEADS if len(classes) == 2 else tuple(f"head {i + 1}" for i in range(len(classes))))
    return make_task(name, {head: len(own) for head, own in zip(heads, classes, strict=True)})


def check_labels(name: str, labels: np.ndarray, classes: Classes, task: str) -> None:
    """Refuses labels that are not those of a task.

    Args:
        name: Of the data, for the message.
        labels: As they were read.
        classes: Names; of several heads for each.
        task: What the run is for.

    Raises:
        ValueError: Says what the labels are, and what the task takes.
    """
    nested = bool(classes) and not isinstance(classes[0], str)
    whole, many = labels.dtype.kind in "iu", labels.ndim == 2
    looks = "single" if not many else "multihead" if nested else "regression"
    if many and not nested and set(np.unique(labels)) <= {0, 1}:
        looks = "multilabel"
    fits = {
        "single": labels.ndim == 1 and whole and not nested,
        "multilabel": many and looks == "multilabel" and labels.shape[1] == len(classes),
        "regression": many and not nested and labels.shape[1] == len(classes),
        "multihead": many and nested and whole and labels.shape[1] == len(classes),
    }
    if not fits[task]:
        takes = {
            "single": "one class a video",
            "multilabel": "labels of 0 and 1, a column for each label",
            "regression": "values, a column for each",
            "multihead": "a class number of each head",
        }
        raise ValueError(
            f"{name}: its labels are {labels.dtype} {labels.shape} for {len(classes)} classes, as of task {looks!r}, "
            f"and task {task!r} takes {takes[task]}: give task.name={looks!r}, or other data"
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        row = int(np.flatnonzero(~np.isfinite(labels).all(1))[0])
        raise ValueError(f"{name}: the labels of video {row} are {labels[row].tolist()}, expected finite numbers")
    if task == "multilabel" and not labels.any():
        raise ValueError(f"{name}: no video has a label")
    if task in ("single", "multihead") and len(labels):
        for column, own in zip(labels.reshape(len(labels), -1).T, classes if nested else [classes], strict=True):
            if column.min() < 0 or column.max() >= len(own):
                raise ValueError(
                    f"{name}: has labels from {column.min()} to {column.max()}, but there are {len(own)} classes"
                )


def label_text(label: Any, classes: Classes) -> str:
    """Returns what a video's label is in words: a name, names, values, or a name of each head.

    Args:
        label: A row of the labels.
        classes: Names; of several heads for each.
    """
    if np.ndim(label) == 0:
        return str(classes[int(label)])
    if not isinstance(classes[0], str):
        return " ".join(own[int(index)] for own, index in zip(classes, label, strict=True))
    if set(np.unique(label)) <= {0, 1} and len(classes) > 1:
        return ";".join(name for name, there in zip(classes, label, strict=True) if there)
    return ";".join(f"{name}={value:g}" for name, value in zip(classes, label, strict=True))


def strata_of(labels: np.ndarray, classes: Classes) -> np.ndarray:
    """Returns a number for each video; those of one number are held out in equal shares.

    It is the class; of many labels the rarest that the video has, of several heads the class of the first, and for
    values 0.

    Args:
        labels: Of the data.
        classes: Names; of several heads for each.
    """
    if labels.ndim == 1:
        return labels
    if not isinstance(classes[0], str):
        return labels[:, 0]
    if not set(np.unique(labels)) <= {0, 1}:
        return np.zeros(len(labels), np.int64)
    rarest = np.where(labels > 0, labels.sum(0), np.inf).argmin(1)
    return np.where(labels.any(1), rarest, len(classes))
