"""A real browser for tests of pages, where Chromium and Playwright are there."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]

# Refuses to leave the machine, and notes who tried.
GUARD = """
import os, sys

def _only_here(event, args):
    address = args[1] if event == "socket.connect" else args
    if event in ("socket.connect", "socket.getaddrinfo") and isinstance(address, tuple):
        if address[0] not in ("127.0.0.1", "::1", "localhost", "0.0.0.0", None, b"127.0.0.1", b"localhost"):
            with open(os.environ["VOV3D_TEST_CALLS"], "a") as file:
                print(event, address[0], file=file)
            raise OSError(f"no test leaves this machine: {address[0]}")

sys.addaudithook(_only_here)
"""


@contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """Yields a browser of Playwright; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        yield browser
        browser.close()


def new_page(browser: Any, **options: Any) -> Any:
    """Opens a page in a context of its own; its `hosts` are those that it asked for anything, `problems` its errors."""
    page = browser.new_context(**options).new_page()
    page.hosts, page.problems = set(), []
    page.on("request", lambda request: page.hosts.add(urlparse(request.url).hostname))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    return page


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def server_process(command: list[str], port: int, folder: Path) -> Iterator[str]:
    """Runs a Python server in a process that cannot leave this machine; yields its address when it answers.

    After it has ended, `folder / "calls"` lists the hosts that it tried to reach.
    """
    guard = folder / "guard"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD)
    calls = folder / "calls"
    calls.touch()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(guard), *sys.path]), "VOV3D_TEST_CALLS": str(calls)}
    env = {name: value for name, value in env.items() if "proxy" not in name.lower()}
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, *command], stdout=output, stderr=subprocess.STDOUT, env=env)
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(30)
