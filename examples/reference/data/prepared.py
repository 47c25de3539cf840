"""Lists that `prepare` writes, which say everything: videos, parts of them, classes.

    path,start,end,label            one class, by its name; names in `classes.txt` beside the list, in index order
    path,start,end,labels           any number of classes, by their numbers, as `3 17 92`; names in `classes.txt`
    path,start,end,verb,noun        numbers in `verbs.txt` and `nouns.txt`
    path,start,end                  no class is known: a test set

Paths are absolute or go out from the list's folder; `start` and `end` are seconds, both empty for the whole video.
Lists made by hand may have this form, and need no `classes.txt` where labels are names.
"""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from reference.data.annotations import LABEL, LABELS, PAIR, Annotations
from reference.data.finding import Entry, Row, path_below
from reference.data.text import read_table
from vov3d.files import replacing
from vov3d.labels import read_label_names
from vov3d.video import Section

_COLUMNS = {LABEL: ("label",), LABELS: ("labels",), PAIR: ("verb", "noun")}
_PLACE = ("path", "start", "end")
_FILES = {LABEL: ("classes.txt",), LABELS: ("classes.txt",), PAIR: ("verbs.txt", "nouns.txt")}


def is_prepared(first: str) -> bool:
    """Returns True if the first line of a list is a heading of this form."""
    cells = [cell.strip().strip('"').casefold() for cell in first.replace(";", ",").replace("\t", ",").split(",")]
    return tuple(cells[:3]) == _PLACE and tuple(cells[3:]) in (*_COLUMNS.values(), ())


def read_prepared(file: Path) -> Annotations:
    """Reads such a list.

    Raises:
        ValueError: If a line cannot be read, or the file of class names is not there.
    """
    table = list(read_table(file, _PLACE))
    first = table[0][1].keys() if table else {}
    kind = next((kind for kind, names in _COLUMNS.items() if set(names) <= set(first)), None)
    names = [_names(file, name) for name in _FILES[kind]] if kind else []
    if kind in (LABELS, PAIR) and not all(names):
        raise ValueError(f"{file}: labels are numbers, and {' or '.join(_FILES[str(kind)])} is not beside it")
    rows = []
    for where, line in table:
        cells = [line[name] for name in _COLUMNS[kind]] if kind else []
        rows.append(Row(line["path"], _label(where, kind, cells, names), where, *_span(where, line)))
    classes = (names[0], names[1]) if kind == PAIR else names[0] if names else ()
    return Annotations("sections", {"": rows}, classes, kind=kind or LABEL, ending="")


def _names(file: Path, name: str) -> tuple[str, ...]:
    listed = file.with_name(name)
    return tuple(read_label_names(listed)) if listed.is_file() else ()


def _label(
    where: str, kind: str | None, cells: Sequence[str], names: Sequence[tuple[str, ...]]
) -> str | tuple[str, ...] | None:
    if kind is None:
        return None
    if kind == LABEL:
        if not cells[0]:
            raise ValueError(f"{where}: has no label; a list without labels has no column for them")
        return cells[0]
    numbers = cells[0].split() if kind == LABELS else cells
    for place, number in enumerate(numbers):
        known = names[0 if kind == LABELS else place]
        if not number.isdecimal() or int(number) >= len(known):
            raise ValueError(f"{where}: found {number[:80]!r}, expected a class number from 0 to {len(known) - 1}")
    return tuple(names[0][int(number)] for number in numbers) if kind == LABELS else tuple(numbers)


def _span(where: str, line: dict[str, str]) -> tuple[float | None, float | None]:
    texts = line["start"], line["end"]
    if not any(texts):
        return None, None
    try:
        start, end = float(texts[0] or 0), float(texts[1]) if texts[1] else None
        if not 0 <= start < (float("inf") if end is None else end):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{where}: found the times {texts[0]!r} and {texts[1]!r}, expected seconds, the start first"
        ) from None
    return start, end


def entries_of_prepared(rows: Iterable[Row], roots: Sequence[Path]) -> list[Entry]:
    """Returns the videos of such a list, at the paths that it names."""
    entries, known = [], {}
    for row in rows:
        if row.name not in known:
            places = [Path(os.path.normpath(path_below(root, row.name))) for root in roots]
            known[row.name] = next((place for place in places if place.exists()), None), places[0]
        found, expected = known[row.name]
        part = None if row.start is None else Section(found or expected, row.start, row.end)
        entries.append(Entry(found or expected, row.label, row.where, found is not None, part))
    return entries


def write_prepared(
    file: Path,
    kind: str,
    classes: Sequence[Sequence[str]],
    rows: Iterable[tuple[str, float | None, float | None, Sequence[int] | None]],
) -> None:
    """Writes such a list, and where it has labels the class names beside it; each file is put in place whole.

    Args:
        file: The list.
        kind: What labels are.
        classes: Class names in index order; of verbs and of nouns for `PAIR`.
        rows: Path, start, end and class numbers of each video; numbers are None where none are known.
    """
    rows = list(rows)
    labelled = all(row[3] is not None for row in rows)
    for name, listed in zip(_FILES[kind], classes, strict=True) if labelled else ():
        with replacing(file.with_name(name)) as draft:
            draft.write_text("".join(f"{one}\n" for one in listed), encoding="utf-8")
    with replacing(file) as draft, draft.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow((*_PLACE, *(_COLUMNS[kind] if labelled else ())))
        for path, start, end, numbers in rows:
            place = (path, "" if start is None else f"{start:.10g}", "" if end is None else f"{end:.10g}")
            writer.writerow((*place, *(_cells(kind, classes, numbers or ()) if labelled else ())))


def _cells(kind: str, classes: Sequence[Sequence[str]], numbers: Sequence[int]) -> tuple[object, ...]:
    if kind == LABEL:
        return (classes[0][numbers[0]],)
    return (" ".join(map(str, numbers)),) if kind == LABELS else tuple(numbers)
