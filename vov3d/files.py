"""Files that are put in place whole or not at all.

A file is written beside its place, under a name of its own, reaches the disk, and is then renamed. What a killed writer
left behind is removed by the next one: the living hold a lock on theirs.
"""

import errno
import glob
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_DAY = 86400.0


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a name to write to, with the same ending; what was written there then takes the place of `path`.

    Of several nested ones, the outermost is put in place last.

    Args:
        path: The file to make or to replace; its folder must be there.

    Yields:
        The name beside it. After an exception it is gone, and `path` is as it was.

    Raises:
        OSError: If the file cannot be written, or `path` is a folder, a device or a pipe.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is no regular file and cannot be replaced", str(path))
    _sweep(path)
    draft, lock = _new_draft(path)
    try:
        yield draft
        _reach_disk(draft)
        _put(draft, path)
    finally:
        draft.unlink(missing_ok=True)
        os.close(lock)
    with suppress(OSError):  # not every system opens folders
        _reach_disk(path.parent)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other writers that ask for the same out of a folder; without effect where the system has no such locks."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have none
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _new_draft(path: Path) -> tuple[Path, int]:
    """An empty file beside `path`, and the open handle whose lock tells that its writer lives."""
    while True:
        draft = path.with_name(f".{path.stem}.{secrets.token_hex(6)}.part{path.suffix}")
        # tempfile would make one that only its owner can read
        handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
        if draft.exists():  # else another writer swept it away before it was locked
            return draft, handle
        os.close(handle)


def _sweep(path: Path) -> None:
    """Removes what killed writers of `path` left."""
    left = f".{glob.escape(path.stem)}.{'[0-9a-f]' * 12}.part{glob.escape(path.suffix)}"
    for draft in path.parent.glob(left):
        with suppress(OSError):
            if _is_abandoned(draft):
                draft.unlink()


def _is_abandoned(draft: Path) -> bool:
    if fcntl is None:
        return time.time() - draft.stat().st_mtime > _DAY
    handle = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where its writer lives
    finally:
        os.close(handle)
    return True


def _reach_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put(draft: Path, path: Path) -> None:
    try:
        os.replace(draft, path)
    except OSError as e:
        # A single file that is mounted from elsewhere cannot be renamed over.
        if e.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        shutil.copyfile(draft, path)
        _reach_disk(path)
