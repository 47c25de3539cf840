"""Finds the videos of a list: in the folder that it names, in class folders, flat, or in parts."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from vov3d.video import VIDEO_ENDINGS, Section

Labels = str | tuple[str, ...] | None


class Row(NamedTuple):
    """A line of a list.

    Attributes:
        name: The path of its video below some folder, or its id; with or without an ending.
        label: The class, all classes of a list of many labels, or None where the list tells none.
        where: The file and line.
        start: Seconds from the start of the video, or None for all of it.
        end: Where it ends.
        frames: The same in frames, for folders of frames.
        whole: The id under which this part lies in a file of its own, if it was cut out.
    """

    name: str
    label: Labels
    where: str
    start: float | None = None
    end: float | None = None
    frames: tuple[int, int] | None = None
    whole: str = ""


class Entry(NamedTuple):
    """A video as a list names it.

    Attributes:
        path: The file, or folder of frames.
        label: Its class or classes; None where the list tells none.
        where: The file and line.
        there: Whether it was found.
        section: Which part of it is meant; None for all of it.
    """

    path: Path
    label: Any
    where: str
    there: bool = True
    section: Section | None = None


_DEPTH = 5  # folders below a root that are looked through


class Finder:
    """All videos under some folders, by name without ending.

    Folders of frames are found by the names that are looked for; they are not opened.
    """

    def __init__(self, roots: Sequence[Path], names: Iterable[str], classes: Iterable[str] = ()) -> None:
        """Looks through the folders.

        Args:
            roots: The folders; what lies in several is taken once.
            names: Names that may be folders of frames.
            classes: Names of folders that hold the videos of a class each.
        """
        self.roots = roots
        self._classes = {folder_key(name) for name in classes}
        self._found: dict[str, list[str]] = {}
        self._folded: dict[str, list[str]] | None = None
        wanted, seen = {composed(stem_of(name)) for name in names}, set[str]()
        for root in roots:
            for folder, spelt in _walk(os.path.join(root, ""), wanted, _DEPTH):
                path, name = folder + spelt, composed(spelt)
                if len(roots) > 1 and (key := os.path.abspath(path)) not in seen:
                    seen.add(key)
                elif len(roots) > 1:
                    continue
                self._found.setdefault(name if name in wanted else stem_of(name), []).append(path)

    def find(self, name: str, parents: Sequence[str] = (), strict: bool = False) -> Path | None:
        """Returns the video of a name; None if it is not there.

        Args:
            name: A path or an id, with or without an ending.
            parents: Names of folders that it is best in, beside its own.
            strict: Whether a video in the folder of another class is another video.
        """
        if os.path.isabs(name):
            place = path_below(Path(os.sep), name)
            return place if place.exists() else None
        folder, _, base = composed(name).rpartition("/")
        for root in self.roots if folder else ():
            if os.path.exists(path := os.path.join(root, name)):
                return Path(path)
        candidates = self._found.get(stem_of(base), []) or self._found.get(base, [])
        if not candidates and strict:  # UCF101 spells HandstandPushups in two ways
            candidates = self._by_small_letters().get(stem_of(base).casefold(), [])
        if len(candidates) == 1 and not strict:
            return Path(candidates[0])
        wanted = [folder_key(part) for part in (*reversed(folder.split("/") if folder else []), *parents)]
        if strict:
            others = self._classes - set(wanted)
            candidates = [
                path for path in candidates if folder_key(os.path.basename(os.path.dirname(path))) not in others
            ]
        ending = os.path.splitext(base)[1].lower()
        best = min(
            candidates,
            key=lambda path: (_rank(path, wanted), os.path.splitext(path)[1].lower() != ending, path),
            default=None,
        )
        return None if best is None else Path(best)

    def _by_small_letters(self) -> dict[str, list[str]]:
        if self._folded is None:
            self._folded = {}
            for stem, paths in self._found.items():
                self._folded.setdefault(stem.casefold(), []).extend(paths)
        return self._folded


def composed(text: str) -> str:
    """Returns a text in Unicode's composed form; macOS and some tools write an accent as a sign of its own."""
    return unicodedata.normalize("NFC", text)


def path_below(root: Path, name: str) -> Path:
    """Returns the place of a path of a list, however its accents are spelt on the disk.

    Backslashes part folders, as on Windows, but in a name that is there.
    """
    slashes = name.replace("\\", "/")
    spellings = [name, slashes]
    if not name.isascii():
        spellings += [unicodedata.normalize(form, text) for text in (name, slashes) for form in ("NFC", "NFD")]
    elif slashes == name:
        return root / name
    return next((path for path in (root / text for text in spellings) if path.exists()), root / slashes)


# Folders that are no class.
_PLAIN = frozenset(["videos", "video", "clips", "frames", "rgb", "rawframes", "data", "all", "trainval"])


def is_plain_folder(name: str) -> bool:
    """Returns True for a name of folders that hold videos of all classes."""
    return folder_key(name) in _PLAIN


def stem_of(name: str) -> str:
    """Returns a name without folders and without the ending of a video; other dots belong to the name."""
    base = name.rpartition("/")[2]
    stem, dot, ending = base.rpartition(".")
    return stem if stem and f"{dot}{ending.lower()}" in VIDEO_ENDINGS else base


@cache
def folder_key(name: str) -> str:
    """Returns the name of a folder for comparing: spaces, underscores and plus signs are equal, so are cases."""
    return " ".join(re.sub(r"[_+]", " ", composed(name)).split()).casefold()


def _rank(path: str, wanted: Sequence[str]) -> int:
    """Returns a penalty for the folders of a video: the sum of the places of wanted folders that are missing."""
    there = {folder_key(part) for part in path.replace(os.sep, "/").split("/")[-4:-1]}
    return sum(1 << (len(wanted) - place) for place, part in enumerate(wanted) if part not in there)


def _walk(folder: str, wanted: set[str], depth: int) -> Iterator[tuple[str, str]]:
    """Yields folder and name of the videos in a folder and below, and of whatever has a wanted name."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # it may not be read: what lies in it counts as missing
        return
    for entry in entries:
        name = entry.name
        if name.startswith("."):
            continue
        if composed(name) in wanted or os.path.splitext(name)[1].lower() in VIDEO_ENDINGS:
            yield folder, name
        elif depth and not name.isdecimal() and entry.is_dir():  # numbers are the frames of videos of another list
            yield from _walk(f"{entry.path}{os.sep}", wanted, depth - 1)
