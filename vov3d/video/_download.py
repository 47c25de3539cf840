"""A video from an http(s) address into a temporary file."""

import http.client
import os
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vov3d.video._errors import VideoError
from vov3d.video._source import Media

_TIMEOUT = 30  # seconds without a byte
_CHUNK = 1 << 20
_SPARE = 1 << 28  # bytes that a download leaves free on the disk


class Download:
    """A temporary copy of what an address gives; `close` deletes it.

    Attributes:
        media: the file.
    """

    def __init__(self, address: str) -> None:
        """Downloads to the end.

        Raises:
            VideoError: naming the address, if it cannot be fetched whole or does not fit on the disk.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="vov3d-video-")
        try:
            ending = os.path.splitext(urllib.parse.urlsplit(address).path)[1]
            path = os.path.join(self._folder.name, f"video{ending if ending[1:].isalnum() else ''}")
            with _told(address), _opener().open(_request(address), timeout=_TIMEOUT) as answer:
                _save(answer, path, address)
            self.media = Media(address, path=path, own=False)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Deletes the copy."""
        self._folder.cleanup()


def _request(address: str) -> urllib.request.Request:
    # some hosts refuse the standard library's own name
    return urllib.request.Request(address, headers={"User-Agent": "vov3d", "Accept": "*/*"})


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https only, so that no redirection leads to a local file."""
    opener = urllib.request.OpenerDirector()
    handlers = (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    )
    for handler in handlers:
        opener.add_handler(handler())
    return opener


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Turns what goes wrong on the way into one error that names the address."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        cause = f"the server answered {error.code} {error.reason}"
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: an address that is none
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        cause = str(reason) or type(reason).__name__
    else:
        return
    raise VideoError(f"{address}: cannot be downloaded ({cause}); try it in a browser, or give a file on disk")


def _save(answer: Any, path: str, address: str) -> None:
    """Writes the body of an answer to a file, as far as the disk allows."""
    length = answer.headers.get("Content-Length")
    promised = int(length) if length and length.isdecimal() else None
    free = shutil.disk_usage(os.path.dirname(path)).free - _SPARE
    written = 0
    with open(path, "wb") as file:
        while max(written, promised or 0) <= free:
            chunk = answer.read(_CHUNK)
            if not chunk:
                break
            written += file.write(chunk)
        else:
            raise VideoError(
                f"{address}: {max(written, promised or 0) / 1e6:,.0f} MB do not fit beside the spare "
                f"{_SPARE / 1e6:,.0f} MB of {os.path.dirname(path)}; point TMPDIR to a larger disk"
            )
    if promised is not None and written < promised:
        raise OSError(f"the connection ended after {written:,} of {promised:,} bytes")
