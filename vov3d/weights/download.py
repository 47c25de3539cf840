"""Downloads one large file, resumes after interruptions, and puts the file in place whole or not at all.

It uses the Hub client's HTTP session, so that its proxies, certificates and offline mode apply here too.
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from huggingface_hub import constants, errors
from huggingface_hub.utils import get_session, tqdm

_TRIES = 4  # consecutive ones without a new byte
_FIRST_WAIT = 0.5  # seconds, doubled from try to try
_LONGEST_WAIT = 60.0  # seconds; longer Retry-After are errors
_FIRST_ANSWER = 5.0  # seconds for the first byte of a host that has not answered yet
_SLOWEST = (1 << 16, 60.0)  # fewest bytes, and the seconds in which they must arrive
_LARGEST = 1 << 30  # bytes; the largest published file has a tenth of them
_SPARE = 1 << 28  # bytes that a download leaves free on the disk
_BUSY = (408, 425, 429, 500, 502, 503, 504)


class DownloadError(RuntimeError):
    """A file could not be downloaded; the message is only the cause."""


class _RetryableError(DownloadError):
    """A temporary cause, and the seconds that the host asks to wait."""

    def __init__(self, cause: str, wait: float = 0.0) -> None:
        super().__init__(cause)
        self.wait = wait


class _ChangedError(_RetryableError):
    """The file changed, so the download cannot be resumed."""


class _SilentError(_RetryableError):
    """The host does not answer."""


@dataclass(frozen=True)
class _Known:
    """The host's description of the file when the download began."""

    url: str
    total: int | None = None
    validator: str | None = None


def download(url: str, path: Path, largest: int = _LARGEST) -> None:
    """Downloads a file.

    An incomplete file stays beside `path` as `*.part`. Only its rest is requested if the host gave a validator (ETag
    or date) and still has the same file; otherwise the download begins again.

    Args:
        url: An `http(s)` address.
        path: The file to write. It exists once it is complete.
        largest: Largest number of bytes.

    Raises:
        DownloadError: If the file cannot be downloaded.
        OSError: If it cannot be written, or its path is a symbolic link.
    """
    if not _is_address(url):
        raise DownloadError("is not an http(s) address")
    part = path.with_name(path.name + ".part")
    note = path.with_name(path.name + ".part.json")
    for own in (path, part, note):
        refuse_link(own)
    best, tries, answered = part.stat().st_size if part.is_file() else 0, 0, False
    while True:
        try:
            _attempt(url, part, note, largest, answered)
            break
        except _RetryableError as e:
            if isinstance(e, _SilentError) and not answered:
                raise DownloadError(str(e)) from e
            answered = True
            if isinstance(e, _ChangedError):
                part.unlink(missing_ok=True)
            size = part.stat().st_size if part.is_file() else 0
            tries = 0 if size > best else tries + 1
            best = max(size, best)
            if tries == _TRIES:
                raise DownloadError(f"{e} ({_TRIES} tries in a row)") from e
            time.sleep(max(e.wait, _FIRST_WAIT * 2**tries))
    os.replace(part, path)
    note.unlink(missing_ok=True)


def refuse_link(path: Path) -> None:
    """Raises OSError if a path is a symbolic link: in a folder that others can write to, it may lead anywhere."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, f"{path} is a symbolic link, which is not followed; remove it")


def open_new(path: Path, append: bool = False) -> IO[bytes]:
    """Opens a file to write, with default permissions and without following a symbolic link."""
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o666), "ab" if append else "wb")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _attempt(url: str, part: Path, note: Path, largest: int, answered: bool) -> None:
    """Tries once to download the missing part of the file."""
    known = _read_note(note, url)
    offset = part.stat().st_size if known and part.is_file() else 0
    if known and not known.validator and offset != known.total:
        offset = 0  # it may have been replaced by another file of the same length
    known = known if known and offset else _Known(url)
    if offset and offset == known.total:
        return  # complete, but not put in place before the process ended
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        headers |= {"If-Range": known.validator} if known.validator else {}
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT if answered else min(_FIRST_ANSWER, constants.HF_HUB_DOWNLOAD_TIMEOUT)
    begun = False
    try:
        with get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
            begun = True
            known, offset = _check(response, known, offset)
            if known.total is not None and known.total > largest:
                raise DownloadError(f"the file has {known.total:,} bytes, more than the {largest:,} expected at most")
            with open_new(note) as file:
                file.write(json.dumps(asdict(known)).encode())
            _write(response, part, known, offset, largest)
    except errors.OfflineModeIsEnabled:
        raise DownloadError("offline mode is on (HF_HUB_OFFLINE)") from None
    except getattr(errors, "HTTPError", OSError) as e:
        name, cause = type(e).__name__, " ".join(str(e).split()) or type(e).__name__
        if name == "TooManyRedirects":
            raise DownloadError("redirects without end") from e
        cause = f"no answer for {timeout} s" if name.endswith("Timeout") else cause
        raise (_RetryableError if begun else _SilentError)(cause + _so_far(part, known)) from e
    if known.total is not None and part.stat().st_size != known.total:
        raise _RetryableError("the connection was closed early" + _so_far(part, known))


def _read_note(note: Path, url: str) -> _Known | None:
    try:
        known = _Known(**json.loads(note.read_text()))
    except (OSError, TypeError, ValueError):
        return None
    return known if known.url == url else None


def _check(response: Any, known: _Known, offset: int) -> tuple[_Known, int]:
    """Checks a response and returns the description of the file, and the offset at which its body begins."""
    status, headers = response.status_code, response.headers
    if status in _BUSY:
        wait = _retry_after(headers)
        if wait > _LONGEST_WAIT:
            raise DownloadError(f"HTTP status {status}: the host asks to come back in {wait / 60:.0f} minutes")
        raise _RetryableError(f"HTTP status {status} {response.reason_phrase}".rstrip(), wait)
    if status == 416:
        raise _ChangedError("HTTP status 416: the file is shorter than the part downloaded so far")
    if status not in (200, 206):
        raise DownloadError(f"HTTP status {status} {response.reason_phrase}".rstrip())
    if headers.get("Content-Type", "").startswith("text/html"):
        raise DownloadError("the host answers with a web page, not with the file")
    if status == 206:
        start, total = _content_range(headers.get("Content-Range", ""))
        other = known.validator and _validator(headers) not in (None, known.validator)
        if start != offset or other or (known.total is not None and total != known.total):
            raise _ChangedError("the file changed while it was downloaded")
        return replace(known, total=total), offset
    length = headers.get("Content-Length", "")
    return replace(known, total=int(length) if length.isdecimal() else None, validator=_validator(headers)), 0


def _validator(headers: Mapping[str, str]) -> str | None:
    """Returns a validator of the file's bytes: a strong ETag or a date; weak ETags do not guarantee equal bytes."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified")


def _retry_after(headers: Mapping[str, str]) -> float:
    """Returns the seconds of a `Retry-After`, which is a number or a date."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return 0.0


def _content_range(text: str) -> tuple[int | None, int | None]:
    """Returns the first byte and the total of `bytes first-last/total`."""
    span, _, total = text.removeprefix("bytes ").partition("/")
    first = span.partition("-")[0]
    return int(first) if first.isdecimal() else None, int(total) if total.isdecimal() else None


def _write(response: Any, part: Path, known: _Known, offset: int, largest: int) -> None:
    name = part.name.removesuffix(".part")
    # disable=None: shown on terminals only
    bar = tqdm(total=known.total, initial=offset, unit="B", unit_scale=True, desc=name, disable=None)
    left = 0 if known.total is None else known.total - offset
    _require_room(part.parent, left)
    pace = _Pace()
    with open_new(part, append=offset > 0) as file, bar:
        for chunk in response.iter_raw():
            pace.add(len(chunk))
            _require_room(part.parent, max(left, len(chunk)))
            left -= file.write(chunk)
            bar.update(len(chunk))
            if file.tell() > largest:
                raise DownloadError(f"the file has more than the {largest:,} bytes expected at most")


class _Pace:
    """Checks that a download does not stall."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.arrived = 0

    def add(self, count: int) -> None:
        """Counts the bytes that arrived; raises `DownloadError` if they were too few for too long."""
        self.arrived += count
        least, seconds = _SLOWEST
        if time.monotonic() - self.since > seconds:
            if self.arrived < least:
                raise DownloadError(f"only {self.arrived:,} bytes arrived in {seconds:g} s")
            self.since, self.arrived = time.monotonic(), 0


def _require_room(folder: Path, size: int) -> None:
    if size > shutil.disk_usage(folder).free - _SPARE:
        raise DownloadError(
            f"{size / 1e6:,.0f} MB do not fit beside the spare {_SPARE / 1e6:,.0f} MB of the disk that holds {folder}"
        )


def _so_far(part: Path, known: _Known) -> str:
    if known.total is None or not part.is_file():
        return ""
    return f", after {part.stat().st_size:,} of {known.total:,} bytes"
