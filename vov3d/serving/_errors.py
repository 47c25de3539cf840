"""The error of a request that is refused, and the texts that an answer may contain."""

import math
from typing import Any


class RefusedError(Exception):
    """A request is not answered with labels.

    Attributes:
        status: HTTP status.
        code: Name of the cause, for programs.
        message: Cause and remedy, for people; it names no file and no address of the server.
        retry_after: Seconds after which another try makes sense; None if it makes none, or nothing is known.
        close: Whether the connection must be closed, because the rest of the request is not read.
    """

    def __init__(
        self, status: int, code: str, message: str, *, retry_after: float | None = None, close: bool = False
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.retry_after, self.close = retry_after, close

    def headers(self) -> dict[str, str]:
        """Returns the headers of the answer."""
        found = {} if self.retry_after is None else {"Retry-After": str(max(math.ceil(self.retry_after), 1))}
        return found | ({"Connection": "close"} if self.close else {})

    def body(self) -> dict[str, Any]:
        """Returns the answer, for JSON."""
        return {"error": {"code": self.code, "message": self.message}}


def size_text(count: int) -> str:
    """Returns a number of bytes in a readable unit."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} bytes"
