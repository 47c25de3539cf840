"""Listens for a `Service`, and stops in good order: a first signal lets requests finish, a second one does not."""

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vov3d.extras import install

try:
    import h11
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise ImportError(f"vov3d.serving needs uvicorn: {install('serve')}") from error

from vov3d.serving._errors import RefusedError
from vov3d.serving.app import create_app
from vov3d.serving.service import Service

__all__ = ["listen", "run"]

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""Names of the loopback interface."""

_HEAD_BYTES = 16384
_BACKLOG = 128
_MOST_CONNECTIONS = 1000  # beside those of the queue
_AFTER_TIMEOUT = 5.0  # seconds for what remains after the last request


class _Protocol(H11Protocol):
    """HTTP/1.1 that closes connections on which no request arrives, and refuses malformed ones in JSON."""

    idle: float = 10.0
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        self._await_head()
        super().on_response_complete()

    def _await_head(self) -> None:
        """Closes the connection unless the head of a request has arrived in time, however its bytes trickle in."""
        self._stop_waiting()
        self._patience = self.loop.call_later(self.idle, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            refused = RefusedError(400, "bad_http", "this is no valid HTTP/1.1 request")
            body = json.dumps(refused.body()).encode()
            headers = [
                ("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")
            ]  # fmt: skip
            self.transport.write(
                self.conn.send(h11.Response(status_code=400, headers=headers, reason=b"Bad Request")) or b""
            )
            self.transport.write(self.conn.send(h11.Data(data=body)) or b"")
            self.transport.write(self.conn.send(h11.EndOfMessage()) or b"")
        self.transport.close()


class _Server(uvicorn.Server):
    """A server whose signals only stop it, so that the caller can clean up."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {name: signal.signal(name, self.handle_exit) for name in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stops taking requests at the first signal, and gives up those in work at the second."""
        if self.should_exit:
            self.force_exit = True
            for connection in list(self.server_state.connections):
                connection.transport.abort()
            return
        self._service.stopping = True
        self.should_exit = True
        in_work = self._service.in_work
        print(
            f"vov3d serve: stopping after {in_work} request{'s' * (in_work != 1)} in work; a second signal ends them",
            file=sys.stderr,
            flush=True,
        )


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens.

    Args:
        host: A name or an address of this machine.
        port: The port; 0 for any that is free.

    Raises:
        OSError: If it cannot listen there, with what to do.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise OSError(
            f"cannot listen on {host}, port {port} ({error.strerror or error}): is another service running there? Give "
            "another --port, or --port 0 for any that is free"
        ) from error


def run(
    service: Service,
    sock: socket.socket,
    hosts: Sequence[str] | None = None,
    access_log: bool = False,
    started: Callable[[], object] = lambda: None,
) -> bool:
    """Answers requests until a signal, SIGINT or SIGTERM, stops it; must be called in the main thread.

    Args:
        service: The service; whoever made it closes it.
        sock: Of `listen`.
        hosts: As for `create_app`.
        access_log: Whether each request is logged on stderr.
        started: Called when requests are taken.

    Returns:
        True if all requests in work were answered, False if a second signal gave them up.
    """
    limits = service.limits
    # one second signal is enough: requests end by themselves within their own limits
    longest = limits.upload_timeout + limits.timeout + _AFTER_TIMEOUT
    config = uvicorn.Config(
        create_app(service, hosts),
        http=type("_Protocol", (_Protocol,), {"idle": limits.idle_timeout}),
        ws="none",
        lifespan="off",
        log_level="info" if access_log else "error",
        access_log=access_log,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.queue + _MOST_CONNECTIONS,
        timeout_keep_alive=int(max(limits.idle_timeout, 1)),
        timeout_graceful_shutdown=int(longest) + 1,
        h11_max_incomplete_event_size=_HEAD_BYTES,
    )
    server = _Server(config, service)

    async def serve() -> None:
        running = asyncio.ensure_future(server.serve(sockets=[sock]))
        while not (server.started or running.done()):
            await asyncio.sleep(0.01)
        if not running.done():
            started()
        await running

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(serve())
    return not server.force_exit
