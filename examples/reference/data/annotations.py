"""Parsers for the annotation files of published data sets: each dialect becomes rows and class names."""

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reference.data.finding import Row, folder_key
from reference.data.published import DATA_SETS
from reference.data.text import csv_reader, read_lines, read_table, read_text
from reference.detection.ava import read_annotations, read_excluded, read_label_map
from vov3d.labels import read_label_names

LABEL, LABELS, PAIR = "label", "labels", "verb and noun"
"""The labels of a video: one class, any number of classes, or a verb and a noun."""

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "validate", "valid"),
    "test": ("test", "testing"),
}
NUMBERED = ("classInd.txt", "categories.txt", "classes.txt", "labels.txt")
"""Files that say which number is which class, one a line, as `1 ApplyEyeMakeup`."""

_LIST_FOLDER = re.compile(r"label|annot|list|split|meta|^anno?s?$|^info$|^csv$|^json$", re.IGNORECASE)
_SEGMENTS = "-segments"  # a second reading of the same lists, which is asked for
_AVA_REACH = 1.5  # seconds before and after a key frame

Classes = tuple[str, ...] | tuple[tuple[str, ...], tuple[str, ...]]


@dataclass
class Annotations:
    """The content of the annotation files of a data set.

    Attributes:
        layout: Which dialect they are in.
        rows: The rows of each split; of the key `""` where no splits are told.
        classes: Class names in index order, verbs and nouns for `PAIR`; empty where the rows have to tell.
        kind: `LABEL`, `LABELS` or `PAIR`.
        ending: What a video's name ends in where the list leaves it out; `""` for folders of frames.
        strict: Whether the folder that a row names is part of the video's name.
        notes: What else is to be said.
        edition: What tells editions apart, as `"600"`.
    """

    layout: str
    rows: dict[str, list[Row]]
    classes: Classes = ()
    kind: str = LABEL
    ending: str = ".mp4"
    strict: bool = False
    notes: list[str] = field(default_factory=list)
    edition: str = ""


Files = list[tuple[Path, re.Match[str]]]


@dataclass(frozen=True)
class _Dialect:
    """The names of the lists of a data set, and their reader."""

    pattern: re.Pattern[str]
    read: Callable[[Files, int], Annotations]

    def matches(self, files: Sequence[Path]) -> Files:
        return [(file, match) for file in files if (match := self.pattern.fullmatch(file.name))]


def split_of(name: str) -> str | None:
    """Returns `"val"` for a folder, a list or a word such as `validation`; None for a name of no split."""
    return next((split for split, names in SPLITS.items() if name.casefold() in names), None)


def is_list_folder(name: str) -> bool:
    """Returns True for a name of folders that hold lists, such as `ucfTrainTestlist` or `annotations`."""
    return _LIST_FOLDER.search(name) is not None


def published_lists(source: Path, layout: str | None, fold: int) -> Annotations | None:
    """Reads the lists of a published data set in a folder or beside a list; None where there are none.

    Args:
        source: The folder, or one of the lists.
        layout: The dialect; told by the names of the files if None.
        fold: Which of several divisions into training and test, from 1.

    Raises:
        ValueError: If there are lists of several data sets, or one cannot be read.
    """
    files = _files_near(source) if source.is_dir() else [source]
    found = {
        name: _distinct(matched)
        for name, dialect in _DIALECTS.items()
        if (matched := dialect.matches(files)) and (layout == name or not name.endswith(_SEGMENTS))
    }
    if "numbered" in found:
        name = _kind_of_numbered(found["numbered"][0][0])
        found[name] = found.pop("numbered") + found.get(name, [])
        if source.is_file() and _has_labels(source) and not numbers_beside(source):
            del found[name]  # the reading of any list of paths and labels does it, and asks about the numbers
    if source.is_file() and "hmdb51" in found and layout is None:
        raise ValueError(
            f"{source}: is the list of one class, {found['hmdb51'][0][1]['label']}, as HMDB51 is published: there 1 is "
            "training, 2 test and 0 neither; give the folder that holds the lists of all classes, or layout='csv' if "
            "the numbers are classes"
        )
    if layout is not None:
        found = {name: matched for name, matched in found.items() if name == layout}
    if not found:
        return None
    if len(found) > 1:
        lists = " and ".join(f"{matched[0][0].name} ({name})" for name, matched in found.items())
        raise ValueError(f"{source}: holds lists of several data sets, {lists}; say which with layout")
    ((name, matched),) = found.items()
    return _reader(name, matched)(matched, fold)


def _distinct(matched: Files) -> Files:
    """Lists without copies of the same content.

    Raises:
        ValueError: If there are two lists of one part that differ.
    """
    known: dict[object, tuple[Path, re.Match[str]]] = {}
    for file, match in matched:
        key = tuple(split_of(text) or text.casefold() for text in map(str, match.groups()))
        other, _ = known.setdefault(key, (file, match))
        if other != file and read_text(other) != read_text(file):
            raise ValueError(f"{file}: and {other} are lists of the same part, and differ; keep one of them there")
    return list(known.values())


def _reader(name: str, matched: Files) -> Callable[[Files, int], Annotations]:
    """Returns the reader of a dialect; Jester is published in two."""
    if name in ("ucf101", "jester") and not any(match.re is _JESTER for _, match in matched):
        return _numbered_lists
    return _DIALECTS[name].read


def _files_near(folder: Path) -> list[Path]:
    """Returns the files of a folder and of the folders of lists in it."""
    found = []
    for place in (folder, *_list_folders(folder)):
        found += [file for file in sorted(place.iterdir()) if not file.name.startswith(".") and file.is_file()]
    return found


def _list_folders(folder: Path, depth: int = 2) -> Iterator[Path]:
    for item in sorted(folder.iterdir()):
        if is_list_folder(item.name) and not item.name.startswith(".") and item.is_dir():
            yield item
            if depth > 1:
                yield from _list_folders(item, depth - 1)


# --- UCF101, and lists of the same form ------------------------------------------------------------------------------


def numbered_names(file: Path) -> dict[int, str]:
    """Class names by number, of lines such as `1 ApplyEyeMakeup`; none where the lines are others.

    Raises:
        ValueError: If a number is given twice.
    """
    found: dict[int, str] = {}
    for line in read_lines(file):
        number, name, *_ = (*line.split(None, 1), "", "")
        if "," in number and not name:  # 1,ApplyEyeMakeup
            number, _, name = line.strip().partition(",")
        number, name = number.rstrip(":,;."), name.strip().strip('"')
        if line.strip() and not (number.isdecimal() and len(number) < 10 and name):
            return {}
        if number and found.setdefault(int(number), name) != name:
            raise ValueError(f"{file}: class {number} is {found[int(number)]!r} and {name!r}")
    consecutive = found and sorted(found) == list(range(min(found), min(found) + len(found))) and min(found) in (0, 1)
    return dict(sorted(found.items())) if consecutive else {}


def numbers_beside(listed: Path) -> tuple[Path, dict[int, str]] | None:
    """Returns the file beside a list that numbers the classes, as UCF101's classInd.txt, and its content."""
    for name in NUMBERED:
        if (file := listed.with_name(name)).is_file() and (found := numbered_names(file)):
            return file, found
    return None


def _kind_of_numbered(file: Path) -> str:
    """Returns the data set of `trainlist01.txt`: UCF101 names files in class folders, Jester ids."""
    first = next((line.split() for line in read_lines(file) if line.strip()), [""])
    return "jester" if first[0].isdecimal() else "ucf101"


def _has_labels(file: Path) -> bool:
    lines = [line.strip() for line in read_lines(file) if line.strip()]
    return all(re.search(r"[\s,]\d+$", line) for line in lines)


def _numbered_lists(files: Files, fold: int) -> Annotations:
    """Reads lists of one fold, of lines `Archery/v_Archery_g01_c01.avi 3` or `34870 2`, or without the number."""
    files = [(file, match) for file, match in files if int(match["fold"]) == fold or len(files) == 1]
    if not files:
        raise ValueError(f"fold {fold} is not there; the lists end in the number of the fold, as trainlist01.txt")
    rows = {str(split_of(match["split"])): _numbered_rows(file) for file, match in files}
    found = numbers_beside(files[0][0])
    ids = all(row.name.isdecimal() for part in rows.values() for row in part)
    notes = []
    if found:
        file, names = found
        first = min(names)
        notes.append(f"numbers are classes as in {file}: {first} is {names[first]!r}")
    else:
        names = {} if ids else _names_by_folder(rows)
    named = {split: [_named(row, names, ids) for row in part] for split, part in rows.items()}
    layout = "jester" if ids else "ucf101"
    return Annotations(layout, named, tuple(names.values()), ending="" if ids else ".avi", strict=not ids, notes=notes)


def _numbered_rows(file: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(read_lines(file), 1):
        match = re.fullmatch(r'"?(?P<name>.+?)"?(?:[\s,]+(?P<label>\d{1,9}))?', line.strip())
        if match:
            rows.append(Row(match["name"].replace("\\", "/"), match["label"], f"{file}:{number}"))
    return rows


def _names_by_folder(rows: Mapping[str, Sequence[Row]]) -> dict[int, str]:
    """Returns the folder of each number, where every number is one folder."""
    pairs = {
        (int(str(row.label)), Path(row.name).parent.name)
        for part in rows.values()
        for row in part
        if row.label is not None
    }
    folders = sorted(pairs)
    return dict(folders) if len(dict(folders)) == len({folder for _, folder in folders}) == len(folders) else {}


def _named(row: Row, names: Mapping[int, str], ids: bool) -> Row:
    """Returns a row with the name of its class: that of its number or, without one, that of its folder."""
    if row.label is not None and names:
        number = int(str(row.label))
        if number not in names:
            raise ValueError(f"{row.where}: found class {number}, expected one from {min(names)} to {max(names)}")
        return row._replace(label=names[number])
    if row.label is None and not ids:
        folder = Path(row.name).parent.name
        by_key = {folder_key(name): name for name in names.values()}
        return row._replace(label=by_key.get(folder_key(folder)))
    return row


# --- HMDB51 ----------------------------------------------------------------------------------------------------------

_MEMBERSHIP = {"0": None, "1": "train", "2": "test"}


def _hmdb51(files: Files, fold: int) -> Annotations:
    """Reads a list per class and fold: 1 is training, 2 test, 0 neither."""
    classes = tuple(sorted({match["label"] for _, match in files}, key=str.casefold))
    files = [(file, match) for file, match in files if int(match["fold"]) == fold or len(files) == 1]
    rows: dict[str, list[Row]] = {"train": [], "test": []}
    unused = 0
    for file, match in files:
        for number, line in enumerate(read_lines(file), 1):
            if not line.strip():
                continue
            name, _, member = line.strip().replace("\t", " ").rpartition(" ")
            name = name.strip().strip('"')
            if member not in _MEMBERSHIP or not name:
                raise ValueError(
                    f"{file}:{number}: found {line.strip()[:80]!r}, expected a file and 1 for training, 2 for test or "
                    "0 for neither"
                )
            split = _MEMBERSHIP[member]
            unused += split is None
            if split:
                rows[split].append(Row(f"{match['label']}/{name}", match["label"], f"{file}:{number}"))
    if not files:
        raise ValueError(f"fold {fold} is not there; the lists end in the number of the fold, as _test_split1.txt")
    notes = [f"1 is training, 2 test; {unused} videos of 0 are in neither part of fold {files[0][1]['fold']}"]
    return Annotations("hmdb51", rows, classes, ending=".avi", strict=True, notes=notes)


# --- lists of ids and class names ------------------------------------------------------------------------------------


def rows_of_ids(file: Path) -> list[Row]:
    """Returns the lines of `id;label`; those of a list for tests may lack the label."""
    rows = []
    for number, line in enumerate(read_lines(file), 1):
        if not line.strip():
            continue
        try:
            cells = next(csv_reader([line.strip()], ";"))
        except csv.Error:
            cells = []
        name, label = (*(cell.strip() for cell in cells), "", "")[:2]
        if not name or len(cells) > 2 or (";" in line and not label):
            raise ValueError(f"{file}:{number}: found {line.strip()[:80]!r}, expected id;label")
        rows.append(Row(name, label or None, f"{file}:{number}"))
    return rows


def _jester(files: Files, fold: int) -> Annotations:
    rows = {str(split_of(match["split"])): rows_of_ids(file) for file, match in files}
    labels = files[0][0].with_name("jester-v1-labels.csv")
    return Annotations("jester", rows, tuple(read_label_names(labels)) if labels.is_file() else (), ending="")


def _something_v1(files: Files, fold: int) -> Annotations:
    rows = {str(split_of(match["split"])): rows_of_ids(file) for file, match in files}
    return Annotations("ssv1", rows, names_of_something(files[0][0], "ssv1"), ending="")


def _something_v2(files: Files, fold: int) -> Annotations:
    rows = {str(split_of(match["split"])): rows_of_templates(file) for file, match in files}
    return Annotations("ssv2", rows, names_of_something(files[0][0], "ssv2"), ending=".webm")


def names_of_something(listed: Path, layout: str) -> tuple[str, ...]:
    """Returns the class names that Something-Something publishes beside its lists; none without such a file."""
    names = (f"something-something-{layout[2:]}-labels", "labels")
    files = [listed.with_name(name + ending) for name in names for ending in (".json", ".csv")]
    return next((tuple(read_label_names(file)) for file in files if file.is_file()), ())


def rows_of_templates(file: Path) -> list[Row]:
    """Returns the entries of a list of Something-Something V2; those of its test set have no label.

    The answers to the test set, `test-answers.csv`, are taken where they lie beside it.
    """
    expected = "expected {'id': ..., 'template': 'Holding [something]', ...}"
    content = _json_list(file, expected)
    answers = file.with_name("test-answers.csv")
    known = {row.name: row.label for row in rows_of_ids(answers)} if answers.is_file() else {}
    rows = []
    for number, item in enumerate(content, 1):
        where, item = f"{file}, entry {number}", item if isinstance(item, dict) else {"entry": item}
        name, template = str(item.get("id") or ""), item.get("template")
        if not name or (template is None and item.keys() != {"id"}) or not isinstance(template, str | None):
            raise ValueError(f"{where}: found {str(item)[:80]}, {expected}")
        label = known.get(name) if template is None else template
        rows.append(Row(name, re.sub(r"[\[\]]", "", str(label)) if label is not None else None, where))
    return rows


def _json_list(file: Path, expected: str) -> list[Any]:
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: is not the JSON of a list ({error}); {expected}") from error
    if not isinstance(content, list):
        raise ValueError(f"{file}: found a JSON {type(content).__name__}, expected a list of entries; {expected}")
    return content


# --- Kinetics --------------------------------------------------------------------------------------------------------


def rows_of_kinetics(file: Path) -> dict[str, list[Row]]:
    """Returns the lines of a Kinetics list by split, `""` if it names none; without labels for a test set."""
    needed = ("youtube_id", "time_start", "time_end")
    rows: dict[str, list[Row]] = {}
    for where, line in read_table(file, needed):
        try:
            start, end = (float(line[name]) for name in needed[1:])
            name = f"{line['youtube_id']}_{int(start):06d}_{int(end):06d}"
        except (OverflowError, ValueError):
            found = f"{line['time_start']!r} and {line['time_end']!r}"
            raise ValueError(f"{where}: found times {found}, expected seconds") from None
        if not start < end or start < 0:
            raise ValueError(f"{where}: found times {start:g} and {end:g}, expected a start before the end")
        split = split_of(line.get("split", "")) or ""
        label = line.get("label") or None
        rows.setdefault(split, []).append(Row(name, label, where, start, end, whole=line["youtube_id"]))
    return rows


def _kinetics(files: Files, fold: int) -> Annotations:
    rows: dict[str, list[Row]] = {}
    for file, match in files:
        for split, part in rows_of_kinetics(file).items():
            rows.setdefault(split or str(split_of(match["split"])), []).extend(part)
    editions = {match["edition"]: file for file, match in files}
    if len(editions) > 1:
        lists = " and ".join(file.name for file in editions.values())
        raise ValueError(f"{files[0][0].parent}: holds lists of several editions, {lists}; keep those of one there")
    (edition,) = editions
    classes: tuple[str, ...] = ()
    if edition != "400":
        classes = tuple(sorted({str(row.label) for part in rows.values() for row in part if row.label is not None}))
    return Annotations("kinetics", rows, classes, edition=edition)


# --- Diving48 --------------------------------------------------------------------------------------------------------


def _diving48(files: Files, fold: int) -> Annotations:
    editions = {(match["edition"] or "").casefold() for _, match in files}
    files = [(file, match) for file, match in files if (match["edition"] or "").casefold() == max(editions)]
    notes = ["lists of V2 are read, not those of the first edition"] if len(editions) > 1 else []
    vocabulary = files[0][0].with_name("Diving48_vocab.json")
    number = DATA_SETS["diving48"].classes[0][0]
    classes = tuple(f"class {index}" for index in range(number))
    if vocabulary.is_file():
        named = _json_list(vocabulary, "expected the names of its classes")
        classes = tuple(" ".join(map(str, item)) if isinstance(item, list) else str(item) for item in named)
    rows = {
        str(split_of(match["split"])): [_dive(file, number, item, classes) for number, item in _entries(file)]
        for file, match in files
    }
    return Annotations("diving48", rows, classes, notes=notes)


def _entries(file: Path) -> Iterator[tuple[int, Any]]:
    yield from enumerate(_json_list(file, "expected {'vid_name': ..., 'label': 0, ...}"), 1)


def _dive(file: Path, number: int, item: Any, classes: Sequence[str]) -> Row:
    where = f"{file}, entry {number}"
    if not isinstance(item, dict) or not isinstance(item.get("vid_name"), str) or not item["vid_name"]:
        raise ValueError(f"{where}: found {str(item)[:80]}, expected {{'vid_name': ..., 'label': 0, ...}}")
    label = item.get("label")
    if label is None:
        return Row(item["vid_name"], None, where)
    if not str(label).isdecimal() or int(label) >= len(classes):
        raise ValueError(f"{where}: found label {str(label)[:80]!r}, expected a number from 0 to {len(classes) - 1}")
    return Row(item["vid_name"], classes[int(label)], where)


# --- EPIC-Kitchens-100 -----------------------------------------------------------------------------------------------


def _epic100(files: Files, fold: int) -> Annotations:
    """Reads actions: a verb and a noun from one time to another in a long video."""
    notes: list[str] = []
    tables = {str(split_of(match["split"])): list(_actions(file)) for file, match in files}
    cells = [line for table in tables.values() for _, line in table]
    verbs, nouns = (_epic_names(files[0][0], kind, cells, notes) for kind in ("verb", "noun"))
    rows = {split: [_action(where, line, (verbs, nouns)) for where, line in table] for split, table in tables.items()}
    return Annotations("epic100", rows, (verbs, nouns), kind=PAIR, ending=".MP4", notes=notes)


_EPIC = ("narration_id", "video_id", "start_timestamp", "stop_timestamp")


def _actions(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    return read_table(file, _EPIC)


def _epic_names(file: Path, kind: str, cells: Sequence[Mapping[str, str]], notes: list[str]) -> tuple[str, ...]:
    """Returns the names of verbs or nouns: from the file beside the lists, else the most frequent wording."""
    stem = f"EPIC_100_{kind}_classes"
    listed = [path for ending in (".csv", "_v2.csv") if (path := file.with_name(stem + ending)).is_file()]
    if listed:
        numbered: dict[int, str] = {}
        for where, line in read_table(listed[0], ("id", "key")):
            if not line["id"].isdecimal() or numbered.setdefault(int(line["id"]), line["key"]) != line["key"]:
                raise ValueError(f"{where}: found id {line['id'][:80]!r}, expected each number from 0 once")
        if sorted(numbered) != list(range(len(numbered))):
            raise ValueError(f"{listed[0]}: found {len(numbered)} ids up to {max(numbered)}, expected all from 0")
        return tuple(numbered[index] for index in range(len(numbered)))
    said: dict[int, Counter[str]] = defaultdict(Counter)
    for cell in cells:
        if cell.get(f"{kind}_class", "").isdecimal():
            said[int(cell[f"{kind}_class"])][cell.get(kind, "")] += 1
    published = DATA_SETS["epic100"].classes[0][kind == "noun"]
    names = tuple(
        f"{said[index].most_common(1)[0][0] or kind} ({kind} {index})" if index in said else f"{kind} {index}"
        for index in range(max([published - 1, *said]) + 1)
    )
    notes.append(f"no {stem}.csv: {len(names)} {kind}s as published, named as the lists call them most often")
    return names


def _action(where: str, line: Mapping[str, str], classes: tuple[tuple[str, ...], tuple[str, ...]]) -> Row:
    numbers = [line.get(f"{kind}_class", "") for kind in ("verb", "noun")]
    label: tuple[str, ...] | None = None
    if any(numbers):
        for number, names, kind in zip(numbers, classes, ("verb", "noun"), strict=True):
            if not number.isdecimal() or int(number) >= len(names):
                raise ValueError(
                    f"{where}: found {kind}_class {number[:80]!r}, expected one from 0 to {len(names) - 1}"
                )
        label = tuple(numbers)
    start, end = (_seconds(where, line[name]) for name in _EPIC[2:])
    if not start < end:
        raise ValueError(f"{where}: found times {line[_EPIC[2]]} and {line[_EPIC[3]]}, expected a start before the end")
    frames = [line.get(name, "") for name in ("start_frame", "stop_frame")]
    span = (int(frames[0]), int(frames[1])) if all(frame.isdecimal() for frame in frames) else None
    return Row(line["narration_id"], label, where, start, end, frames=span, whole=line["video_id"])


def _seconds(where: str, text: str) -> float:
    """Returns the seconds of `00:01:02.50`."""
    match = re.fullmatch(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)", text)
    if match is None:
        raise ValueError(f"{where}: found the time {text[:80]!r}, expected hours:minutes:seconds")
    return int(match[1] or 0) * 3600 + int(match[2]) * 60 + float(match[3])


# --- Charades --------------------------------------------------------------------------------------------------------


def _charades(files: Files, fold: int) -> Annotations:
    names = _charades_names(files[0][0])
    rows: dict[str, list[Row]] = {}
    for file, match in files:
        part = rows.setdefault(str(split_of(match["split"])), [])
        for where, line in read_table(file, ("id", "actions")):
            told = {_charades_action(where, text, names)[0] for text in line["actions"].split(";") if text.strip()}
            part.append(Row(line["id"], tuple(sorted(told, key=list(names.values()).index)), where))
    return Annotations("charades", rows, tuple(names.values()), kind=LABELS)


def _charades_segments(files: Files, fold: int) -> Annotations:
    """Returns each annotated action as a part of its video, with all actions that happen in its middle."""
    names = _charades_names(files[0][0])
    order = {name: index for index, name in enumerate(names.values())}
    rows: dict[str, list[Row]] = {}
    for file, match in files:
        part = rows.setdefault(str(split_of(match["split"])), [])
        for where, line in read_table(file, ("id", "actions")):
            told = [_charades_action(where, text, names) for text in line["actions"].split(";") if text.strip()]
            for _, start, end in dict.fromkeys(told):
                middle = (start + end) / 2
                here = {name for name, first, last in told if first <= middle <= last}
                part.append(
                    Row(line["id"], tuple(sorted(here, key=order.__getitem__)), where, start, end, whole=line["id"])
                )
    return Annotations("charades-segments", rows, tuple(names.values()), kind=LABELS)


def _charades_names(file: Path) -> dict[str, str]:
    """Names by code, as `c092`."""
    listed = file.with_name("Charades_v1_classes.txt")
    if not listed.is_file():
        return {f"c{index:03d}": f"c{index:03d}" for index in range(DATA_SETS["charades"].classes[0][0])}
    names = {}
    for number, line in enumerate(read_lines(listed), 1):
        code, _, name = line.strip().partition(" ")
        if line.strip() and not (re.fullmatch(r"c\d{3}", code) and name.strip()):
            raise ValueError(f"{listed}:{number}: found {line.strip()[:80]!r}, expected c000 and a name")
        if code:
            names[code] = name.strip()
    return dict(sorted(names.items()))


def _charades_action(where: str, text: str, names: Mapping[str, str]) -> tuple[str, float, float]:
    try:
        code, start, end = text.split()
        first, last = sorted((float(start), float(end)))  # a few are published the wrong way round
        if code not in names or not 0 <= first <= last < float("inf"):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{where}: found the action {text.strip()[:80]!r}, expected a class from {min(names)} to {max(names)} and "
            "two times, as c092 11.90 21.20"
        ) from None
    return names[code], first, max(last, first + 0.01)


# --- AVA -------------------------------------------------------------------------------------------------------------


def _ava(files: Files, fold: int) -> Annotations:
    """Reads key frames with the actions of all people in them, as parts of 3 seconds."""
    folder = files[0][0].parent
    maps = [
        read_label_map(file)
        for pattern in ("*.pbtxt", "*.pbtxt.txt", "label*map.txt")
        for file in sorted(folder.glob(pattern))
    ]
    if not maps:
        raise ValueError(
            f"{folder}: holds no label map of AVA, such as ava_action_list_v2.2.pbtxt; put it beside the lists"
        )
    names = max(maps, key=len)
    rows, outside = {}, 0
    for file, match in files:
        split = str(split_of(match["split"]))
        excluded = {
            key
            for other in sorted(folder.glob(f"*{match['split']}_excluded_timestamps*.csv"))
            for key in read_excluded(other)
        }
        seen: dict[tuple[str, float], set[int]] = {}
        for row in read_annotations(file):
            if (row.video, row.timestamp) not in excluded:
                here = seen.setdefault((row.video, row.timestamp), set())
                outside += row.action is not None and row.action not in names
                here |= {row.action} & names.keys() if row.action is not None else set()
        rows[split] = [
            Row(
                video,
                tuple(names[number] for number in names if number in actions),
                f"{file}, {video} at {time:g} s",
                max(time - _AVA_REACH, 0),
                time + _AVA_REACH,
                whole=video,
            )
            for (video, time), actions in seen.items()
        ]
    notes = [f"{outside} labels are of actions that the label map leaves out"] if outside else []
    return Annotations("ava", rows, tuple(names.values()), kind=LABELS, ending=".mkv", notes=notes)


# --- Moments in Time -------------------------------------------------------------------------------------------------

MOMENTS_NAMES = "moments_categories.txt"


def _moments(files: Files, fold: int) -> Annotations:
    rows: dict[str, list[Row]] = {}
    for file, match in files:
        part = rows.setdefault(str(split_of(match["split"])), [])
        reader = csv_reader(read_lines(file))
        try:
            for cells in reader:
                cells = [cell.strip() for cell in cells]
                if not any(cells) or (not part and cells[0].casefold() in ("filename", "file", "path", "video")):
                    continue
                if len(cells) < 2 or not cells[0] or not cells[1]:
                    raise ValueError(f"{file}:{reader.line_num}: found {','.join(cells)[:80]!r}, expected file,label")
                part.append(Row(cells[0], cells[1], f"{file}:{reader.line_num}"))
        except csv.Error as error:
            raise ValueError(f"{file}:{reader.line_num}: cannot be read as CSV ({error})") from error
    return Annotations("moments", rows, moments_names(files[0][0].parent) or (), strict=True)


def moments_names(folder: Path) -> tuple[str, ...] | None:
    """Returns the class names of Moments in Time in a folder, of lines `clapping,0`; None without such a file.

    Raises:
        ValueError: If the numbers are not all from 0 on, or a line cannot be read.
    """
    file = folder / MOMENTS_NAMES
    if not file.is_file():
        return None
    lines = [line.strip() for line in read_lines(file) if line.strip()]
    numbered = {}
    for place, line in enumerate(lines):
        name, _, number = line.rpartition(",")
        name, number = (name.strip().strip('"'), number.strip()) if name else (line, str(place))
        if not number.isdecimal() or not name or int(number) in numbered:
            raise ValueError(f"{file}: found {line[:80]!r}, expected a name and its number, each number once")
        numbered[int(number)] = name
    if sorted(numbered) != list(range(len(numbered))):
        raise ValueError(f"{file}: found {len(numbered)} numbers up to {max(numbered)}, expected all from 0 on")
    return tuple(numbered[index] for index in range(len(numbered)))


# --- all of them -----------------------------------------------------------------------------------------------------


def _named_as(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_WORDS = "(?P<split>train|training|val|validation|validate|test)"
_JESTER = _named_as(rf"jester-v1-{_WORDS}\.csv")
_CHARADES = _named_as(rf"charades_v1_{_WORDS}\.csv")
_DIALECTS: dict[str, _Dialect] = {
    "numbered": _Dialect(_named_as(r"(?P<split>train|val|test)list0?(?P<fold>[1-9])\.txt"), _numbered_lists),
    "hmdb51": _Dialect(_named_as(r"(?P<label>.+)_test_split(?P<fold>[1-9])\.txt"), _hmdb51),
    "jester": _Dialect(_JESTER, _jester),
    "kinetics": _Dialect(
        _named_as(rf"(?:kinetics[-_ ]?|k)(?P<edition>400|600|700)(?:[-_ ]?2020)?[-_ ]{_WORDS}(?:_list|_set)?\.csv"),
        _kinetics,
    ),
    "ssv1": _Dialect(_named_as(rf"something-something-v1-{_WORDS}\.csv"), _something_v1),
    "ssv2": _Dialect(_named_as(rf"something-something-v2-{_WORDS}\.json"), _something_v2),
    "diving48": _Dialect(_named_as(r"diving48(?P<edition>_v2)?_(?P<split>train|test)\.json"), _diving48),
    "epic100": _Dialect(_named_as(rf"epic_100_{_WORDS}(?:_timestamps)?\.csv"), _epic100),
    "charades": _Dialect(_CHARADES, _charades),
    "charades-segments": _Dialect(_CHARADES, _charades_segments),
    "ava": _Dialect(_named_as(r"ava_(?P<split>train|val)_v[\d.]+\.csv"), _ava),
    "moments": _Dialect(_named_as(r"(?P<split>train|training|val|validation|test)set\.csv"), _moments),
}
PUBLISHED = ("ucf101", *(name for name in _DIALECTS if name != "numbered"))
"""Dialects that are known by the names of their files."""
