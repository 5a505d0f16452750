"""Where a registry's host is reached, and how far it is trusted."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from scow.errors import InvalidArgument
from scow.reference import DEFAULT_HOST
from scow_registry_dockerhub.trust import File, Trust, read_certs_dir

if TYPE_CHECKING:
    from collections.abc import Mapping

DOCKER_HUB = "registry-1.docker.io"
"""Where ``docker.io`` is served."""
DOCKER_INDEX = "index.docker.io"
"""Where it is searched."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place that serves a registry's repositories.

    *host* is the registry's name as users write it, *netloc* where to connect; *plain* allows plain HTTP; *trust* is
    what TLS is spoken with. *prefix* comes before ``/v2/``, *namespace* before the name of each repository. A *mirror*
    is read only and is never sent the credentials of the registry that it mirrors.
    """

    host: str
    netloc: str
    plain: bool = False
    trust: Trust = Trust()
    prefix: str = ""
    namespace: str = ""
    scheme: str = ""
    mirror: bool = False

    def repository(self, name: str) -> str:
        """What *name* is called here."""
        return f"{self.namespace}/{name}" if self.namespace else name


class Endpoints:
    """The endpoints of each host, from the ``registries`` section of the config file and a folder of certificates.

    Each host's entry may hold ``insecure`` (plain HTTP and unverified certificates are accepted), ``ca`` (a file or
    folder of certificate authorities, believed instead of the system's) and ``mirrors`` (tried in order before the
    registry itself). The entry of a host with a path (``docker.io/library``) holds the mirrors of what is below it.
    """

    def __init__(self, registries: Mapping[str, Mapping[str, Any]], certs_dir: Path | None = None) -> None:
        self._registries, self._certs_dir = registries, certs_dir

    def registry(self, host: str) -> Endpoint:
        """The registry *host* itself: where is pushed to and logged in at."""
        return self._endpoint(host, DOCKER_HUB if host == DEFAULT_HOST else host)

    def index(self, host: str) -> Endpoint:
        """Where *host* is searched."""
        return self._endpoint(host, DOCKER_INDEX if host == DEFAULT_HOST else host)

    def reading(self, host: str, repository: str) -> list[Endpoint]:
        """What *repository* of *host* may be read from: the mirrors of the longest entry that it is below, then the
        registry itself."""
        key = f"{host}/{repository}"
        while key not in self._registries and "/" in key:
            key = key.rpartition("/")[0]
        mirrors = self._registries.get(key, {}).get("mirrors") or ()
        return [*(self._mirror(key, str(text)) for text in mirrors), self.registry(host)]

    def plain_allowed(self, host: str) -> bool:
        """Whether plain HTTP may be spoken with *host* (``name[:port]``): a loopback host, or configured insecure."""
        return is_loopback(host) or bool(self._registries.get(host, {}).get("insecure"))

    def trust(self, netloc: str, named_by: Endpoint) -> Trust:
        """What TLS with *netloc* is spoken with where *named_by* leads there (a redirect, its token server): also what
        vouches for the one may vouch for the other, as in Docker; client certificates are shown to their host only."""
        return named_by.trust if netloc == named_by.netloc else self._trust(netloc, netloc).also(named_by.trust)

    def _endpoint(self, host: str, netloc: str) -> Endpoint:
        return Endpoint(host, netloc, self.plain_allowed(host), self._trust(host, netloc))

    def _trust(self, host: str, netloc: str) -> Trust:
        entry = self._registries.get(host, {})
        found = read_certs_dir(self._certs_dir, host)
        if netloc != host:
            more = read_certs_dir(self._certs_dir, netloc)
            found = replace(found.also(more), pairs=found.pairs + more.pairs)
        if entry.get("ca"):
            authorities = (File.of(Path(str(entry["ca"]))), *found.authorities)
            return replace(found, system=False, authorities=authorities)
        return replace(found, verify=not entry.get("insecure"))

    def _mirror(self, key: str, text: str) -> Endpoint:
        """*text* is ``host[:port][/namespace]``, as the name of an image begins, or a URL, whose path stands before
        ``/v2/`` where that is not in it: ``https://host/cache``, ``https://host/v2/namespace``."""
        try:
            url = urlsplit(text if "://" in text else f"//{text}")
            usable = url.hostname and url.port != 0 and "@" not in url.netloc and not url.query
        except ValueError:
            usable = False
        if not usable or url.scheme not in ("", "http", "https"):
            raise InvalidArgument(
                f"invalid mirror of registry {key}", hint="expected host[:port][/namespace] or an http(s) URL"
            )
        if url.scheme == "http" and not self.plain_allowed(url.netloc):
            raise InvalidArgument(
                f"mirror {url.netloc} of registry {key} would be read over plain http",
                hint=f"registries: {{{url.netloc!r}: {{insecure: true}}}} in the config file allows it",
            )
        path = url.path.strip("/")
        before, _, after = f"/{path}/".partition("/v2/") if url.scheme else ("", "", path)
        return replace(
            self._endpoint(url.netloc, url.netloc),
            prefix=before.rstrip("/"),
            namespace=after.strip("/"),
            scheme=url.scheme,
            mirror=True,
        )


def is_loopback(host: str) -> bool:
    """Whether *host* (``name[:port]``) is ``localhost`` or an address of the loopback interface."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name == "localhost":
            return True
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def login_host(server_address: str) -> str:
    """The registry's host in what ``docker login`` is given: ``https://index.docker.io/v1/`` is ``docker.io``."""
    address = server_address.split("://", 1)[-1].split("/", 1)[0]
    return DEFAULT_HOST if address in ("", DOCKER_INDEX, DOCKER_HUB) else address
