"""What the lists and folders of data sets say, as they stand on disk; `video_lists` makes a `VideoList` of it."""

import csv
import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from vov3d.labels import read_label_names

VIDEOS = (".mp4", ".webm", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".ogv")
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
LISTS = ("something-something-v2-{}.json", "something-something-v1-{}.csv", "{}.csv", "{}.txt", "{}.json")
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "validate", "valid"),
    "test": ("test", "testing"),
}
_LIST_FOLDERS = ("", "labels", "annotations")  # where in a data set its lists lie
_ROOTS = ("", "20bn-something-something-v1", "20bn-something-something-v2", "videos", "frames", "clips")
_HEADING = r"\W*(?:video_?)?(?:path|file|filename|name|video)\W+(?:label|class|label_?id)\W*"


class Entry(NamedTuple):
    """A video as a list names it: `where` is the file and line, `there` whether it was found."""

    path: Path
    label: str
    where: str
    there: bool = True


class Row(NamedTuple):
    """A line of a list that names a video by its id: `where` is the file and line."""

    name: str
    label: str
    where: str


# --- splits ----------------------------------------------------------------------------------------------------------


class SplitError(ValueError):
    """A split was asked for that is not there, or none where there are several."""


def split_of(name: str) -> str | None:
    """`"val"` for a folder, a list or a word such as `validation`; None for what names no split."""
    return next((split for split, names in SPLITS.items() if name.casefold() in names), None)


def chosen_split(source: Path, split: str | None, there: Sequence[str]) -> str:
    """The split that was asked for, or the only one.

    Raises:
        SplitError: If there is no such split, or none was asked for where there are several.
    """
    wanted = split_of(split) if split else None
    if wanted in there:
        return str(wanted)
    if split is None and len(there) == 1:
        return there[0]
    asked = f"has no split {split!r}" if split else "has several splits"
    raise SplitError(f"{source}: {asked}; say which with split={' or '.join(map(repr, there))}")


def check_no_split(source: Path, split: str | None) -> None:
    """Raises SplitError if a split was asked for where there is only one set."""
    if split is not None:
        raise SplitError(f"{source}: split={split!r} has no effect, there is only one set; leave it out")


# --- class folders ---------------------------------------------------------------------------------------------------


def from_folders(source: Path, split: str | None) -> tuple[tuple[str, ...], list[Entry]]:
    """Class names and videos of class folders; the classes are those of all splits together."""
    parts = {split_of(folder.name): folder for folder in _subfolders(source)}
    if parts and None not in parts:
        chosen = parts[chosen_split(source, split, [str(part) for part in parts])]
    else:
        check_no_split(source, split)
        chosen, parts = source, {None: source}
    classes = sorted({folder.name for part in parts.values() for folder in _subfolders(part)})
    if not classes:
        raise ValueError(f"{chosen}: holds no class folders; expected one folder a class, with its videos inside")
    return tuple(classes), [entry for folder in _subfolders(chosen) for entry in _videos_of_class(folder)]


def _videos_of_class(folder: Path) -> list[Entry]:
    items = sorted(item for item in folder.iterdir() if not item.name.startswith("."))
    folders = [item for item in items if item.is_dir()]
    # one is enough: the check of a whole data set opens them all
    if folders and not any(file.suffix.lower() in PICTURES for file in folders[0].iterdir()):
        raise ValueError(f"{folders[0]}: holds no pictures; in a class folder, a folder is the frames of one video")
    for item in items:
        if item.suffix.lower() in PICTURES and not item.is_dir():
            raise ValueError(f"{item}: is a picture; a class folder holds videos, or a folder of frames for each video")
        if item.suffix.lower() not in VIDEOS and not item.is_dir():
            raise ValueError(f"{item}: is neither a video nor a folder of frames; move it out of the class folder")
    return [Entry(item, folder.name, str(item)) for item in items]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))


# --- list files ------------------------------------------------------------------------------------------------------


def list_in(source: Path, split: str | None) -> Path | None:
    """The list that a file is, or that the folder of a data set holds; None in folders without lists."""
    if not source.is_dir():
        return source
    found: dict[str, Path] = {}
    for name, aliases in SPLITS.items():
        names = [pattern.format(alias) for pattern in LISTS for alias in aliases]
        files = (source / folder / file for folder in _LIST_FOLDERS for file in names)
        if file := next((file for file in files if file.is_file()), None):
            found[name] = file
    return found[chosen_split(source, split, list(found))] if found else None


def layout_of(file: Path) -> str:
    """The layout of a list, told by its ending and its first line."""
    if file.suffix.lower() == ".json":
        return "ssv2"
    first = next((line for line in _lines(file) if line.strip()), "")
    if "youtube_id" in first.split(","):
        return "kinetics"
    return "ssv1" if re.match(r"\d+;", first) else "csv"


def names_beside(listed: Path, layout: str) -> tuple[str, ...]:
    """The class names that Something-Something publishes beside its lists; none where there is no such file."""
    if layout not in ("ssv1", "ssv2"):
        return ()
    names = (f"something-something-{layout[2:]}-labels", "labels")
    files = [listed.with_name(name + ending) for name in names for ending in (".json", ".csv")]
    return next((tuple(read_label_names(file)) for file in files if file.is_file()), ())


def from_file(file: Path, layout: str, root: str | Path | None, split: str | None) -> list[Entry]:
    """The videos that a list names, found under `root` or beside the list."""
    if root is not None and not Path(root).is_dir():
        raise FileNotFoundError(f"{root}: no such folder; root is where the videos of {file} lie")
    above = [file.parent, file.parent.parent] if file.parent.name in _LIST_FOLDERS else [file.parent]
    roots = [Path(root)] if root is not None else [base / name for base in above for name in _ROOTS]
    roots = [folder for folder in roots if folder.is_dir()]
    if layout == "csv":
        return _from_csv(file, roots)
    if layout == "kinetics":
        return _found(_kinetics(file, split), roots, depth=2, ending=".mp4")
    rows, ending = (_ssv1(file), "") if layout == "ssv1" else (_ssv2(file), ".webm")
    return _found(rows, roots, depth=0, ending=ending)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{file}: is not text; expected a list of videos and labels in UTF-8") from None


def _kinetics(file: Path, split: str | None) -> list[Row]:
    """The lines of a Kinetics list, of one split."""
    reader = csv.DictReader(_lines(file))
    needed, there = ("label", "youtube_id", "time_start", "time_end"), list(reader.fieldnames or ())
    if lacking := [name for name in needed if name not in there]:
        hint = "; the list of a test set has no labels" if lacking == ["label"] else ""
        raise ValueError(f"{file}:1: found columns {','.join(there)}, expected {','.join(needed)}{hint}")
    rows: dict[str, list[Row]] = {}
    for line in reader:
        where = f"{file}:{reader.line_num}"
        try:
            times = [int(float(line[name])) for name in needed[2:]]
        except (TypeError, ValueError):
            found = f"{line['time_start']!r} and {line['time_end']!r}"
            raise ValueError(f"{where}: found times {found}, expected seconds") from None
        row = Row(f"{line['youtube_id']}_{times[0]:06d}_{times[1]:06d}", line["label"], where)
        rows.setdefault(split_of(line.get("split") or "") or "", []).append(row)
    if list(rows) in ([], [""]):
        check_no_split(file, split)
        return rows.get("", [])
    return rows[chosen_split(file, split, list(rows))]


def _ssv1(file: Path) -> list[Row]:
    """The lines of a list of Something-Something V1."""
    rows = []
    for number, line in enumerate(_lines(file), 1):
        name, _, label = line.strip().partition(";")
        if line.strip() and not (name and label):
            hint = "; the list of a test set has no labels" if name else ""
            raise ValueError(f"{file}:{number}: found {line.strip()!r}, expected id;label{hint}")
        if name:
            rows.append(Row(name, label, f"{file}:{number}"))
    return rows


def _ssv2(file: Path) -> list[Row]:
    """The entries of a list of Something-Something V2."""
    expected = "expected {'id': ..., 'template': 'Holding [something]', ...}"
    try:
        content = json.loads("\n".join(_lines(file)))
    except ValueError as error:
        raise ValueError(f"{file}: is not the JSON of a list ({error}); {expected}") from error
    if not isinstance(content, list):
        raise ValueError(f"{file}: found a JSON {type(content).__name__}, expected a list of entries; {expected}")
    rows = []
    for number, item in enumerate(content, 1):
        where, item = f"{file}, entry {number}", item if isinstance(item, dict) else {"entry": item}
        if not item.get("id") or not isinstance(item.get("template"), str):
            hint = "; the list of a test set has no labels" if item.keys() == {"id"} else ""
            raise ValueError(f"{where}: found {str(item)[:80]}, {expected}{hint}")
        rows.append(Row(str(item["id"]), re.sub(r"[\[\]]", "", item["template"]), where))
    return rows


def _found(rows: list[Row], roots: Sequence[Path], depth: int, ending: str) -> list[Entry]:
    """The videos of names without folder and ending, under the root that holds the most of them."""
    best: dict[str, list[Path]] = {}
    names, place = {row.name for row in rows}, roots[0] if roots else Path()
    for folder in roots:
        files = _videos_under(folder, depth, frames=depth == 0)
        if len(names & files.keys()) > len(names & best.keys()):
            best, place = files, folder
    entries = []
    for name, label, where in rows:
        # Kinetics may hold one part of a video twice, in the folders of two classes
        paths = sorted(best.get(name, ()), key=lambda path: class_key(path.parent.name) != class_key(label))
        expected = place / label.replace(" ", "_") if depth else place
        entries.append(Entry(paths[0] if paths else expected / f"{name}{ending}", label, where, bool(paths)))
    return entries


def _videos_under(folder: Path, depth: int, frames: bool) -> dict[str, list[Path]]:
    """Videos by their name without ending, down to a depth; `frames` counts folders as videos."""
    found: dict[str, list[Path]] = {}
    for item in folder.iterdir():
        if item.suffix.lower() in VIDEOS:
            found.setdefault(item.stem, []).append(item)
        elif frames:
            found.setdefault(item.name, []).append(item)
        elif depth and item.is_dir():
            for name, paths in _videos_under(item, depth - 1, frames).items():
                found.setdefault(name, []).extend(paths)
    return found


def class_key(name: str) -> str:
    """A class name as it is compared: folders have underscores for spaces, templates brackets, cases differ."""
    return " ".join(re.sub(r'[\[\]"]', "", name).replace("_", " ").split()).casefold()


# --- lists of paths --------------------------------------------------------------------------------------------------


def _from_csv(file: Path, roots: Sequence[Path]) -> list[Entry]:
    """The videos of a list of paths and labels."""
    lines = [(number, line.strip()) for number, line in enumerate(_lines(file), 1) if line.strip()]
    if lines and re.fullmatch(_HEADING, lines[0][1], re.IGNORECASE):
        lines = lines[1:]
    for number, line in lines:
        if not any(separate(line) for separate in _SEPARATORS):
            raise ValueError(
                f"{file}:{number}: found {line[:80]!r}, expected a path and a label, apart by space, comma or tab"
            )
    listing = cache(lambda parent: {item.name for item in parent.iterdir()} if parent.is_dir() else set())
    readings = []
    for separate in _SEPARATORS:
        pairs = [pair for _, line in lines if (pair := separate(line))]
        for root in roots if len(pairs) == len(lines) else ():
            paths = [root / path for path, _ in pairs]
            there = [path.name in listing(path.parent) for path in paths]
            labels = [label for _, label in pairs]
            readings.append((sum(there), all(label.isdecimal() for label in labels), paths, labels, there))
    if not readings:
        raise ValueError(f"{file}: its lines are not all apart by the same of space, comma and tab")
    # what is there tells how to read it: paths may hold spaces and commas
    *_, paths, labels, there = max(readings, key=lambda reading: reading[:2])
    numbers = [f"{file}:{number}" for number, _ in lines]
    return [Entry(*entry) for entry in zip(paths, labels, numbers, there, strict=True)]


def _by_tab(line: str) -> tuple[str, str] | None:
    path, _, label = line.rpartition("\t")
    return (path.strip(), label.strip()) if path.strip() else None


def _by_comma(line: str) -> tuple[str, str] | None:
    *path, label = next(csv.reader([line]))
    return (",".join(path).strip(), label.strip()) if any(path) and label.strip() else None


def _by_space(line: str) -> tuple[str, str] | None:
    """Behind the ending of a video file, which names with spaces may follow, else at the last space."""
    endings = "|".join(map(re.escape, VIDEOS))
    ends = [match.end() for match in re.finditer(rf"(?:{endings})(?=\s)", line, re.IGNORECASE)]
    path, label = (line[: ends[-1]], line[ends[-1] :]) if ends else [*line.rsplit(None, 1), "", ""][:2]
    return (path.strip(), label.strip()) if path.strip() and label.strip() else None


_SEPARATORS: tuple[Callable[[str], tuple[str, str] | None], ...] = (_by_tab, _by_comma, _by_space)
