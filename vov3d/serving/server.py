"""Listens for a `Service`, and stops in good order: a first signal lets requests finish, a second one does not."""

import asyncio
import contextlib
import errno
import json
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
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
_HANDLES = 64  # files that are open anyway
_HANDLES_OF_REQUEST, _HANDLES_OF_WORKER = 4, 8
_MOST_CAUSE = 200  # letters
_AFTER_TIMEOUT = 5.0  # seconds for what remains after the last request


class _Protocol(H11Protocol):
    """HTTP/1.1 that closes connections on which no request arrives or no answer is read, and refuses in JSON."""

    idle: float = 10.0
    most: int = _MOST_CONNECTIONS
    _patience: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._refuse(
                RefusedError(
                    429, "busy", "too many connections are open: try again later", retry_after=self.idle, close=True
                )
            )
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_watching()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        self._await_head()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_watching()
        self._unread = self.loop.call_later(self.idle, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_watching()
        super().resume_writing()

    def _await_head(self) -> None:
        """Closes the connection unless the head of a request has arrived in time, however its bytes trickle in."""
        self._stop_waiting()
        self._patience = self.loop.call_later(self.idle, self._end)

    def _end(self) -> None:
        if self.transport.get_write_buffer_size():  # a client that does not read would keep it half closed for ever
            self.transport.abort()
        else:
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _stop_watching(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def send_400_response(self, msg: str) -> None:
        cause = str(sys.exc_info()[1] or msg)[:_MOST_CAUSE]  # called where the parser's error is caught
        self._refuse(RefusedError(400, "bad_http", f"this is no valid HTTP/1.1 request ({cause})", close=True))

    def _refuse(self, refused: RefusedError) -> None:
        """Answers without the application, and closes the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(refused.body()).encode()
            headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **refused.headers()}
            reason = HTTPStatus(refused.status).phrase.encode()
            answer = h11.Response(status_code=refused.status, headers=list(headers.items()), reason=reason)
            for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _Server(uvicorn.Server):
    """A server whose signals only stop it, so that the caller can clean up."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to `run`, which has to hear them after the server has ended, too."""
        yield

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Has signals stop the server."""
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
    except (OSError, UnicodeError) as error:
        raise OSError(f"cannot listen on {host!r}, port {port}: {_remedy(error, port)}") from error


def _remedy(error: Exception, port: int) -> str:
    """Returns why a socket cannot listen, and what to do."""
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "another program listens there; give another --port, or --port 0 for any that is free"
    if isinstance(error, PermissionError):
        return f"this user may not open port {port}; give another --port, such as 8000"
    cause = error.strerror if isinstance(error, socket.gaierror) else "it is no address of this machine"
    return f"{cause or error}; give --host 127.0.0.1 for this machine only, 0.0.0.0 for all of its addresses, or one"


def _connections(queue: int, workers: int) -> int:
    """Returns how many connections may be open at once.

    The process may open only so many files. If connections took them all, uploads could not be stored, and the loop of
    asyncio would fill the log with errors. The limit is raised where that is permitted.
    """
    wanted = queue + _MOST_CONNECTIONS
    # in each of the few rounds of the loop that refusing a connection takes, a whole backlog may be accepted
    own = _HANDLES + 4 * _BACKLOG + _HANDLES_OF_REQUEST * queue + _HANDLES_OF_WORKER * workers
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted + own:
        more = wanted + own if hard == resource.RLIM_INFINITY else min(wanted + own, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
    return wanted if soft == resource.RLIM_INFINITY else max(min(wanted, soft - own), queue + 1)


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
    most = _connections(limits.queue, limits.workers)
    config = uvicorn.Config(
        create_app(service, hosts),
        http=type("_Protocol", (_Protocol,), {"idle": limits.idle_timeout, "most": most}),
        ws="none",
        lifespan="off",
        log_level="info" if access_log else "error",
        access_log=access_log,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=int(max(limits.idle_timeout, 1)),
        timeout_graceful_shutdown=int(longest) + 1,
        h11_max_incomplete_event_size=_HEAD_BYTES,
    )
    server = _Server(config, service)

    async def serve() -> bool:
        running = asyncio.ensure_future(server.serve(sockets=[sock]))
        while not (server.started or running.done()):
            await asyncio.sleep(0.01)
        if not running.done():
            started()
        await running
        return not server.force_exit

    with server.signals(), contextlib.suppress(asyncio.CancelledError):
        return asyncio.run(serve())
    return not server.force_exit
