"""Parsers for the lists and folders of data sets; `lists.py` makes a `VideoList` of their results."""

import csv
import os
import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from reference.data.annotations import MOMENTS_NAMES, SPLITS, is_list_folder, numbered_names, split_of
from reference.data.finding import Entry, composed, is_plain_folder, path_below
from reference.data.prepared import is_prepared
from reference.data.text import csv_reader, decoded, read_lines
from vov3d.video import VIDEO_ENDINGS, looks_like_picture, looks_like_video

LISTS = ("something-something-v2-{}.json", "something-something-v1-{}.csv", "{}.csv", "{}.txt", "{}.json")
_VIDEOS = tuple(VIDEO_ENDINGS)
_LIST_FOLDERS = ("", "labels", "annotations")  # places of the lists in a data set
_ROOTS = ("", "20bn-something-something-v1", "20bn-something-something-v2", "videos", "frames", "clips")
_LIST_ENDINGS = (".csv", ".tsv", ".txt", ".json", ".list", ".lst")
# Files that operating systems, cameras and players leave beside videos.
_LEFTOVERS = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found", "icon\r")
_COMPANIONS = (".srt", ".vtt", ".ass", ".ssa", ".sub", ".idx", ".nfo", ".thm", ".lrv", ".part", ".url", ".ini")
_PATH_WORDS = (
    "path file filename filepath name video videos videoname videopath videoid clip clipname clippath clipid id"
)
_LABEL_WORDS = "label labels labelid labelname class classes classid classname tag tags category target action verb y"


# --- splits ----------------------------------------------------------------------------------------------------------


class SplitError(ValueError):
    """A split was asked for that is not there, or none where there are several."""


def chosen_split(source: Path, split: str | None, there: Sequence[str]) -> str:
    """Returns the split that was asked for, or the only one.

    Raises:
        SplitError: If there is no such split, or none was asked for where there are several.
    """
    wanted = split_of(split) if split else None
    if wanted in there:
        return str(wanted)
    if split is None and len(there) == 1:
        return there[0]
    asked = f"has no split {split!r}" if split else "has several splits"
    raise SplitError(f"{source}: {asked}; say which with {' or '.join(f'--split {name}' for name in there)}")


def check_no_split(source: Path, split: str | None) -> None:
    """Raises SplitError if a split was asked for where there is only one set."""
    if split is not None:
        raise SplitError(f"{source}: --split {split} has no effect, there is only one set; leave it out")


# --- class folders ---------------------------------------------------------------------------------------------------


class Folders(NamedTuple):
    """Class folders: class names in index order, videos, and notes about them."""

    classes: tuple[str, ...]
    entries: list[Entry]
    notes: tuple[str, ...]


def from_folders(source: Path, split: str | None) -> Folders:
    """Returns class names and videos of class folders; the classes are those of all splits together."""
    left_out: list[str] = []
    parts = {split_of(folder.name): folder for folder in _subfolders(source, left_out)}
    if parts and None not in parts:
        chosen = parts[chosen_split(source, split, [str(part) for part in parts])]
    else:
        check_no_split(source, split)
        chosen, parts = source, {None: source}
    classes = sorted({composed(folder.name) for part in parts.values() for folder in _subfolders(part, [])})
    if not classes:
        raise ValueError(f"{chosen}: holds no class folders; expected one folder a class, with its videos inside")
    folders = _subfolders(chosen, left_out if chosen != source else [])
    entries = [entry for folder in folders for entry in _videos_of_class(folder, left_out)]
    left_out = [os.path.relpath(item, source) for item in left_out]
    told = f"left out, no videos: {', '.join(left_out[:5])}" + (f" and {len(left_out) - 5} more" * (len(left_out) > 5))
    return Folders(tuple(classes), entries, (told,) if left_out else ())


def check_no_lists(source: Path, classes: object) -> None:
    """Refuses class folders with a list of videos beside them.

    Raises:
        ValueError: If there is a list; a file that was given as `classes` is none.
    """
    for folder in (source, *(f for f in _subfolders(source, []) if split_of(f.name))):
        for file in sorted(folder.iterdir()):
            given = isinstance(classes, (str, Path)) and Path(classes).is_file() and file.samefile(classes)
            if file.suffix.lower() in _LIST_ENDINGS and file.is_file() and not given and _is_list(file):
                raise ValueError(
                    f"{source}: holds class folders, and {file.name}, which reads as a list of videos; say which with "
                    f"layout='folder', or give the list itself, {file}"
                )


def holds_class_folders(source: Path) -> bool:
    """Returns True if folders in a folder hold videos, and their names are not those of plain video folders."""
    folders = [item for item in _subfolders(source, []) if not is_plain_folder(item.name)]
    return any(looks_like_video(file) for folder in folders for file in folder.iterdir())


def _is_list(file: Path) -> bool:
    """Returns True if most lines of a file name a video, or end in a number as those of a list do."""
    with file.open("rb") as stream:
        head = stream.read(1 << 16)
    try:
        text = decoded(head, file)
    except ValueError:
        text = head.decode("utf-8", errors="replace")
    if file.name == MOMENTS_NAMES or numbered_names(file):
        return False
    lines = [line.strip().lower() for line in text.splitlines()[:200] if line.strip()]
    if file.suffix.lower() == ".json":
        return any(ending in text.lower() for ending in _VIDEOS) or '"template"' in text
    count = sum(
        any(ending in line for ending in _VIDEOS)
        or (len(cells := re.split(r"[ ,;\t]", line)) > 1 and cells[-1].isdecimal())
        for line in lines
    )
    return "youtube_id" in text or count > len(lines) / 2


def _videos_of_class(folder: Path, left_out: list[str]) -> list[Entry]:
    items = []
    for item in sorted(item for item in folder.iterdir() if not item.name.startswith(".")):
        if item.name.casefold() in _LEFTOVERS or (item.suffix.lower() in _COMPANIONS and not item.is_dir()):
            left_out.append(str(item))
        else:
            items.append(item)
    folders = [item for item in items if item.is_dir()]
    # one is enough: the check of a whole data set opens them all
    if folders and not any(looks_like_picture(file) for file in folders[0].iterdir()):
        raise ValueError(f"{folders[0]}: holds no pictures; in a class folder, a folder is the frames of one video")
    for item in items:
        if looks_like_picture(item) and not item.is_dir():
            raise ValueError(f"{item}: is a picture; a class folder holds videos, or a folder of frames for each video")
        if not looks_like_video(item) and not item.is_dir():
            raise ValueError(f"{item}: is neither a video nor a folder of frames; move it out of the class folder")
    return [Entry(item, folder.name, str(item)) for item in items]


def _subfolders(folder: Path, left_out: list[str]) -> list[Path]:
    """Returns the folders in a folder; notes hidden and system folders, which it leaves out."""
    found = []
    for item in sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")):
        if item.name.casefold() in _LEFTOVERS:
            left_out.append(str(item))
        else:
            found.append(item)
    return found


# --- list files ------------------------------------------------------------------------------------------------------


def list_in(source: Path, split: str | None) -> Path | None:
    """Returns the list that a file is, or that the folder of a data set holds; None in folders without lists."""
    if not source.is_dir():
        return source
    found: dict[str, Path] = {}
    folders = [_files_by_name(source / folder) for folder in _LIST_FOLDERS]
    for name, aliases in SPLITS.items():
        names = [pattern.format(alias) for pattern in LISTS for alias in aliases]
        files = (file for folder in folders for pattern in names if (file := folder.get(pattern)))
        if file := next(files, None):
            found[name] = file
    return found[chosen_split(source, split, list(found))] if found else None


def _files_by_name(folder: Path) -> dict[str, Path]:
    """Returns the files of a folder by name in lower case; one that is spelt so itself goes first."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file()] if folder.is_dir() else []
    return {file.name.casefold(): file for file in sorted(files, key=lambda file: file.name == file.name.casefold())}


def layout_of(file: Path) -> str:
    """Returns the layout of a list, by its ending and its first line."""
    if file.suffix.lower() == ".json":
        return "ssv2"
    first = next((line for line in read_lines(file) if line.strip()), "")
    if is_prepared(first):
        return "sections"
    if "youtube_id" in re.split(r"[,;\t]", first.replace('"', "").casefold()):
        return "kinetics"
    return "ssv1" if first.partition(";")[0].isdecimal() and ";" in first else "csv"


def roots_of(source: Path, root: str | Path | None) -> list[Path]:
    """Returns the folders in which the videos of a list, or of a folder with lists, are looked for.

    Raises:
        FileNotFoundError: If `root` is not there.
    """
    if root is not None and not Path(root).is_dir():
        raise FileNotFoundError(f"{root}: no such folder; root is where the videos of {source} lie")
    if root is not None:
        return [Path(root)]
    if source.is_dir():
        return [source]
    folder = Path(os.path.abspath(source)).parent  # where it was named, not where a link leads
    return [source.parent, folder.parent] if is_list_folder(folder.name) else [source.parent]


def from_paths(file: Path, layout: str | None, root: str | Path | None) -> tuple[list[Entry], list[str]]:
    """Returns the videos that a list of paths names, found under `root` or beside the list, and notes about them.

    Args:
        file: The list.
        layout: `"csv"`, `"frames"`, or None for a list that is refused if ambiguous.
        root: Where its videos lie.
    """
    return _from_paths(file, layout, roots_beside(file, root))


def roots_beside(file: Path, root: str | Path | None) -> list[Path]:
    """Returns the folders in which the paths of a list may begin: the given one, or the usual ones beside the list.

    Raises:
        FileNotFoundError: If the one that is given is not there.
    """
    roots_of(file, root)
    above = [file.parent, file.parent.parent] if file.parent.name in _LIST_FOLDERS else [file.parent]
    roots = [Path(root)] if root is not None else [base / name for base in above for name in _ROOTS]
    return [folder for folder in roots if folder.is_dir()]


def is_path_word(text: str) -> bool:
    """Returns True if a cell of the header names the column of the videos."""
    return _word(text) in _PATH_WORDS.split()


def is_label_word(text: str) -> bool:
    """Returns True if a cell of the header names the column of the labels."""
    return _word(text) in _LABEL_WORDS.split()


def _word(text: str) -> str:
    return re.sub(r"[\W_]", "", text).lower()


def class_key(name: str) -> str:
    """Returns a class name for comparing: without underscores, brackets of templates, and upper case."""
    return " ".join(re.sub(r'[\[\]"]', "", composed(name)).replace("_", " ").split()).casefold()


def whole_numbers(labels: Sequence[str]) -> list[str]:
    """Returns labels, with `3.0` as `3` if all are such, as pandas writes whole numbers of a column with gaps."""
    points = bool(labels) and all(re.fullmatch(r"[0-9]+\.0", label) for label in labels)
    return [label.removesuffix(".0") if points else label for label in labels]


def check_no_json(file: Path, lines: Sequence[tuple[int, str]]) -> None:
    """Raises ValueError if all lines of a list, given with their numbers, are objects of JSON."""
    if lines and all(line.startswith("{") and line.endswith("}") for _, line in lines):
        number, line = lines[0]
        raise ValueError(
            f"{file}:{number}: found {short(line)!r}, JSON lines, which no layout has: expected a path and a label, "
            "separated by space, comma or tab; write such a list of them"
        )


# --- lists of paths --------------------------------------------------------------------------------------------------


def short(text: str) -> str:
    """Shortens a text for an error."""
    return text if len(text) <= 80 else f"{text[:77]}..."


class _Reading(NamedTuple):
    """One way to read the lines of a list: paths and labels, and which of the paths are there."""

    paths: list[Path]
    labels: list[str]
    there: list[bool]

    def rank(self) -> tuple[int, bool]:
        """Returns a sort key that prefers readings whose paths exist: paths may hold spaces and commas."""
        return sum(self.there), all(label.isdecimal() for label in self.labels)

    def begins_with_heading(self) -> bool:
        """Returns True if the first line names columns."""
        first, others = self.paths[0], [path.name.lower() for path in self.paths[1:]]
        if self.there[0] or not others or first.name.lower().endswith(_VIDEOS):
            return False
        if is_path_word(first.name) and is_label_word(self.labels[0]):
            return True
        numbers = [label.isdecimal() for label in self.labels]
        return all(name.endswith(_VIDEOS) for name in others) or (not numbers[0] and all(numbers[1:]))


def _from_paths(file: Path, layout: str | None, roots: Sequence[Path]) -> tuple[list[Entry], list[str]]:
    """Returns the videos of a list of paths and labels, and notes about them."""
    lines = [(number, line.strip()) for number, line in enumerate(read_lines(file), 1) if line.strip()]
    check_no_json(file, lines)
    separators = _OF_FRAMES if layout == "frames" else _SEPARATORS
    expected = "a path, a number of frames and a label" if layout == "frames" else "a path and a label"
    for number, line in lines[layout == "frames" :]:  # the first may be a heading
        if not any(separate(line) for separate in separators):
            raise ValueError(
                f"{file}:{number}: found {short(line)!r}, expected {expected}, separated by space, comma or tab"
                + ("; say layout='classpath' if the folder is the class" if "/" in line else "")
            )
    if layout == "frames" and lines and not any(separate(lines[0][1]) for separate in separators):
        heading, lines = [lines[0]], lines[1:]
    else:
        heading = []
    if not lines:
        return [], []
    reading = _best_reading(file, lines, separators, roots)
    if not heading and reading.begins_with_heading():
        heading, lines = lines[:1], lines[1:]
        reading = _best_reading(file, lines, separators, roots)
    if layout is None:
        _check_columns(file, lines, reading)
    entries = [
        Entry(path, label, f"{file}:{number}", there)
        for path, label, there, (number, _) in zip(*reading, lines, strict=True)
    ]
    return entries, [f"line {number}, {short(line)!r}, is a heading" for number, line in heading]


def _best_reading(
    file: Path,
    lines: Sequence[tuple[int, str]],
    separators: Sequence[Callable[[str], tuple[str, str] | None]],
    roots: Sequence[Path],
) -> _Reading:
    listing = cache(lambda parent: set(os.listdir(parent)) if os.path.isdir(parent) else set())
    readings = []
    for separate in separators:
        pairs = [pair for _, line in lines if (pair := separate(line))]
        for root in roots if len(pairs) == len(lines) else ():
            paths = [path_below(root, path) for path, _ in pairs]
            there = [path.name in listing(path.parent) for path in paths]
            readings.append(_Reading(paths, whole_numbers([label for _, label in pairs]), there))
    if not readings:
        raise ValueError(f"{file}: its lines use different separators; use one of space, comma and tab throughout")
    return max(readings, key=_Reading.rank)


def _check_columns(file: Path, lines: Sequence[tuple[int, str]], reading: _Reading) -> None:
    """Refuses lists whose numbers may be something else than classes.

    Raises:
        ValueError: Names what was found, and the layout that says how it is meant.
    """
    number, line = lines[0]
    if _is_split_of_hmdb51(file, reading):
        raise ValueError(
            f"{file}:{number}: found {short(line)!r}, as in the split lists of HMDB51: there 1 is training, 2 test and "
            "0 neither, and the class is in the list's own name; make a list of path and class of them, or give "
            "layout='csv' if the numbers are classes"
        )
    videos = [pair for pair, label in zip(lines, reading.labels, strict=True) if label.lower().endswith(_VIDEOS)]
    if not any(reading.there) and len(videos) >= max(len(lines) - 1, 1):  # one line may be a heading
        number, line = videos[0]
        raise ValueError(f"{file}:{number}: found {short(line)!r}, the video behind its label: expected the path first")
    cells = [re.split(r"[ ,\t]+", line) for _, line in lines]
    numbers = all(len(row) > 2 and row[-1].isdecimal() and row[-2].isdecimal() for row in cells)
    joined = all(not label.isdecimal() for label in reading.labels)  # two numbers were taken for a name
    if numbers and (joined or not any(reading.there)):
        raise ValueError(
            f"{file}:{number}: found {short(line)!r}: is it path, frames and label, as in lists of mmaction2? Say so "
            "with layout='frames', or layout='csv' if the last is the label and all before it the path"
        )
    columns = {line.count(",") + 1 for _, line in lines} | {line.count("\t") + 1 for _, line in lines}
    if not any(reading.there) and min(columns - {1}, default=1) > 2:
        raise ValueError(
            f"{file}:{number}: found {short(line)!r}, {max(columns)} columns, and no file of what is read as the path, "
            f"{short(str(reading.paths[0]))}; expected a path and a label"
        )


def _is_split_of_hmdb51(file: Path, reading: _Reading) -> bool:
    if not set(reading.labels) <= {"0", "1", "2"}:
        return False
    of_hmdb51 = re.compile(r"_np\d_[a-z]{2}_(?:goo|med|bad)_\d+$")
    return re.search(r"_test_split\d$", file.stem) is not None or all(of_hmdb51.search(p.stem) for p in reading.paths)


def _by_tab(line: str) -> tuple[str, str] | None:
    return _by_sign(line, "\t")


def _by_comma(line: str) -> tuple[str, str] | None:
    return _by_sign(line, ",")


def _by_sign(line: str, sign: str) -> tuple[str, str] | None:
    try:
        *path, label = next(csv_reader([line], sign))
    except csv.Error:  # a field that is too long
        return None
    return (sign.join(path).strip(), label.strip()) if any(path) and label.strip() else None


def split_by_space(line: str) -> tuple[str, str] | None:
    """Splits a line behind the ending of a video file, as names may hold spaces, or else at the last space."""
    if quoted := re.fullmatch(r'("(?:[^"]|"")+")\s+(.+)', line):
        return _unquoted(quoted[1]), _unquoted(quoted[2])
    small, place = line.lower(), None
    if len(small) == len(line):
        for gap in re.finditer(r"\s+", line):
            if small.endswith(_VIDEOS, 0, gap.start()):
                place = gap
    if place is not None:
        return line[: place.start()], _unquoted(line[place.end() :])
    path, *label = line.rsplit(None, 1)
    return (path, _unquoted(label[0])) if label else None


def _unquoted(text: str) -> str:
    return text[1:-1].replace('""', '"') if re.fullmatch('".+"', text) else text


def _three(line: str, separator: str | None) -> tuple[str, str] | None:
    """Returns path and label of `path frames label`."""
    path, *others = (cell.strip() for cell in line.rsplit(separator, 2))
    return (path, others[1]) if len(others) == 2 and others[0].isdecimal() and path else None


_SEPARATORS: tuple[Callable[[str], tuple[str, str] | None], ...] = (_by_tab, _by_comma, split_by_space)
_OF_FRAMES = tuple(partial(_three, separator=separator) for separator in ("\t", ",", None))
