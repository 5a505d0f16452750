"""Which proxy an address is reached through: the config's, else the environment's, by the rules of Go's programs."""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from scow_registry_dockerhub.endpoints import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Proxies:
    """*http* and *https* are the proxies' addresses for URLs of these schemes, *no_proxy* lists the hosts that are
    reached without; what is empty is taken from ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY`` of *environ*."""

    def __init__(
        self,
        http: str = "",
        https: str = "",
        no_proxy: Sequence[str] = (),
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        def variable(name: str) -> str:
            return environ.get(name.lower()) or environ.get(name) or ""

        self._proxies = {"http": http or variable("HTTP_PROXY"), "https": https or variable("HTTPS_PROXY")}
        self._direct = [part.strip().lower() for part in no_proxy or variable("NO_PROXY").split(",") if part.strip()]

    def of(self, url: str) -> str:
        """The proxy for *url*, ``""`` for none: this machine is always reached without one."""
        parts = urlsplit(url)
        proxy = self._proxies.get(parts.scheme, "")
        if not proxy or is_loopback(parts.netloc):
            return ""
        host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        if any(_matches(entry, host, str(port)) for entry in self._direct):
            return ""
        return proxy if "://" in proxy else f"http://{proxy}"


def _matches(entry: str, host: str, port: str) -> bool:
    """Whether an entry of NO_PROXY means *host*: ``*``, an address or network, ``name[:port]`` (and what is below it)
    or ``.name`` (only what is below it)."""
    if entry == "*":
        return True
    address, network = _address(host), _network(entry)
    if network is not None:
        return address is not None and address in network
    name, colon, only = entry.rpartition(":")
    if colon and only.isdecimal():
        if only != port:
            return False
        entry = name.strip("[]")
    if address is not None or not entry:
        return entry == host
    entry = entry.removeprefix("*")
    return host.endswith(entry) if entry.startswith(".") else host == entry or host.endswith(f".{entry}")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
