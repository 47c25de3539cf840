"""A real server in a process of its own: sockets, signals, killed processes and slow clients."""

import concurrent.futures
import contextlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import uvicorn
from helpers.http_calls import code_of, form, shape_clip
from helpers.task_models import task_model

import vov3d
from vov3d.cli import main
from vov3d.serving.server import _connections, _Protocol, listen


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return shape_clip(tmp_path_factory.mktemp("clips") / "good.mp4")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return vov3d.save_pretrained(task_model("single"), tmp_path_factory.mktemp("models") / "small")


class Running:
    """A server in a process of its own."""

    def __init__(self, model: Path, folder: Path, *options: str) -> None:
        self.temp = folder / "temp"
        self.temp.mkdir()
        self._log = (folder / "log").open("w+")
        command = [sys.executable, "-m", "vov3d", "serve", str(model), "--port", "0", "--temp-dir", str(self.temp)]
        self.process = subprocess.Popen([*command, *options], stderr=self._log, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", self.log())):
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.1)
        self.port = int(found[1])
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60, trust_env=False)

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def descendants(self) -> list[list[int]]:
        """Returns the process ids of children, of their children, ..."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                text = stat.read_text()
            except OSError:  # it has ended
                continue
            parents[int(stat.parent.name)] = int(text.rpartition(")")[2].split()[1])
        levels = [[self.process.pid]]
        while levels[-1]:
            levels.append([child for child, parent in parents.items() if parent in levels[-1]])
        return levels[1:-1]

    def decoders(self) -> list[int]:
        return self.descendants()[1]

    def everything(self) -> list[int]:
        return [process for level in self.descendants() for process in level]

    def predict(self, content: bytes) -> httpx.Response:
        return self.client.post("/predict", **form(content))

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
        self._log.close()


@pytest.fixture
def start(model, tmp_path):
    started = []

    def run(*options):
        started.append(Running(model, tmp_path, *options))
        return started[-1]

    yield run
    for server in started:
        server.close()


def exchange(port, sent, seconds=10.0):
    """Sends bytes, and returns what comes back until the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(sent)
        content = b""
        while piece := connection.recv(65536):
            content += piece
        return content


def drip(port, sent):
    """Sends a byte every tenth of a second."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for byte in sent:
            connection.sendall(bytes([byte]))
            time.sleep(0.1)


def error_in(answer):
    """Returns status and code of an error as it came over the connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


def until(condition, seconds=10.0):
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def gone(processes):
    """Returns whether processes have ended; those that their new parent has not waited for yet have."""
    for process in processes:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                return False
        except OSError:
            continue
    return True


HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: video/mp4\r\n"


@pytest.mark.slow
def test_a_life_among_hostile_clients(start, clip):
    server = start("--idle-timeout", "1", "--max-bytes", "1M", "--workers", "2", "--queue", "4", "--timeout", "10")
    assert server.predict(clip).status_code == 200

    # lengths that are wrong
    assert error_in(exchange(server.port, HEAD + b"Content-Length: 99999999999999\r\n\r\nx")) == (413, "too_large")
    assert error_in(exchange(server.port, HEAD + b"Content-Length: 100\r\n\r\nx")) == (408, "upload_timeout")
    assert error_in(exchange(server.port, HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx")) == (
        400,
        "bad_http",
    )
    assert error_in(exchange(server.port, HEAD + b"Content-Length: -1\r\n\r\nx"))[0] == 400
    shorter = exchange(server.port, HEAD + b"Content-Length: 10\r\nConnection: close\r\n\r\n" + b"x" * 50)
    assert error_in(shorter) == (422, "video_unreadable")

    # forms that are none, which leave no line in the log
    form_head = HEAD.replace(b"video/mp4", b"multipart/form-data; boundary=B") + b"Content-Length: 7\r\n\r\n"
    assert error_in(exchange(server.port, form_head + b"--C\r\n\r\n")) == (400, "bad_form")
    assert len(server.log().splitlines()) == 1

    # no HTTP at all, heads that never end, and heads that come byte by byte
    assert error_in(exchange(server.port, b"\x16\x03\x01nonsense\r\n\r\n")) == (400, "bad_http")
    assert error_in(exchange(server.port, HEAD + b"X: " + b"y" * 100_000))[0] == 400
    begun = time.monotonic()
    assert exchange(server.port, b"") == b""
    with pytest.raises(ConnectionError):
        drip(server.port, HEAD)
    assert time.monotonic() - begun < 8

    # uploads over the limit, whose clients get the answer although they go on sending
    over = httpx.post(f"{server.client.base_url}/predict", **form(bytes(3_000_000)), timeout=30, trust_env=False)
    assert (over.status_code, code_of(over)) == (413, "too_large")

    # processes that die, idle or at work
    for process in server.decoders():
        os.kill(process, signal.SIGKILL)
    until(lambda: server.predict(clip).status_code == 200)

    # more requests than the queue takes, with broken files among them
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(server.predict, [clip, clip[:3000], b"\0" * 1000, b"#EXTM3U\n/etc/passwd\n"] * 9))
    assert {answer.status_code for answer in answers} <= {200, 422, 429}
    assert any(answer.status_code == 429 for answer in answers)
    assert all("Retry-After" in answer.headers for answer in answers if answer.status_code == 429)
    assert server.client.get("/health/ready").json() == {"ready": True, "in_work": 0}
    metrics = server.client.get("/metrics").text
    assert "vov3d_temp_bytes 0.0" in metrics
    assert not list(server.temp.iterdir())
    assert "Traceback" not in server.log()

    # a first signal lets what is in work finish
    decoders = server.decoders()
    for process in decoders:
        os.kill(process, signal.SIGSTOP)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        late = pool.submit(httpx.post, f"{server.client.base_url}/predict", **form(clip), timeout=30, trust_env=False)
        until(lambda: server.client.get("/health/ready").json()["in_work"] == 1)
        everything = server.everything()
        server.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping after 1 request in work" in server.log())
        for process in decoders:
            os.kill(process, signal.SIGTERM)  # as init systems do; the server decides
            os.kill(process, signal.SIGCONT)
        assert late.result().status_code == 200
    assert server.process.wait(20) == 0
    until(lambda: gone(everything))
    assert "Traceback" not in server.log()
    with pytest.raises(ConnectionRefusedError):
        exchange(server.port, HEAD)


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_signals_after_the_last_answer_change_nothing(start, clip, second):
    server = start("--workers", "1", "--access-log")
    assert server.predict(clip).status_code == 200
    server.process.send_signal(signal.SIGTERM)
    until(lambda: "Finished server process" in server.log())
    while server.process.poll() is None:
        server.process.send_signal(second)
        time.sleep(0.05)
    assert server.process.returncode == 0
    assert "Traceback" not in server.log()


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGKILL])
def test_a_second_signal_ends_at_once_and_leaves_nothing(start, clip, second):
    server = start("--workers", "1")
    os.kill(server.decoders()[0], signal.SIGSTOP)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        late = pool.submit(httpx.post, f"{server.client.base_url}/predict", **form(clip), timeout=60, trust_env=False)
        until(lambda: server.client.get("/health/ready").json()["in_work"] == 1)
        everything = server.everything()
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping after 1 request in work" in server.log())
        server.process.send_signal(second)
        assert server.process.wait(15) == (-9 if second == signal.SIGKILL else 1)
        assert time.monotonic() - begun < 15
        assert isinstance(late.exception(), httpx.HTTPError)
    if second == signal.SIGKILL:  # the decoder stands still; once it goes on, it notices
        for process in everything:
            if not gone([process]):
                os.kill(process, signal.SIGCONT)
    until(lambda: gone(everything))
    assert not list(server.temp.iterdir())
    assert "Traceback" not in server.log()


# --- connections, of a server in this process ---


_MUCH = bytes(5 * 10**7)  # more than the system takes in


@contextlib.contextmanager
def listening(**settings):
    """Yields a port and the server behind it, which answers every request with many bytes."""

    async def app(scope, receive, send):
        length = (b"content-length", b"%d" % len(_MUCH))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": _MUCH})

    http = type("Protocol", (_Protocol,), settings)
    server = uvicorn.Server(uvicorn.Config(app, http=http, lifespan="off", ws="none", log_level="error"))
    with listen("127.0.0.1", 0) as sock, concurrent.futures.ThreadPoolExecutor(1) as thread:
        ended = thread.submit(server.run, [sock])
        try:
            until(lambda: server.started or ended.done())
            yield sock.getsockname()[1], server
        finally:
            server.should_exit = server.force_exit = True


def test_connections_over_the_limit_are_refused_at_once():
    with listening(most=2) as (port, server), contextlib.ExitStack() as opened:
        for number in (1, 2):
            opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            until(lambda number=number: len(server.server_state.connections) == number)
        assert error_in(exchange(port, b"")) == (429, "busy")
        until(lambda: len(server.server_state.connections) == 2)


@pytest.mark.parametrize("requests", [1, 2])  # the second is answered when the first answer has been read
def test_a_client_that_reads_no_answer_is_let_go(requests):
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with listening(idle=0.2) as (port, server), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        until(lambda: server.server_state.connections)
        connection.sendall(request * requests)
        until(lambda: not server.server_state.connections)


@pytest.mark.parametrize(
    ("head", "cause"),
    [
        (b"Host: a\r\nContent-Length: +5", "bad Content-Length"),
        (b"Host: a\r\nTransfer-Encoding: gzip", "Only Transfer-Encoding: chunked"),
        (b"X: y", "Missing mandatory Host"),
    ],
)
def test_malformed_requests_are_told_the_cause(head, cause):
    with listening() as (port, _):
        answer = exchange(port, b"POST / HTTP/1.1\r\n" + head + b"\r\n\r\n")
    assert error_in(answer) == (400, "bad_http")
    assert cause in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "connections"),
    [
        (1_000_000, 1_000_000, None, 1032),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, 1032),
        (1024, 4096, 1752, 1032),
        (1024, resource.RLIM_INFINITY, 1752, 1032),
        (1024, 1024, 1024, 304),
        (256, 256, 256, 33),
    ],
)
def test_connections_leave_files_for_the_service(soft, hard, raised, connections, monkeypatch):
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: asked.append(limits))
    assert _connections(32, 2) == connections
    assert asked == ([] if raised is None else [(raised, hard)])


def test_a_port_in_use_and_settings_that_do_not_fit(model, capsys):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        for options, message in (
            (["--port", str(port)], f"cannot listen on '127.0.0.1', port {port}: another program listens there"),
            (["--port", "70000"], "--port is 70000"),
            (["--port", "0", "--host", "192.0.2.1"], "it is no address of this machine; give --host"),
            (["--port", "0", "--host", "a" * 80], "it is no address of this machine; give --host"),
            (["--port", "0", "--views", "2"], "views"),
            (["--port", "0", "--allow-private-urls"], "no effect without --allow-url"),
            (["--port", "0", "--allow-url", "ftp://a"], "--allow-url 'ftp://a' does not begin with http"),
            (["--port", "0", "--temp-dir", "/no/such"], "cannot store uploads in /no/such"),
            (["--port", "0", "--temp-bytes", "1M"], "temp_bytes is 1000000, less than the largest video"),
        ):
            assert main(["serve", str(model), *options]) == 1
            said = capsys.readouterr().err.strip().splitlines()[-1]
            assert said.startswith("vov3d serve: ")
            assert message in said
