"""A file host on the loopback interface that serves one file, and fails in the ways that real hosts do."""

import re
import struct
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SO_LINGER, SOL_SOCKET

HTML = b"<!DOCTYPE html><html><body>This file is no longer available</body></html>"


class _Handler(BaseHTTPRequestHandler):
    server: "FileHost"

    def log_message(self, format: str, *args) -> None:
        pass

    def do_GET(self) -> None:
        self.server.requests.append(self.headers.get("Range", "whole"))
        self.server.answer(self, len(self.server.requests))

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        headers.setdefault("Content_Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, cut: int | None = None, ranges: bool = True, validators: bool = True) -> None:
        """Sends the file, or the range that is asked for; the connection breaks after `cut` bytes."""
        content, start = self.server.content, 0
        etag = f'"{hash(content)}"'
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        fresh = self.headers.get("If-Range", etag) == etag
        headers = {"Content_Type": "application/octet-stream"} | ({"ETag": etag} if validators else {})
        if asked and ranges and fresh:
            start = int(asked[1])
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        self.send(206 if start else 200, body if cut is None else body[:cut], Content_Length=str(len(body)), **headers)


Answer = Callable[[_Handler, int], None]
"""Answers a request; the number counts from 1."""


class FileHost(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.requests: list[str] = []
        self.answer: Answer = lambda handler, n: handler.send_file()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/s/weights.pth"


def cut(times: int, after: int, **how: bool) -> Answer:
    return lambda handler, n: handler.send_file(after if n <= times else None, **how)


def status(code: int, times: int = 1_000_000, **headers: str) -> Answer:
    return lambda handler, n: handler.send(code, **headers) if n <= times else handler.send_file()


def web_page(handler: _Handler, n: int) -> None:
    handler.send(200, HTML, Content_Type="text/html; charset=utf-8")


def disguised_web_page(handler: _Handler, n: int) -> None:
    handler.send(200, HTML, Content_Type="application/octet-stream")


def redirect_loop(handler: _Handler, n: int) -> None:
    handler.send(302, Location=handler.path)


def short_body(handler: _Handler, n: int) -> None:
    handler.send_file(cut=1000, ranges=False)


def reset(times: int, after: int) -> Answer:
    """Answers so that the connection is reset, not closed."""

    def answer(handler: _Handler, n: int) -> None:
        handler.send_file(after if n <= times else None)
        if n <= times:
            handler.wfile.flush()
            time.sleep(0.05)  # let the client read before the reset takes the rest
            handler.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()

    return answer


def stall(times: int, after: int, seconds: float) -> Answer:
    def answer(handler: _Handler, n: int) -> None:
        handler.send_file(after if n <= times else None)
        if n <= times:
            handler.wfile.flush()
            time.sleep(seconds)

    return answer


def in_an_hour() -> str:
    return formatdate(time.time() + 3600, usegmt=True)
