"""Writes the body of a request to a temporary file while it arrives, within limits of bytes and time."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from vov3d.extras import install
from vov3d.serving._errors import RefusedError, size_text
from vov3d.serving.limits import Limits

try:
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header
    from starlette.requests import Request
except ImportError as error:
    raise ImportError(f"vov3d.serving needs python-multipart and FastAPI: {install('serve')}") from error

HOW = (
    "POST a video as multipart/form-data in the field 'file', as the body itself with Content-Type video/* or "
    'application/octet-stream, or as JSON {"url": "https://..."} where the service permits addresses'
)
"""Ways to send a video, for error messages."""

_OVERHEAD = 1 << 16  # bytes of a form around its file
_MOST_PARTS = 16
_MOST_JSON = 1 << 14
_RAW = ("application/octet-stream", "binary/octet-stream", "application/mp4", "application/ogg", "application/mxf")


class Upload:
    """A temporary file without a name, which is gone when it is closed or the process ends.

    Attributes:
        file: The file.
        size: Bytes written so far.
    """

    def __init__(self, file: IO[bytes], limits: Limits, book: Callable[[int], None]) -> None:
        self.file, self.size = file, 0
        self._limits, self._book = limits, book

    def write(self, chunk: bytes) -> None:
        """Appends bytes.

        Raises:
            RefusedError: If the file gets too large, or the disk is full.
        """
        if self.size + len(chunk) > self._limits.max_bytes:
            raise too_large(self._limits.max_bytes)
        self._book(len(chunk))
        self.size += len(chunk)
        try:
            self.file.write(chunk)
        except OSError as error:
            raise RefusedError(
                503, "disk_full", "the service cannot store the video: try again later", retry_after=10, close=True
            ) from error

    def finish(self) -> None:
        """Checks that there is something, and passes it on to the system.

        Raises:
            RefusedError: If nothing has arrived.
        """
        if not self.size:
            raise RefusedError(400, "empty", f"the video has no bytes: {HOW}")
        try:
            self.file.flush()
        except OSError as error:
            raise RefusedError(
                503, "disk_full", "the service cannot store the video: try again later", retry_after=10
            ) from error


class Uploads:
    """The temporary files of a service, which together take a limited number of bytes.

    Args:
        limits: Limits of the service.
        folder: Folder of the files; the system's one for temporary files if None.
    """

    def __init__(self, limits: Limits, folder: str | Path | None = None) -> None:
        self._limits, self._folder = limits, folder
        self.bytes = 0

    @contextmanager
    def open(self) -> Iterator[Upload]:
        """Yields a new file, and removes it at the end."""
        try:
            file = tempfile.TemporaryFile(prefix="vov3d-serve-", dir=self._folder)  # noqa: SIM115
        except OSError as error:
            raise RefusedError(
                503, "disk_full", "the service cannot store videos: try again later", retry_after=10, close=True
            ) from error
        with file:
            upload = Upload(file, self._limits, self._book)
            try:
                yield upload
            finally:
                self.bytes -= upload.size

    def _book(self, count: int) -> None:
        if self.bytes + count > self._limits.temp_bytes:
            raise RefusedError(
                429, "busy", "too many uploads are in work at once: try again later", retry_after=2, close=True
            )
        self.bytes += count


def too_large(most: int) -> RefusedError:
    """Returns the error for a video of too many bytes."""
    return RefusedError(
        413,
        "too_large",
        f"the video has more than {size_text(most)}, the limit of this service: cut it, or make its pictures smaller",
        close=True,
    )


async def receive(request: Request, upload: Upload, limits: Limits) -> str | None:
    """Reads the body of a request, of any kind that the service takes.

    Args:
        request: The request.
        upload: Takes the video.
        limits: Limits of the service.

    Returns:
        An address, where the video is at one, and nothing was written; else None.

    Raises:
        RefusedError: For a body that is too large, too slow, empty or of another kind.
    """
    for coding in request.headers.getlist("content-encoding"):
        _check_coding("Content-Encoding", coding, ("", "identity"))
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    name = kind.decode("latin-1").lower()
    if name == "application/json":
        return _address(await _whole(request, limits))
    if name == "multipart/form-data":
        _check_length(request, limits.max_bytes + _OVERHEAD, limits)
        await _from_form(request, upload, limits, options.get(b"boundary", b""))
    elif name in _RAW or name.startswith("video/") or not name:
        _check_length(request, limits.max_bytes, limits)
        async for chunk in _chunks(request, limits):
            upload.write(chunk)
    else:
        raise RefusedError(415, "media_type", f"Content-Type is {_shown(name)}: {HOW}", close=True)
    upload.finish()
    return None


def _check_coding(header: str, coding: str, plain: tuple[str, ...]) -> None:
    """Refuses content that is compressed, or encoded in another way."""
    if coding.strip().lower() not in plain:
        raise RefusedError(
            415,
            "content_encoding",
            f"{header} is {_shown(coding)}: send the bytes of the video as they are",
            close=True,
        )


def _shown(text: str) -> str:
    """Returns what a client sent, short and printable, in quotes."""
    return ascii(text[:60])


def _check_length(request: Request, most: int, limits: Limits) -> None:
    """Refuses a body by its announced length, before a byte of it is read."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > most):
        raise too_large(limits.max_bytes)


async def _chunks(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """Yields the body in pieces, as long as they come fast enough."""
    end = time.monotonic() + limits.upload_timeout
    async with contextlib.aclosing(request.stream()) as stream:
        while True:
            left = min(limits.idle_timeout, end - time.monotonic())
            try:
                async with asyncio.timeout(left):
                    chunk = await anext(stream, None)
            except TimeoutError as error:
                raise RefusedError(
                    408,
                    "upload_timeout",
                    f"the upload took over {limits.upload_timeout:g} seconds, or stood still for "
                    f"{limits.idle_timeout:g}: send a smaller file, or use a faster connection",
                    close=True,
                ) from error
            if chunk is None:
                return
            yield chunk


async def _whole(request: Request, limits: Limits) -> bytes:
    content = bytearray()
    async for chunk in _chunks(request, limits):
        content += chunk
        if len(content) > _MOST_JSON:
            raise RefusedError(413, "too_large", f"the JSON has more than {size_text(_MOST_JSON)}: {HOW}", close=True)
    return bytes(content)


def _address(content: bytes) -> str:
    import json

    problem = f'the JSON is not of the form {{"url": "https://..."}}: {HOW}'
    try:
        given = json.loads(content, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise RefusedError(400, "bad_json", problem) from error
    if not isinstance(given, dict) or set(given) != {"url"} or not isinstance(given["url"], str):
        raise RefusedError(400, "bad_json", problem)
    return given["url"]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns an object of JSON; raises ValueError if a name is repeated, as parsers disagree on what it means."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is repeated")
    return found


# --- forms -----------------------------------------------------------------------------------------------------------

_PLAIN = {b"content-encoding": ("", "identity"), b"content-transfer-encoding": ("", "binary", "8bit", "7bit")}


class _Form:
    """Passes the part `file` of a form on to an upload; every other part is an error."""

    def __init__(self, upload: Upload) -> None:
        self.upload = upload
        self.files = self.parts = 0
        self.ended = False
        self._field, self._value = b"", b""
        self._disposition: bytes | None = None

    def callbacks(self) -> dict[str, Any]:
        """Returns the functions that the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_begin": self._header,
            "on_header_field": self._name,
            "on_header_value": self._content,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
            "on_part_data": lambda data, start, end: self.upload.write(data[start:end]),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._disposition = None
        self.parts += 1
        if self.parts > _MOST_PARTS:
            raise _bad_form(f"has more than {_MOST_PARTS} parts")

    def _header(self) -> None:
        self._field = self._value = b""

    def _name(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _content(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        name = self._field.lower()
        if name == b"content-disposition":
            self._disposition = self._value
        elif name in _PLAIN:
            _check_coding(name.decode().title(), self._value.decode("latin-1"), _PLAIN[name])

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name != "file":
            raise _bad_form(f"has a field {_shown(name)}")
        self.files += 1
        if self.files > 1:
            raise _bad_form("has several fields 'file'")

    def _end(self) -> None:
        self.ended = True


def _bad_form(problem: str) -> RefusedError:
    return RefusedError(
        400,
        "bad_form",
        f"the form {problem}: one field 'file' with one video is expected; topk goes into the address",
        close=True,
    )


async def _from_form(request: Request, upload: Upload, limits: Limits, boundary: bytes) -> None:
    if not 0 < len(boundary) <= 200:
        raise _bad_form("has no boundary of 1 to 200 characters in its Content-Type")
    form = _Form(upload)
    left = limits.max_bytes + _OVERHEAD
    try:
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
        async for chunk in _chunks(request, limits):
            left -= len(chunk)
            if left < 0:
                raise too_large(limits.max_bytes)
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise _bad_form("is damaged or cut short") from error
    if not form.ended:
        raise _bad_form("is cut short")
    if not form.files:
        raise _bad_form("has no field 'file'")
