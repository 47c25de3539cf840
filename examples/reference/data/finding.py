"""Where the videos lie that a list names: in the folder that it says, in class folders, flat, or in parts."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

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
    label: Labels
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
        self._found: dict[str, list[Path]] = {}
        frames, seen = {stem_of(name) for name in names}, set[str]()
        for root in roots:
            for path in _walk(root, frames, _DEPTH):
                if (key := os.path.abspath(path)) not in seen:
                    seen.add(key)
                    self._found.setdefault(stem_of(path.name), []).append(path)

    def find(self, name: str, parents: Sequence[str] = (), strict: bool = False) -> Path | None:
        """The video of a name; None if it is not there.

        Args:
            name: A path or an id, with or without an ending.
            parents: Names of folders that it is best in, beside its own.
            strict: Whether a video in the folder of another class is another video.
        """
        given = Path(name)
        if given.is_absolute():
            return given if given.exists() else None
        own = given.parts[:-1]
        for root in self.roots if own else ():
            if (root / given).exists():
                return root / given
        wanted = [folder_key(part) for part in (*reversed(own), *parents)]
        candidates = self._found.get(stem_of(given.name), [])
        if strict:
            others = self._classes - set(wanted)
            candidates = [path for path in candidates if folder_key(path.parent.name) not in others]
        return min(
            candidates,
            key=lambda path: (_rank(path, wanted), path.suffix.lower() != given.suffix.lower(), path),
            default=None,
        )


def stem_of(name: str) -> str:
    """A name without folders and without the ending of a video; other dots belong to the name."""
    stem, ending = os.path.splitext(os.path.basename(name))
    return stem if ending.lower() in VIDEO_ENDINGS else os.path.basename(name)


def folder_key(name: str) -> str:
    """A name of a folder as it is compared: spaces, underscores and plus signs are the same, so are cases."""
    return " ".join(re.sub(r"[_+]", " ", name).split()).casefold()


def _folders(path: Path) -> list[str]:
    return [folder_key(part) for part in path.parts[-4:-1]]


def _rank(path: Path, wanted: Sequence[str]) -> int:
    """How well the folders of a video fit: the sum of the places of those that are not there."""
    there = set(_folders(path))
    return sum(1 << (len(wanted) - place) for place, part in enumerate(wanted) if part not in there)


def _walk(folder: Path, frames: set[str], depth: int) -> Iterator[Path]:
    """Videos in a folder and those below; a folder of a name in `frames` is one."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # it may not be read: what lies in it counts as missing
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        ending = os.path.splitext(entry.name)[1].lower()
        if entry.is_dir():
            if entry.name in frames:
                yield Path(entry.path)
            elif depth and not entry.name.isdecimal():  # numbers are the frames of videos of another list
                yield from _walk(Path(entry.path), frames, depth - 1)
        elif ending in VIDEO_ENDINGS:
            yield Path(entry.path)
