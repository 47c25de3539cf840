"""Downloads from hosts that fail in every known way."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers.file_host import (
    FileHost,
    cut,
    disguised_web_page,
    in_an_hour,
    redirect_loop,
    reset,
    short_body,
    stall,
    status,
    web_page,
)
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st

from vov3d.weights.download import DownloadError, download

CONTENT = random.Random(0).randbytes(300_000)
HALF = len(CONTENT) // 2


@pytest.fixture
def host():
    server = FileHost(CONTENT)
    yield server
    server.shutdown()


def fails(host, path, answer) -> str:
    host.answer = answer
    with pytest.raises(DownloadError) as caught:
        download(host.url, path)
    assert not path.exists()
    return str(caught.value)


def test_cut_five_times_ends_byte_identical_through_ranges(host, tmp_path):
    host.answer = cut(5, 50_000)
    download(host.url, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert host.requests == ["whole", *(f"bytes={n * 50_000}-" for n in range(1, 6))]
    assert os.listdir(tmp_path) == ["w"]


@pytest.mark.parametrize(
    "answer",
    [
        cut(2, HALF, ranges=False),
        reset(2, 20_000),
        stall(2, 20_000, 1.0),
        status(429, 2, Retry_After="0"),
        status(503, 3),
        status(500, 1),
    ],
    ids=["no ranges", "reset", "stall", "429", "503", "500"],
)
def test_temporary_failures_are_retried(host, tmp_path, monkeypatch, answer):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    host.answer = answer
    download(host.url, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (web_page, "web page"),
        (redirect_loop, "redirects without end"),
        (status(403), "HTTP status 403 Forbidden"),
        (status(404), "HTTP status 404 Not Found"),
        (status(410), "HTTP status 410"),
        (status(429, Retry_After="7200"), "come back in 120 minutes"),
        (lambda handler, n: handler.send(429, Retry_After=in_an_hour()), "come back in 60 minutes"),
        (status(429, Retry_After="soon"), "HTTP status 429 Too Many Requests (4 tries"),
        (status(500), "HTTP status 500"),
        (short_body, "1,000 of 300,000 bytes"),
        (stall(99, 0, 1.0), "no answer for 0.2 s"),
    ],
    ids=["html", "redirects", "403", "404", "410", "429 long", "429 date", "429", "500", "short", "stall"],
)
def test_permanent_failures_are_reported(host, tmp_path, monkeypatch, answer, cause):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    assert cause in fails(host, tmp_path / "w", answer)


def test_a_web_page_sent_as_a_file_is_left_to_the_reader_to_refuse(host, tmp_path):
    host.answer = disguised_web_page
    download(host.url, tmp_path / "w")
    assert (tmp_path / "w").read_bytes().startswith(b"<!DOCTYPE")


def test_an_unreachable_host_is_asked_once(tmp_path):
    with pytest.raises(DownloadError) as caught:
        download("http://127.0.0.1:9/w.pth", tmp_path / "w")
    assert "tries" not in str(caught.value)  # it was asked once
    with pytest.raises(DownloadError, match="http"):
        download("file:///etc/passwd", tmp_path / "w")


def without_length(handler, n):
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(CONTENT)


def test_a_file_of_unknown_length(host, tmp_path):
    host.answer = without_length
    download(host.url, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT


@pytest.mark.parametrize("answer", [lambda handler, n: handler.send_file(), without_length])
def test_a_file_larger_than_the_free_disk_is_not_written(host, tmp_path, monkeypatch, answer):
    monkeypatch.setattr("vov3d.weights.download._SPARE", 1 << 60)
    assert "do not fit" in fails(host, tmp_path / "w", answer)
    assert not [path for path in tmp_path.glob("*.part") if path.stat().st_size]


def test_a_later_call_goes_on_where_the_first_stopped(host, tmp_path):
    fails(host, tmp_path / "w", lambda handler, n: handler.send_file(HALF) if n == 1 else handler.send(404))
    host.answer = lambda handler, n: handler.send_file()
    download(host.url, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert host.requests[-1] == f"bytes={HALF}-"


def test_a_file_that_changed_meanwhile_is_fetched_anew(host, tmp_path):
    for changed in (CONTENT[::-1], CONTENT[:1000], CONTENT * 2):
        host.content = CONTENT
        (tmp_path / "w").unlink(missing_ok=True)
        stop = threading.Event()

        def answer(handler, n, stop=stop):
            handler.send(404) if stop.is_set() else handler.send_file(HALF)
            stop.set()

        fails(host, tmp_path / "w", answer)
        host.content, host.answer = changed, lambda handler, n: handler.send_file()
        download(host.url, tmp_path / "w")
        assert (tmp_path / "w").read_bytes() == changed


@pytest.mark.parametrize("changed", [CONTENT[::-1] + b"more", CONTENT[::-1]], ids=["longer", "as long"])
def test_without_validators_a_download_starts_again(host, tmp_path, changed):
    def answer(handler, n):
        if n == 2:
            host.content = changed
        handler.send_file(HALF if n == 1 else None, validators=False)

    host.answer = answer
    download(host.url, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == changed
    assert host.requests == ["whole", "whole"]


def test_a_part_of_another_file_is_not_continued(host, tmp_path):
    """The host sends a range of what it has now, whatever the client has."""

    def answer(handler, n):
        if n == 1:
            return handler.send_file(HALF)
        host.content = CONTENT[::-1]
        handler.headers.replace_header("If-Range", "") if "If-Range" in handler.headers else None
        rest = handler.headers.get("Range", "")
        start = int(rest[6:-1]) if rest else 0
        span = {"Content_Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"} if rest else {}
        return handler.send(206 if rest else 200, CONTENT[::-1][start:], ETag='"other"', **span)

    host.answer = answer
    download(host.url, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT[::-1]


def trickle(handler, n):
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b"x")
            time.sleep(0.02)


def test_a_host_that_is_too_slow_is_given_up(host, tmp_path, monkeypatch):
    monkeypatch.setattr("vov3d.weights.download._SLOWEST", (1000, 0.3))
    assert "bytes arrived in 0.3 s" in fails(host, tmp_path / "w", trickle)


@pytest.mark.parametrize("answer", [lambda handler, n: handler.send_file(), without_length])
def test_a_file_that_is_too_large_is_not_fetched(host, tmp_path, answer):
    host.answer = answer
    with pytest.raises(DownloadError, match=r"more than the 100,000( bytes)? expected at most"):
        download(host.url, tmp_path / "w", largest=100_000)
    assert len(host.requests) == 1
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("name", ["w", "w.part", "w.part.json"])
def test_planted_links_are_not_followed(host, tmp_path, name):
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / name).symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="is a symbolic link, which is not followed"):
        download(host.url, tmp_path / "w")
    assert (tmp_path / "victim").read_bytes() == b"mine"
    assert not host.requests


def test_an_interrupt_ends_a_download_at_once(host, tmp_path):
    host.answer = stall(99, 20_000, 30.0)
    code = "import sys, pathlib, vov3d.weights.download as d; d.download(sys.argv[1], pathlib.Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, host.url, str(tmp_path / "w")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        while not (tmp_path / "w.part").exists():
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=60)[1].endswith("KeyboardInterrupt\n")
    assert host.requests == ["whole"]  # it would have asked again


def test_a_complete_part_needs_no_host(host, tmp_path):
    fails(host, tmp_path / "w", lambda handler, n: handler.send_file(HALF) if n == 1 else handler.send(404))
    with (tmp_path / "w.part").open("ab") as f:
        f.write(CONTENT[HALF:])
    asked = len(host.requests)
    download(host.url, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert len(host.requests) == asked


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.integers(1, 120_000), max_size=6), ranges=st.booleans(), validators=st.booleans())
def test_any_series_of_cuts_ends_in_the_file_or_in_an_error(tmp_path_factory, cuts, ranges, validators):
    host, path = FileHost(CONTENT), tmp_path_factory.mktemp("d") / "w"
    host.answer = lambda handler, n: handler.send_file(
        cuts[n - 1] if n <= len(cuts) else None, ranges=ranges, validators=validators
    )
    try:
        download(host.url, path)
        assert path.read_bytes() == CONTENT
    except DownloadError:
        assert not (ranges and validators)  # without both nothing is gained from try to try
        assert not path.exists()
    finally:
        host.shutdown()
