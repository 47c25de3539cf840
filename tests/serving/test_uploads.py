"""Bodies of requests: the same video however its bytes arrive, and no other outcome than a video or one error."""

import asyncio
import os
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request

from vov3d.serving import _worker
from vov3d.serving._errors import RefusedError, size_text
from vov3d.serving._uploads import Uploads, receive
from vov3d.serving.limits import Limits

LIMITS = Limits(max_bytes=5000, temp_bytes=20_000)
STATUSES = {400, 413, 415}


def received(pieces, headers, limits=LIMITS, cut=False):
    """Reads a body that arrives in pieces; returns the video, and the bytes booked before and after."""
    waiting = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    waiting.append({"type": "http.disconnect"} if cut else {"type": "http.request", "body": b"", "more_body": False})

    async def next_message():
        return waiting.pop(0)

    scope = {"type": "http", "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()]}
    uploads = Uploads(limits)

    async def run():
        with uploads.open() as upload:
            url = await receive(Request(scope, next_message), upload, limits)
            upload.file.seek(0)
            content = upload.file.read()
            assert uploads.bytes == upload.size == len(content)
            return url, content

    try:
        return asyncio.run(run())
    finally:
        assert uploads.bytes == 0


def split(content, cuts):
    """Cuts bytes into pieces."""
    places = [0, *sorted(cut % (len(content) + 1) for cut in cuts), len(content)]
    return [content[a:b] for a, b in pairwise(places)]


def in_form(content, boundary=b"b", name=b"file"):
    head = b'Content-Disposition: form-data; name="' + name + b'"; filename="a.mp4"\r\nContent-Type: video/mp4'
    return b"--" + boundary + b"\r\n" + head + b"\r\n\r\n" + content + b"\r\n--" + boundary + b"--\r\n"


FORM = {"Content-Type": "multipart/form-data; boundary=b"}
CUTS = st.lists(st.integers(0, 10_000), max_size=8)
# bytes that look like ends of parts are the hard ones
CONTENT = st.lists(st.sampled_from([b"\r", b"\n", b"--b", b"-", b"\r\n--", b"x", b"\0"]), min_size=1).map(b"".join)


@settings(max_examples=60, deadline=None)
@given(CONTENT.filter(lambda c: b"\r\n--b" not in b"\r\n" + c + b"\r\n"), CUTS)
def test_a_form_gives_its_file_however_it_is_cut_into_pieces(content, cuts):
    assert received(split(in_form(content), cuts), FORM) == (None, content)


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=1, max_size=5000), CUTS)
def test_a_plain_body_is_the_video(content, cuts):
    assert received(split(content, cuts), {"Content-Type": "video/webm"}) == (None, content)
    assert received(split(content, cuts), {}) == (None, content)


@pytest.mark.parametrize("coding", ["gzip", "br, identity", "GZIP", "x" * 100])
@pytest.mark.parametrize("kind", [{"Content-Type": "video/mp4"}, FORM, {"Content-Type": "application/json"}])
def test_encoded_bodies_are_refused(coding, kind):
    with pytest.raises(
        RefusedError, match="Content-Encoding is '.*': send the bytes of the video as they are"
    ) as found:
        received([in_form(b"x")], {**kind, "Content-Encoding": coding})
    assert (found.value.status, found.value.code, found.value.close) == (415, "content_encoding", True)


@pytest.mark.parametrize("coding", ["", "identity", " Identity"])
def test_bodies_that_are_not_encoded_may_say_so(coding):
    assert received([b"x"], {"Content-Encoding": coding}) == (None, b"x")


@pytest.mark.parametrize(
    ("header", "coding", "taken"),
    [
        ("Content-Transfer-Encoding", "binary", True),
        ("Content-Transfer-Encoding", "base64", False),
        ("content-encoding", "gzip", False),
    ],
)
def test_encoded_parts_of_a_form_are_refused(header, coding, taken):
    body = in_form(b"x").replace(b"\r\n\r\n", f"\r\n{header}: {coding}\r\n\r\n".encode(), 1)
    if taken:
        assert received([body], FORM) == (None, b"x")
    else:
        with pytest.raises(RefusedError, match=f"{header.title()} is '{coding}'"):
            received([body], FORM)


KINDS = (
    "multipart/form-data; boundary=b",
    "multipart/form-data",
    "multipart/form-data; boundary=" + "x" * 500,
    "multipart/mixed; boundary=b",
    "application/json",
    "text/plain",
    "video/mp4",
    ";;;=",
    "\x7f",
)


def outcome(body, kind, cuts):
    """Returns what a body gives: a video or an address, or the error."""
    try:
        return received(split(body, cuts), {"Content-Type": kind})
    except RefusedError as error:
        return error


@settings(max_examples=120, deadline=None)
@given(
    st.binary(max_size=300) | st.builds(lambda c, n: in_form(c)[:n], CONTENT, st.integers(0, 200)),
    st.sampled_from(KINDS),
    CUTS,
)
def test_whatever_arrives_is_a_video_or_one_error(body, kind, cuts):
    found = outcome(body, kind, cuts)
    if isinstance(found, RefusedError):
        assert found.status in STATUSES
        assert found.message.isprintable()
    else:
        assert any(found)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), CUTS)
def test_a_client_that_goes_leaves_nothing(size, cuts):
    with pytest.raises(ClientDisconnect):
        received(split(in_form(bytes(size * 1000))[:900], cuts), FORM, cut=True)


@pytest.mark.parametrize("overhead", [b"", b"x" * 70_000])
def test_forms_are_limited_with_all_that_is_in_them(overhead):
    with pytest.raises(RefusedError) as refused:
        received([overhead + b"\r\n", in_form(bytes(5001 if not overhead else 10))], FORM)
    assert refused.value.status == 413 or refused.value.code == "bad_form"


def test_a_form_of_countless_parts_is_refused():
    part = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n\r\n'
    with pytest.raises(RefusedError, match="several fields 'file'"):
        received([part * 100], FORM)


def test_all_uploads_together_are_limited():
    uploads = Uploads(Limits(max_bytes=100, temp_bytes=150))
    with uploads.open() as one, uploads.open() as two:
        one.write(bytes(100))
        two.write(bytes(50))
        with pytest.raises(RefusedError, match="too many uploads"):
            two.write(bytes(1))
    assert uploads.bytes == 0


def test_files_have_no_name_that_could_be_left_behind(tmp_path):
    uploads = Uploads(LIMITS, tmp_path)
    with uploads.open() as upload:
        upload.write(b"x")
        upload.finish()
        assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there():
    with pytest.raises(RefusedError, match="cannot store videos"), Uploads(LIMITS, "/no/such/folder").open():
        pass


@pytest.mark.parametrize(("count", "text"), [(1, "1 bytes"), (2500, "2.5 kB"), (64_000_000, "64 MB"), (10**9, "1 GB")])
def test_sizes(count, text):
    assert size_text(count) == text


def test_a_file_is_read_whole_where_the_system_reads_less_at_once(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(bytes(range(256)))
    read = os.pread
    monkeypatch.setattr(os, "pread", lambda handle, count, at: read(handle, min(count, 100), at))
    with (tmp_path / "a").open("rb") as file:
        assert _worker._content(file.fileno()) == bytes(range(256))
