"""Downloads videos from addresses that an allow-list permits, and from no others.

A host's name is looked up once, the addresses are checked, and the connection goes to exactly one of those: a name
that changes its meaning between check and use is of no help to an attacker. Redirects are followed by hand, each one
checked like the first address. Proxies of the environment are not used, because they would look the name up again.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import httpx

from vov3d.serving._errors import RefusedError
from vov3d.serving._uploads import Upload, too_large
from vov3d.serving.limits import Limits

_PORTS = {"http": 80, "https": 443}
_MOST_REDIRECTS = 3
_CONNECT_SECONDS = 5.0
_MOST_URL = 4096
_HOST = re.compile(r"(?!-)[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\]")

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Place:
    """An entry of the allow-list: a host, or the beginning of an address.

    Attributes:
        scheme: `"http"` or `"https"`.
        host: The host, in lower case.
        port: The port.
        path: The folder, with a slash at its end; or a whole path.
    """

    scheme: str
    host: str
    port: int
    path: str

    def holds(self, url: "Place") -> bool:
        """Returns whether an address lies in this place."""
        same = (self.scheme, self.host, self.port) == (url.scheme, url.host, url.port)
        folder = self.path if self.path.endswith("/") else f"{self.path}/"
        return same and (url.path == self.path or url.path.startswith(folder))


def parse_places(entries: Iterable[str]) -> list[Place]:
    """Returns the allow-list of `--allow-url`.

    Raises:
        ValueError: For an entry that is neither a host nor the beginning of an http(s) address.
    """
    return [_entry(entry) for entry in entries]


def _entry(text: str) -> Place:
    given = text if "://" in text else f"https://{text}"
    try:
        place = _place(given)
    except ValueError as error:
        raise ValueError(
            f"--allow-url {text!r} {error}: give a host such as videos.example.org, or the beginning of an address "
            "such as https://videos.example.org/clips/"
        ) from None
    address = _literal(place.host)
    if address is not None and _is_never(address):
        raise ValueError(f"--allow-url {text!r} is an address that is never fetched from: name another host")
    return place


def _place(url: str) -> Place:
    """Parses an address strictly: parsers that disagree on it must not matter.

    Raises:
        ValueError: With what is wrong, for use in a sentence.
    """
    if len(url) > _MOST_URL or not url.isascii() or re.search(r"[\s\\\x00-\x1f\x7f]", url):
        raise ValueError("is too long, or has blanks, backslashes or characters outside ASCII (encode them by %)")
    try:
        parts: SplitResult = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("is no address") from None
    if parts.scheme not in _PORTS:
        raise ValueError("does not begin with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("has a user name")
    host = parts.netloc.lower()
    host = host if port is None else host.rpartition(":")[0]
    if not _HOST.fullmatch(host) or port == 0:
        raise ValueError("has no host that is a name or an IP address")
    path = parts.path or "/"
    plain = unquote(unquote(path))
    if any(part in (".", "..") for part in plain.split("/")) or re.search(r"%2f|%5c|%00|\\", path, re.IGNORECASE):
        raise ValueError("has . or .. or an encoded slash in its path")
    return Place(parts.scheme, host.removesuffix("."), port or _PORTS[parts.scheme], path)


def _literal(host: str) -> IPAddress | None:
    """Returns a host as an IP address, None for a name; numbers such as 0x7f000001 count as names."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _inner(address: IPAddress) -> IPAddress:
    """Returns the IPv4 address in an IPv6 address that stands for one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in ipaddress.ip_network("64:ff9b::/96"):
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_never(address: IPAddress) -> bool:
    """Returns whether an address is never fetched from: those of cloud metadata, of groups, and of nobody."""
    inner = _inner(address)
    return inner.is_link_local or inner.is_multicast or inner.is_unspecified or inner in _METADATA


# of clouds whose services lie outside the link-local addresses: AWS by IPv6, Alibaba, Oracle, Azure
_METADATA = [ipaddress.ip_address(a) for a in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16")]


def _is_public(address: IPAddress) -> bool:
    inner = _inner(address)
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:  # replaced by fc00::/7, and private, too
        return False
    return inner.is_global and address.is_global and not _is_never(address) and not inner.is_reserved


class Fetcher:
    """Downloads videos from the places of an allow-list.

    Args:
        places: The allow-list; empty for no downloads at all.
        private: Whether its names may stand for addresses of private networks. An IP address in the list itself may.
        limits: Limits of the service.
    """

    def __init__(self, places: Sequence[Place], private: bool, limits: Limits) -> None:
        self._places, self._private, self._limits = places, private, limits
        self._tls: ssl.SSLContext | None = None

    async def fetch(self, url: str, upload: Upload) -> None:
        """Downloads a video.

        Args:
            url: The address.
            upload: Takes the video.

        Raises:
            RefusedError: If the address is not permitted, or cannot be downloaded whole within the limits.
        """
        if not self._places:
            raise RefusedError(
                403,
                "url_not_permitted",
                "this service takes no addresses: send the video itself (its owner may permit hosts by --allow-url)",
            )
        try:
            async with asyncio.timeout(self._limits.upload_timeout):
                await self._follow(url, upload)
        except TimeoutError as error:
            raise _failed(f"the download took over {self._limits.upload_timeout:g} seconds") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise _failed(f"the host of the address did not send it ({type(error).__name__})") from error
        upload.finish()

    async def _follow(self, url: str, upload: Upload) -> None:
        for _ in range(_MOST_REDIRECTS + 1):
            target = await self._once(url, upload)
            if target is None:
                return
            if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
                raise _not_permitted("the address redirects from https to another protocol")
            url = target
        raise _failed(f"the address redirects more than {_MOST_REDIRECTS} times")

    async def _once(self, url: str, upload: Upload) -> str | None:
        """Requests an address; returns where it redirects to, or None after writing its content."""
        place = self._permitted(url)
        address = await self._looked_up(place)
        parts = urlsplit(url)
        name = f"[{address}]" if address.version == 6 else str(address)
        there = parts._replace(netloc=f"{name}:{place.port}", fragment="").geturl()
        seconds = httpx.Timeout(self._limits.idle_timeout, connect=_CONNECT_SECONDS)
        headers = {"Host": parts.netloc, "Accept-Encoding": "identity", "User-Agent": "vov3d-serve"}
        if self._tls is None:  # loading the certificates takes long
            self._tls = httpx.create_ssl_context(trust_env=False)
        extensions = {"sni_hostname": place.host.strip("[]")}
        async with (
            httpx.AsyncClient(verify=self._tls, trust_env=False, follow_redirects=False, timeout=seconds) as client,
            client.stream("GET", there, headers=headers, extensions=extensions) as response,
        ):
            if response.has_redirect_location:
                return urljoin(url, response.headers["Location"])
            await self._store(response, upload)
        return None

    async def _store(self, response: httpx.Response, upload: Upload) -> None:
        if response.status_code != 200:
            raise _failed(f"the host of the address answers with HTTP status {response.status_code}")
        if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            raise _failed("the host of the address sends compressed content, which was not asked for")
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and (len(length) > 18 or int(length) > self._limits.max_bytes):
            raise too_large(self._limits.max_bytes)
        async for chunk in response.aiter_raw():
            upload.write(chunk)

    def _permitted(self, url: str) -> Place:
        try:
            place = _place(url)
        except ValueError as error:
            raise _not_permitted(f"the address {error}") from None
        if not any(allowed.holds(place) for allowed in self._places):
            raise _not_permitted(
                "the address, or one that it redirects to, is not in the list that this service permits"
            )
        return place

    async def _looked_up(self, place: Place) -> IPAddress:
        """Returns an IP address of a host, after checking all of them."""
        literal = _literal(place.host)
        if literal is not None:
            return literal  # stands in the allow-list itself
        found = await _resolve(place.host, place.port)
        bad = [a for a in found if _is_never(a) or not (self._private or _is_public(a))]
        if bad or not found:
            raise _not_permitted("the host of the address is unknown, or lies in a network that is not permitted")
        return found[0]


async def _resolve(host: str, port: int) -> list[IPAddress]:
    """Returns the IP addresses of a name."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def _not_permitted(cause: str) -> RefusedError:
    return RefusedError(403, "url_not_permitted", f"{cause}: send the video itself, or ask the owner of the service")


def _failed(cause: str) -> RefusedError:
    return RefusedError(502, "url_failed", f"{cause}: see whether the address is right, or send the video itself")
