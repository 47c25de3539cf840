"""Puts files in place whole or not at all.

A file is written to a draft in the same folder, flushed to disk, and then renamed. The next writer removes the drafts
of killed writers: those of running ones are locked.
"""

import errno
import glob
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

PICTURE_ENDINGS = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
"""Extensions of the pictures in a folder of frames, in lower case."""

_DAY = 86400.0
_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # a write that fails names no file


@contextmanager
def naming(path: Path, hint: str = "") -> Iterator[None]:
    """Names the file, and what to do, in an error of writing that names none, such as of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in _OF_WRITING and error.filename is None:
            raise OSError(error.errno, f"{error.strerror}{hint}", str(path)) from error
        raise


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a draft to write to, with the same extension; it then replaces `path`.

    Of several nested drafts, the outermost is put in place last.

    Args:
        path: The file to create or to replace; its folder must exist.

    Yields:
        The draft, in the same folder. After an exception it is removed, and `path` is unchanged.

    Raises:
        OSError: If the file cannot be written, or `path` is a folder, a device or a pipe.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is not a regular file and cannot be replaced", str(path))
    _sweep(path)
    draft, lock = _new_draft(path)
    try:
        with naming(path):
            yield draft
            _reach_disk(draft)
            _put(draft, path)
    finally:
        draft.unlink(missing_ok=True)
        os.close(lock)
    with suppress(OSError):  # not every system can open folders
        _reach_disk(path.parent)


def make_folder(folder: Path) -> None:
    """Makes a folder for results, and those above it.

    Args:
        folder: The folder, which may be there.

    Raises:
        OSError: If it cannot be made, or is not writable; says what to do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{folder}: cannot be made ({error.strerror}); name another folder") from error
    check_writable(folder, folder)


def check_writable(folder: Path, output: Path) -> None:
    """Raises PermissionError, which names `output`, unless files can be made in a folder."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{output}: {folder} is not writable; change its permissions or name another")


def check_not_source(path: str | os.PathLike[str], *sources: object) -> None:
    """Checks that one file to write is none of the files that are read: see `check_not_sources`."""
    check_not_sources([path], sources)


def check_not_sources(paths: Iterable[str | os.PathLike[str]], sources: Iterable[object]) -> None:
    """Checks that files to write are none of the files that are read.

    Args:
        paths: The files to write.
        sources: Files, folders of frames, or sections of them (`vov3d.video.Section`) that are read; those that are
            no paths are ignored.

    Raises:
        ValueError: If one of them is read, under this or another name.
    """
    written: dict[object, str | os.PathLike[str]] = {
        found: path for path in paths if (found := _identity(path)) is not None
    }
    if not written:
        return
    pictures = any(map(_is_picture, written.values()))
    for source in sources:
        source = getattr(source, "video", source)  # of a section
        if not isinstance(source, str | os.PathLike):
            continue
        for file in (source, *(_frames(source) if pictures else ())):
            path = written.get(_identity(file))
            if path is not None:
                what = "the file" if file is source else f"a frame of {os.fspath(source)}, the folder"
                raise ValueError(f"{os.fspath(path)}: is {what} that is read, which would be lost; name another")


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Returns what all names of a file have in common; None where there is no file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL byte in the name
        return None
    return found.st_dev, found.st_ino


def _frames(folder: str | os.PathLike[str]) -> list[str]:
    """Returns the pictures in a folder; none of a file."""
    try:
        names = os.listdir(folder)
    except (OSError, ValueError):
        return []
    return [os.path.join(folder, name) for name in names if _is_picture(name)]


def _is_picture(path: str | os.PathLike[str]) -> bool:
    return os.path.splitext(path)[1].lower() in PICTURE_ENDINGS


@contextmanager
def alone_in(folder: Path, wait: bool = True) -> Iterator[None]:
    """Locks a folder against other callers of this function; has no effect where the system lacks such locks.

    The lock ends with the process, however that ends.

    Args:
        folder: The folder.
        wait: Waits for the other; False raises an error.

    Raises:
        ValueError: If another has locked it, unless `wait`.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ValueError(f"{folder}: another process writes here; wait for it, or name another folder") from None
        except OSError:  # some network file systems have none
            pass
        yield
    finally:
        os.close(handle)


def _new_draft(path: Path) -> tuple[Path, int]:
    """Creates an empty draft beside `path` and returns it with its open handle, locked while its writer runs."""
    while True:
        draft = path.with_name(f".{path.stem}.{secrets.token_hex(6)}.part{path.suffix}")
        # tempfile would create one that only its owner can read
        try:
            handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as e:  # names what the caller knows, not the draft
            missing = isinstance(e, FileNotFoundError)
            raise OSError(e.errno, e.strerror, str(path.absolute().parent if missing else path)) from None
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
        if draft.exists():  # else another writer removed it before it was locked
            return draft, handle
        os.close(handle)


def _sweep(path: Path) -> None:
    """Removes the drafts of killed writers of `path`."""
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
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if its writer is running
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
        # A file that is itself a mount point cannot be renamed over.
        if e.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        shutil.copyfile(draft, path)
        _reach_disk(path)
