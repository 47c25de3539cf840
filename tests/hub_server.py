"""A small Hub on the loopback interface: serves repositories from memory as the real one does."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubHandler(BaseHTTPRequestHandler):
    server: "HubServer"

    def log_message(self, format: str, *args) -> None:
        self.server.requests.append(f"{self.command} {self.path}")

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        org, name, *rest = self.path.lstrip("/").split("?")[0].split("/")
        repo = f"{org}/{name}"
        if repo in self.server.statuses:
            status, code = self.server.statuses[repo]
            return self._fail(status, code)
        if repo not in self.server.repos or rest[:1] != ["resolve"]:
            return self._fail(404, "RepoNotFound")
        revision, file = rest[1], "/".join(rest[2:])
        if revision not in ("main", COMMIT):
            return self._fail(404, "RevisionNotFound")
        if file not in self.server.repos[repo]:
            return self._fail(404, "EntryNotFound")
        return self._serve(self.server.repos[repo][file])

    def _fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"answer {status}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _serve(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


class HubServer(ThreadingHTTPServer):
    """`repos` maps org/name to files, `statuses` maps org/name to an answer (status, error code)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.statuses: dict[str, tuple[int, str]] = {}
        self.requests: list[str] = []

    def clear(self) -> None:
        for content in (self.repos, self.statuses, self.requests):
            content.clear()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def start_hub() -> HubServer:
    """A Hub that serves until the process ends."""
    server = HubServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
