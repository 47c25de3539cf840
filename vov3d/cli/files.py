"""Collects the videos that arguments name: files, folders, lists, addresses."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from vov3d.cli.lists import names_in

_Item = TypeVar("_Item")
_NAMED = 3  # names shown of each kind that was left out


class LeftOut:
    """The entries of a folder that are not videos, so that they can be reported."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, paths: Sequence[str]) -> None:
        """Adds files or folders."""
        self._names.setdefault(reason, []).extend(os.path.relpath(path, self._folder) for path in paths)

    def __str__(self) -> str:
        """Returns one line, or an empty text if nothing was left out."""
        parts = []
        for reason, names in self._names.items():
            if names:
                named = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
                parts.append(f"{len(names)} {reason} ({named})")
        return f"{self._folder}: left out {'; '.join(parts)}" if parts else ""


def named_videos(arguments: Sequence[str], command: str) -> list[str]:
    """Returns the videos that arguments name; reports on stderr what is left out of folders.

    Args:
        arguments: Video files, addresses, folders of videos or of frames, `@FILE` for a list of these, one a line,
            and `-` for such a list on the standard input.
        command: Name of the command, for messages.

    Raises:
        FileNotFoundError: If a folder has no video, or a list does not exist.
        ValueError: If a name or a list is empty, or `-` is given twice or closed.
    """
    found: list[str] = []
    for argument in _expanded(arguments):
        if os.path.isdir(argument):
            videos, left_out = videos_in(Path(argument), frames=True)
            found += videos
            if str(left_out):
                print(f"vov3d {command}: {left_out}", file=sys.stderr)
        else:
            found.append(argument)
    return found


def share_of(items: list[_Item], shard: tuple[int, int] | None) -> list[_Item]:
    """Returns a share of the videos, or of what belongs to each of them; all of it without a shard.

    Args:
        items: One for each video of all shards.
        shard: `(i, n)` for the i-th of n shares, from 1; those of all i are disjoint and differ by at most one video.

    Raises:
        ValueError: If there are fewer videos than the shard's number.
    """
    if shard is None:
        return items
    number, count = shard
    if number > len(items):
        raise ValueError(f"--shard {number}/{count}: there are only {len(items)} videos; make fewer shards")
    return items[number - 1 :: count]


def _expanded(arguments: Sequence[str]) -> Iterator[str]:
    """Yields the arguments, with lists replaced by their entries."""
    again = [name for name, count in Counter(arguments).items() if name == "-" and count > 1]
    if again:
        raise ValueError("- is given twice, but the standard input can be read only once")
    for argument in arguments:
        if argument == "-":
            if sys.stdin is None:
                raise ValueError("- names the standard input, which is closed")
            yield from names_in(sys.stdin.buffer.read(), "the standard input")
        elif not argument:
            raise ValueError("a video's name is empty; was a variable of the shell not set?")
        elif argument.startswith("@"):
            yield from names_in(_content(Path(argument[1:])), argument[1:])
        else:
            yield argument


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such list of videos; a file whose name starts with @ is ./@...") from None


def videos_in(folder: Path, frames: bool = False) -> tuple[list[str], LeftOut]:
    """Returns the videos of a folder and its subfolders, in the order of their paths, and the other entries.

    Args:
        folder: The folder.
        frames: Treats a folder of pictures without videos as the frames of one video.

    Raises:
        FileNotFoundError: If there is no video, or no such folder.
    """
    from vov3d.video import looks_like_picture, looks_like_video  # needs the extra `video`

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of videos")
    found: list[str] = []
    left_out = LeftOut(folder)
    unread: list[str] = []
    for parent, folders, names in os.walk(folder, onerror=lambda error: unread.append(str(error.filename))):
        _leave_folders(parent, folders, left_out)
        shown = [os.path.join(parent, name) for name in names if not name.startswith(".")]
        left_out.add("hidden", [os.path.join(parent, name) for name in names if name.startswith(".")])
        videos = [path for path in shown if looks_like_video(path)]
        pictures = [path for path in shown if looks_like_picture(path)]
        found += videos
        if frames and pictures and not videos:
            found.append(parent)
        else:
            left_out.add("pictures", pictures)
        left_out.add("without a video's extension", sorted({*shown} - {*videos} - {*pictures}))
    left_out.add("folders that may not be read", unread)
    if not found:
        note = f" ({left_out})" if str(left_out) else ""
        raise FileNotFoundError(f"{folder}: has no file with a video's extension, such as .mp4{note}")
    return sorted(found), left_out


def _leave_folders(parent: str, folders: list[str], left_out: LeftOut) -> None:
    """Removes the folders that are not searched."""
    paths = {name: os.path.join(parent, name) for name in folders}
    hidden = [name for name in folders if name.startswith(".") or name == "__MACOSX"]
    links = [name for name in folders if name not in hidden and os.path.islink(paths[name])]
    left_out.add("hidden", [paths[name] for name in hidden])
    left_out.add("links to folders", [paths[name] for name in links])
    folders[:] = sorted(name for name in folders if name not in {*hidden, *links})
