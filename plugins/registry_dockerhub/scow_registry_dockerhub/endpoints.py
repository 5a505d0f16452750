"""Where a registry's host is reached, and how far it is trusted."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from scow.errors import InvalidArgument
from scow.reference import DEFAULT_HOST

if TYPE_CHECKING:
    from collections.abc import Mapping

DOCKER_HUB = "registry-1.docker.io"
"""Where ``docker.io`` is served."""
DOCKER_INDEX = "index.docker.io"
"""Where it is searched."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place that serves a registry's repositories.

    *host* is the registry's name as users write it, *netloc* where to connect; *plain* allows plain HTTP; *verify* is
    what requests takes: False, True or a path of certificate authorities. A *mirror* is read only and is never sent the
    credentials of the registry that it mirrors.
    """

    host: str
    netloc: str
    plain: bool = False
    verify: bool | str = True
    prefix: str = ""
    scheme: str = ""
    mirror: bool = False


class Endpoints:
    """The endpoints of each host, from the ``registries`` section of the config file.

    Each host's entry may hold ``insecure`` (plain HTTP and unverified certificates are accepted), ``ca`` (a file or
    folder of certificate authorities) and ``mirrors`` (hosts or URLs, tried in order before the registry itself).
    """

    def __init__(self, registries: Mapping[str, Mapping[str, Any]]) -> None:
        self._registries = registries

    def registry(self, host: str) -> Endpoint:
        """The registry *host* itself: where is pushed to and logged in at."""
        return self._endpoint(host, DOCKER_HUB if host == DEFAULT_HOST else host)

    def index(self, host: str) -> Endpoint:
        """Where *host* is searched."""
        return self._endpoint(host, DOCKER_INDEX if host == DEFAULT_HOST else host)

    def reading(self, host: str) -> list[Endpoint]:
        """What may be read from for *host*: its mirrors, then itself."""
        mirrors = self._registries.get(host, {}).get("mirrors") or ()
        return [*(self._mirror(host, str(text)) for text in mirrors), self.registry(host)]

    def plain_allowed(self, host: str) -> bool:
        """Whether plain HTTP may be spoken with *host* (``name[:port]``): a loopback host, or configured insecure."""
        return is_loopback(host) or bool(self._registries.get(host, {}).get("insecure"))

    def _endpoint(self, host: str, netloc: str) -> Endpoint:
        entry = self._registries.get(host, {})
        verify: bool | str = _system_authorities()
        if entry.get("ca"):
            verify = str(entry["ca"])
        elif entry.get("insecure"):
            verify = False
        return Endpoint(host, netloc, self.plain_allowed(host), verify)

    def _mirror(self, host: str, text: str) -> Endpoint:
        url = urlsplit(text if "://" in text else f"//{text}")
        if not url.netloc or "@" in url.netloc or url.scheme not in ("", "http", "https"):
            raise InvalidArgument(f"invalid mirror of registry {host}", hint="expected host[:port] or an http(s) URL")
        if url.scheme == "http" and not self.plain_allowed(url.netloc):
            raise InvalidArgument(
                f"mirror {url.netloc} of registry {host} would be read over plain http",
                hint=f"registries: {{{url.netloc!r}: {{insecure: true}}}} in the config file allows it",
            )
        found = self._endpoint(url.netloc, url.netloc)
        prefix = url.path.rstrip("/").removesuffix("/v2")
        return Endpoint(url.netloc, url.netloc, found.plain, found.verify, prefix, url.scheme, mirror=True)


def is_loopback(host: str) -> bool:
    """Whether *host* (``name[:port]``) is ``localhost`` or an address of the loopback interface."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def login_host(server_address: str) -> str:
    """The registry's host in what ``docker login`` is given: ``https://index.docker.io/v1/`` is ``docker.io``."""
    address = server_address.split("://", 1)[-1].split("/", 1)[0]
    return DEFAULT_HOST if address in ("", DOCKER_INDEX, DOCKER_HUB) else address


def _system_authorities() -> bool | str:
    # The host's own authorities rather than certifi's copy: what an administrator added holds here too. True leaves the
    # choice to requests, which then also reads REQUESTS_CA_BUNDLE.
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return paths.cafile
    folder = Path(paths.capath) if paths.capath else None
    return str(folder) if folder is not None and any(folder.glob("*.0")) else True
