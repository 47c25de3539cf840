"""A small Hub on the loopback interface: serves repositories from memory, and takes uploads, as the real one does."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubHandler(BaseHTTPRequestHandler):
    server: "HubServer"

    def log_message(self, format: str, *args) -> None:
        if self.command != "CONNECT":  # meant for another host, see conftest
            self.server.requests.append(f"{self.command} {self.path}")

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/"):
            return self._info("/".join(self.path.split("?")[0].split("/")[3:5]))
        return self._answer()

    def do_PUT(self) -> None:
        self.server.objects[self.path.rsplit("/", 1)[-1]] = self._body()
        self._json({})

    def do_POST(self) -> None:
        body, parts = self._body(), self.path.lstrip("/").split("/")
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.path.endswith("/info/lfs/objects/batch"):
            return self._lfs(json.loads(body))
        repo = "/".join(parts[2:4])
        if parts[4] == "preupload":
            return self._preupload(json.loads(body))
        return self._commit(repo, [json.loads(line) for line in body.splitlines()])

    # --- downloads ---------------------------------------------------------------------------------------------------

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

    # --- uploads -----------------------------------------------------------------------------------------------------

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _json(self, content: dict, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _create(self, asked: dict) -> None:
        repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if repo in self.server.statuses:
            return self._fail(*self.server.statuses[repo])
        known = repo in self.server.repos
        self.server.repos.setdefault(repo, {})
        return self._json({"url": f"{self.server.url}/{repo}", "id": repo}, 409 if known else 200)

    def _info(self, repo: str) -> None:
        if repo not in self.server.repos:
            return self._fail(404, "RepoNotFound")
        siblings = []
        for name, content in self.server.repos[repo].items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            entry = {"rfilename": name, "size": len(content), "blobId": blob}
            siblings.append(entry | ({"lfs": lfs} if name.endswith(".safetensors") else {}))
        return self._json({"id": repo, "sha": COMMIT, "siblings": siblings, "tags": []})

    def _preupload(self, asked: dict) -> None:
        large = {True: "lfs", False: "regular"}
        files = [{"path": f["path"], "uploadMode": large[f["path"].endswith(".safetensors")]} for f in asked["files"]]
        self._json({"files": [f | {"shouldIgnore": False} for f in files]})

    def _lfs(self, asked: dict) -> None:
        objects = [o | {"actions": {"upload": {"href": f"{self.server.url}/lfs/{o['oid']}"}}} for o in asked["objects"]]
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, repo: str, lines: list[dict]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.server.repos[repo][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.repos[repo][value["path"]] = self.server.objects[value["oid"]]
        self._json({"commitUrl": f"{self.server.url}/{repo}/commit/{COMMIT}", "commitOid": COMMIT, "hookOutput": ""})


class HubServer(ThreadingHTTPServer):
    """`repos` maps org/name to files, `statuses` maps org/name to an answer (status, error code)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.statuses: dict[str, tuple[int, str]] = {}
        self.requests: list[str] = []
        self.objects: dict[str, bytes] = {}

    def clear(self) -> None:
        for content in (self.repos, self.statuses, self.requests, self.objects):
            content.clear()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def start_hub() -> HubServer:
    """Starts a Hub that serves until the process ends."""
    server = HubServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
