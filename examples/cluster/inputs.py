"""Collects the videos that arguments name: files, folders, globs, lists, Parquet files, and the same at addresses."""

import os
import re
import sys
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

from vov3d.cli.files import LeftOut
from vov3d.cli.lists import names_in
from vov3d.extras import install
from vov3d.video import VIDEO_ENDINGS, looks_like_picture, looks_like_video
from vov3d.video.sources import is_address

_GLOB = re.compile(r"[*?\[]")


def collect(arguments: Sequence[str], column: str = "path") -> list[str]:
    """Returns the videos that arguments name, each once, in a fixed order.

    Args:
        arguments: A video, or a folder of frames inside a list; a folder of videos, searched with its subfolders; a
            glob such as `videos/**/*.mp4`; `@LIST`, a text file with one name a line; a `.parquet` file with a column
            of names. Each may be an address that fsspec reads, such as `s3://bucket/videos/`.
        column: The column of Parquet files.

    Raises:
        FileNotFoundError: If an argument names nothing.
        ValueError: If a list is empty, or a Parquet file has no such column.
    """
    found = [name for argument in arguments for name in _named(argument, column)]
    return list(dict.fromkeys(found))


def is_remote(name: str) -> bool:
    """Returns True for an address of an object store; False for a local path and for http(s) addresses."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", name)
    return scheme is not None and scheme[1].lower() not in ("http", "https")


def is_whole(name: str) -> bool:
    """Returns True for a name that means the same in every folder: an address, or a path from the root."""
    return os.path.isabs(name) or is_address(name) or is_remote(name)


def read_remote(address: str) -> bytes:
    """Returns the content of a file in an object store.

    Raises:
        ImportError: If the package for this kind of address is not installed; the message names it.
        OSError: If it cannot be read.
    """
    with _fsspec().open(address, "rb") as file:
        return file.read()


def _named(argument: str, column: str) -> list[str]:
    if argument.startswith("@"):
        return _lines(argument[1:])
    if argument.lower().endswith(".parquet"):
        return _column(argument, column)
    if is_remote(argument):
        return _listed(argument)
    if is_address(argument):  # its ? begins a query
        return [argument]
    if os.path.isdir(argument):
        return _in_folder(argument)
    if _GLOB.search(argument) and not os.path.exists(argument):
        return _some([path for path in sorted(glob(argument, recursive=True)) if looks_like_video(path)], argument)
    return [argument]


def _some(found: list[str], argument: str) -> list[str]:
    if not found:
        raise FileNotFoundError(f"{argument}: names no file with a video's extension, such as .mp4")
    return found


def _in_folder(folder: str) -> list[str]:
    """Returns the videos of a folder and its subfolders without hidden ones; prints what else it leaves out."""
    found, left_out = list[str](), LeftOut(Path(folder))
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        places = [os.path.join(parent, name) for name in folders]
        left_out.add("links to folders", [path for path in places if os.path.islink(path)])
        paths = [os.path.join(parent, name) for name in sorted(names) if not name.startswith(".")]
        videos = [path for path in paths if looks_like_video(path)]
        if not videos and any(map(looks_like_picture, paths)):
            left_out.add("folders of pictures", [parent])
        found += videos
    if str(left_out):
        print(f"classify: {left_out}; give them by name, in a list", file=sys.stderr)
    return _some(found, folder)


def _refuse(error: OSError) -> None:
    raise error


def _listed(address: str) -> list[str]:
    """Returns the videos of a folder or a glob in an object store, or the address of a file itself."""
    system, path = _fsspec().core.url_to_fs(address)
    if _GLOB.search(address):
        paths = system.glob(path)
    elif address.endswith("/") or _is_folder(system, path):
        paths = system.find(path)
    else:
        return [address]
    videos = sorted(str(each) for each in paths if os.path.splitext(str(each))[1].lower() in VIDEO_ENDINGS)
    return _some([str(system.unstrip_protocol(each)) for each in videos], address)


def _is_folder(system: Any, path: str) -> bool:
    """Returns whether a path in an object store is a folder, which is looked up for unusual extensions alone."""
    ending = os.path.splitext(path)[1].lower()
    return not ending or (ending not in VIDEO_ENDINGS and system.isdir(path))


def _lines(name: str) -> list[str]:
    """Returns the names in a list."""
    if is_remote(name):
        return names_in(read_remote(name), name)
    try:
        with open(name, "rb") as file:
            return names_in(file.read(), name)
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: no such list of videos; it names one a line") from None


def _column(name: str, column: str) -> list[str]:
    """Returns the column of names of a Parquet file."""
    import pyarrow.parquet as pq

    source: Any = name
    if is_remote(name):
        source = _fsspec().open(name, "rb").open()
    elif not os.path.exists(name):
        raise FileNotFoundError(f"{name}: no such Parquet file")
    file = pq.ParquetFile(source)
    if column not in file.schema_arrow.names:
        raise ValueError(f"{name}: has no column {column!r}; name it by --column: {', '.join(file.schema_arrow.names)}")
    names = file.read([column])[column].to_pylist()
    if not names or not all(isinstance(each, str) and each for each in names):
        raise ValueError(f"{name}: column {column!r} must hold a path in every row, and at least one row")
    return names


def _fsspec() -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise ImportError(f"addresses of object stores need fsspec: {install('cluster')}") from error
    return fsspec
