"""Which addresses may be requested: http and https only, and no private network unless the recipe allows it.

Names are resolved here and the connection goes to the address that was checked, so that DNS rebinding (another answer
between check and use) does not work. Every hop of a redirect is checked here, our own and those of yt-dlp.
"""

import ipaddress
import socket
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from soundvid.sources.web.errors import FetchProblem

_PORTS = {"http": 80, "https": 443}  # default ports of proxies
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an IP address is public; IPv4 addresses embedded in IPv6 ones are checked as such."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    inner: ipaddress.IPv4Address | None = None
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    ip = inner or ip
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


class AddressRefused(OSError, FetchProblem):
    """An address that must not be requested. Also an OSError, so that HTTP libraries pass it on and do not retry."""

    def __init__(self, message: str) -> None:
        FetchProblem.__init__(self, "address", message)


class Guard:
    """Checks addresses, and opens connections to addresses that passed."""

    def __init__(self, allow_private: bool, proxy: str | None = None) -> None:
        self.allow_private = allow_private
        # The user named the proxy, in the recipe or the environment: it may be in a private network.
        named = [proxy] if proxy else [v for k, v in getproxies().items() if k in ("http", "https", "all")]
        parts = [urlsplit(p) for p in named if "://" in p]
        self.proxies = {(p.hostname, p.port or _PORTS.get(p.scheme.lower(), 1080)) for p in parts}

    def check(self, url: str) -> None:
        """Raise AddressRefused for other schemes and, without a DNS lookup, for obviously private addresses."""
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError as error:
            raise AddressRefused(f"{url}: not an address ({error})") from error
        if parts.scheme.lower() not in ("http", "https"):
            raise AddressRefused(f"{url}: only http and https are supported, not {parts.scheme or 'no scheme'}")
        host = parts.hostname
        if not host:
            raise AddressRefused(f"{url}: has no host")
        if self.allow_private:
            return
        try:
            public = is_public(host)
        except ValueError:
            public = not (host == "localhost" or host.endswith((".localhost", ".local", ".internal")))
        if not public:
            raise self._refused(host, host)

    def resolve(self, host: str, port: int) -> list[tuple[Any, ...]]:
        """All addresses of a host. Raises AddressRefused if one of them is private."""
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
        if not self.allow_private and (host, port) not in self.proxies:
            for entry in found:
                if not is_public(str(entry[4][0])):
                    raise self._refused(host, str(entry[4][0]))
        return found

    def connect(self, address: tuple[str, int], timeout: Any = None, source_address: Any = None) -> socket.socket:
        """Connect to a host at a checked address. Same signature as socket.create_connection."""
        host, port = address
        failure: OSError | None = None
        for family, kind, protocol, _, where in self.resolve(host, port):
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(timeout if isinstance(timeout, (int, float)) else 30.0)
                if source_address:
                    connection.bind(source_address)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.connect(where)
                return connection
            except OSError as error:
                connection.close()
                failure = error
        raise failure or OSError(f"{host}: has no address")

    def _refused(self, host: str, address: str) -> AddressRefused:
        shown = host if host == address else f"{host} ({address})"
        return AddressRefused(
            f"{shown}: a private address; set download: {{allow_private_addresses: true}} if this is intended"
        )
