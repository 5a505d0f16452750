"""Addresses that registries name in their answers: nothing that they say is believed to be one."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from scow.errors import Unavailable


def target_of(host: str, before: str, named: str) -> str:
    """The URL that *named*, in the answer to *before*, means. Raises `Unavailable`, naming the registry *host*, where
    it is none."""
    try:
        url = urljoin(before, named)
        parts = urlsplit(url)
        usable = url.isascii() and url.isprintable() and " " not in url and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Unavailable(f"registry {host} names an address that is none")
    return url
