"""The one error of everything that turns a source into frames."""

from collections.abc import Iterator
from contextlib import contextmanager


class VideoError(RuntimeError):
    """A source that gives no frames; the message names it, the cause and, where there is one, the cure."""


@contextmanager
def named(name: str) -> Iterator[None]:
    """Turns whatever a decoder raises into a `VideoError` that names the file."""
    try:
        yield
    except (VideoError, ImportError):
        raise
    except MemoryError as error:
        raise VideoError(f"{printable(name)}: its frames do not fit in memory; give a smaller video") from error
    except Exception as error:
        reason = printable(" ".join(str(error).split())) or "no reason given"
        raise VideoError(
            f"{printable(name)}: cannot be decoded ({type(error).__name__}: {reason}): it is damaged or of a kind that "
            "is not read; see whether a player shows it, or convert it to H.264 in MP4"
        ) from error


def printable(name: str) -> str:
    """A name that any stream can print: bytes of a file's name that are no UTF-8 are written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
