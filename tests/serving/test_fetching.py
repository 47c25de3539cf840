"""Downloads from addresses: only those of the list, wherever names and redirects lead."""

import asyncio
import ipaddress
from ipaddress import ip_address

import pytest
from helpers.file_host import FileHost
from hypothesis import given, settings
from hypothesis import strategies as st

from vov3d.serving import _fetching
from vov3d.serving._errors import RefusedError
from vov3d.serving._fetching import Fetcher, _is_never, _is_public, _place, parse_places
from vov3d.serving._uploads import Uploads
from vov3d.serving.limits import Limits

LIMITS = Limits(max_bytes=5000, upload_timeout=2.0, idle_timeout=1.0)


def fetched(url, places, private=False, limits=LIMITS):
    """Downloads a file and returns its content."""
    uploads = Uploads(limits)

    async def run():
        with uploads.open() as upload:
            await Fetcher(parse_places(places), private, limits).fetch(url, upload)
            upload.file.seek(0)
            return upload.file.read()

    return asyncio.run(run())


def refusal(url, places, **kwargs):
    """Returns status and code of the error that an address gives."""
    with pytest.raises(RefusedError) as refused:
        fetched(url, places, **kwargs)
    assert "127.0.0.1" not in refused.value.message
    return refused.value.status, refused.value.code


@pytest.fixture
def host():
    made = FileHost(b"a video" * 100)
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def names(monkeypatch):
    """Takes the place of the system's names: each call gives the next list of addresses."""
    answers: list[list[str]] = []
    asked = []

    async def resolve(name, port):
        asked.append(name)
        return [ip_address(text) for text in answers.pop(0)]

    monkeypatch.setattr(_fetching, "_resolve", resolve)
    return answers, asked


def test_a_permitted_file_is_downloaded(host):
    root = host.url.rpartition("/s/")[0]
    for places in ([root + "/"], [root], [root + "/s"], [root + "/s/"], [host.url]):
        assert fetched(host.url, places) == host.content


@pytest.mark.parametrize(
    ("place", "url", "permitted"),
    [
        ("v.example", "https://v.example/a.mp4", True),
        ("v.example", "https://V.EXAMPLE./a/b.mp4?x=1", True),
        ("v.example", "https://v.example:443/a.mp4", True),
        ("v.example", "http://v.example/a.mp4", False),
        ("v.example", "https://v.example:8443/a.mp4", False),
        ("v.example:8443", "https://v.example:8443/a.mp4", True),
        ("v.example", "https://v.example.evil/a.mp4", False),
        ("v.example", "https://evil.v.example/a.mp4", False),
        ("v.example", "https://evil/v.example", False),
        ("https://v.example/clips", "https://v.example/clips/a.mp4", True),
        ("https://v.example/clips", "https://v.example/clips-of-others/a.mp4", False),
        ("https://v.example/clips/", "https://v.example/a.mp4", False),
        ("http://10.0.0.1/", "http://10.0.0.1/a.mp4", True),
        ("http://10.0.0.1/", "http://10.0.0.2/a.mp4", False),
        ("http://[2001:db8::1]/", "http://[2001:db8::1]/a.mp4", True),
    ],
)
def test_the_list(place, url, permitted):
    assert parse_places([place])[0].holds(_place(url)) is permitted


ODD = [
    "file:///etc/passwd", "ftp://v.example/a", "concat:https://v.example/a|/etc/passwd", "//v.example/a", "v.example/a",
    "", "https://", "https:///a", "https://v.example@evil/a", "https://user:x@v.example/a", "https://v.example:0/a",
    "https://v.example:99999/a", "https://v.example:x/a", "https://v.example\\@evil/a", "https://v.example/a b",
    "https://v.example/\r\nHost: evil", "https://v.example/../a", "https://v.example/clips/%2e%2e/a",
    "https://v.example/clips/%252e%252e/a", "https://v.example/clips%2f..%2fa", "https://v.example/a%00",
    "https://v\u0435.example/a", "https://v.example\u3002evil/a", "https://[::1/a", "https://[fe80::1%25eth0]/a",
    "https://v.example/" + "a" * 5000, "https://-v.example/", "https://v..example/", "data:video/mp4;base64,AAAA",
]  # fmt: skip


@pytest.mark.parametrize("url", ODD)
def test_odd_addresses_are_never_permitted(url):
    places = ["https://v.example/clips/", "v.example", "http://v.example/"]
    assert refusal(url, places) == (403, "url_not_permitted")


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="htps:/@.?#[]%\\v2ex1&\t \n", max_size=30))
def test_no_text_is_taken_for_a_place_that_it_is_not_in(rest):
    async def nowhere(name, port):
        assert name == "v.example"
        return []

    before, _fetching._resolve = _fetching._resolve, nowhere
    try:
        assert refusal(f"https://v.example{rest}", ["v.example"])[0] == 403
    finally:
        _fetching._resolve = before


@pytest.mark.parametrize(
    "entry", ["", "ftp://v.example", "https://u@v.example", "https://v.example/../", "v example", "169.254.169.254",
              "http://[fe80::1]/", "0.0.0.0", "224.0.0.1", "http://[::ffff:169.254.169.254]/", "fd00:ec2::254"],
)  # fmt: skip
def test_entries_that_make_no_sense(entry):
    with pytest.raises(ValueError, match="--allow-url"):
        parse_places([entry])


def test_without_a_list_nothing_is_fetched(host, names):
    assert refusal(host.url, []) == (403, "url_not_permitted")
    assert refusal("https://v.example/", []) == (403, "url_not_permitted")
    assert names[1] == host.requests == []


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "::1", "fe80::1",
     "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "224.0.0.1", "ff02::1",
     "255.255.255.255", "240.0.0.1", "::", "fec0::1"],
)  # fmt: skip
def test_names_in_private_networks_are_refused(address, names):
    for found in ([address], ["93.184.216.34", address]):
        names[0].append(found)
        assert refusal("https://v.example/a.mp4", ["v.example"]) == (403, "url_not_permitted")


@settings(max_examples=200, deadline=None)
@given(st.ip_addresses())
def test_public_addresses_are_what_python_calls_global(address):
    if _is_public(address):
        assert address.is_global
        kinds = (address.is_multicast, address.is_link_local, address.is_loopback, address.is_private)
        assert not any(kinds)
    assert not (_is_public(address) and _is_never(address))
    if isinstance(address, ipaddress.IPv4Address):
        assert _is_public(ip_address(f"::ffff:{address}")) <= _is_public(address)


def test_a_name_is_looked_up_once_and_the_checked_address_is_called(host, names):
    port = host.server_address[1]
    names[0].extend([["127.0.0.1"], ["10.0.0.1"]])  # a name that changes its meaning between check and use
    place = f"http://v.example:{port}/"
    assert fetched(f"{place}s/a.mp4", [place], private=True) == host.content
    assert names[1] == ["v.example"]


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"]
)
def test_metadata_services_are_refused_even_where_private_networks_are_permitted(address, names):
    names[0].append([address])
    assert refusal("http://v.example/a", ["http://v.example/"], private=True) == (403, "url_not_permitted")


def test_a_redirect_without_a_target_is_named_as_such(host):
    host.answer = lambda handler, n: handler.send(302)
    with pytest.raises(RefusedError, match="HTTP status 302"):
        fetched(host.url, [host.url])
    assert len(host.requests) == 1


def test_redirects_stay_within_the_list(host):
    root = host.url.rpartition("/s/")[0]
    inside = lambda handler, n: handler.send(302, Location="/s/b.mp4") if n == 1 else handler.send_file()  # noqa: E731
    host.answer = inside
    assert fetched(host.url, [f"{root}/s/"]) == host.content
    for target in (
        "/elsewhere/b.mp4", "http://169.254.169.254/latest", "file:///etc/passwd", "//evil.example/a", "http://127.0.0.1:1/s/",
        "/s/../x", "",
    ):  # fmt: skip
        host.requests.clear()
        host.answer = lambda handler, n, target=target: handler.send(302, Location=target)
        status, _ = refusal(host.url, [f"{root}/s/"])
        assert status == 403 or not target
    host.answer = lambda handler, n: handler.send(302, Location=handler.path)
    assert refusal(host.url, [root]) == (502, "url_failed")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda handler, n: handler.send(404), (502, "url_failed")),
        (lambda handler, n: handler.send(200), (400, "empty")),
        (lambda handler, n: handler.send_file(cut=10), (502, "url_failed")),
        (lambda handler, n: handler.send(200, bytes(5001)), (413, "too_large")),
        (lambda handler, n: handler.send(200, b"x", Content_Length="9" * 18), (413, "too_large")),
        (lambda handler, n: handler.send(200, b"x", Content_Encoding="gzip"), (502, "url_failed")),
        (lambda handler, n: handler.wfile.write(b"nonsense\r\n\r\n"), (502, "url_failed")),
    ],
)
def test_hosts_that_fail(host, answer, expected):
    host.answer = answer
    assert refusal(host.url, [host.url.rpartition("/s/")[0]]) == expected


def test_slow_hosts_end(host):
    def slow(handler, n):
        import time

        handler.send(200, b"x", Content_Length="100")
        handler.wfile.flush()
        time.sleep(1.0)

    host.answer = slow
    limits = Limits(max_bytes=5000, upload_timeout=0.3)
    assert refusal(host.url, [host.url.rpartition("/s/")[0]], limits=limits) == (502, "url_failed")
