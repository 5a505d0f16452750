"""Registries: which driver speaks to a host, as whom, and what can be asked without pulling."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from scow.engine import manifests
from scow.engine.drivers import DEFAULT_DEADLINE_S
from scow.errors import Corrupt, InvalidArgument, PluginError
from scow.oci import Descriptor, digest_of
from scow.ports import REGISTRY
from scow.reference import split_search_term

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scow.engine.drivers import Drivers
    from scow.host import PluginHost
    from scow.ports.registry import Credentials, RegistryBackend, SearchResult
    from scow.reference import Reference

log = logging.getLogger(__name__)

SEARCH_LIMIT = 100


class Registries:
    """The registries of one engine. *default* names the driver of hosts that no driver wants for itself."""

    def __init__(self, host: PluginHost, drivers: Drivers, default: str) -> None:
        self._host, self._drivers, self._default = host, drivers, default

    async def backend(self, host: str) -> str:
        """The registry driver for *host*: the first that wants it, else the configured one."""
        for name in [name for name in self._host.names(REGISTRY) if name != self._default]:
            try:
                if await self._drivers.call(REGISTRY, name, "serves", lambda driver: driver.serves(host)):
                    return name
            except PluginError as error:
                log.warning("registry driver %s is not asked for %s: %s", name, host, error)
        return self._default

    async def credentials(self, host: str, given: Credentials | None) -> Credentials | None:
        """Who asks *host*: what the client gave, else what a plugin knows, else nobody. Raises `PluginError`, and what
        the plugin says (`Unauthorized`, `Unavailable`)."""
        return given or await self._host.registry_credentials(host)

    async def login(self, host: str, credentials: Credentials) -> Mapping[str, str]:
        """The credentials work at registry *host*; Docker's answer. Raises `Unauthorized`, `Unavailable`."""
        told: Mapping[str, str] = await self._call(host, "login", lambda driver: driver.login(host, credentials))
        return told

    async def search(self, term: str, limit: int, credentials: Credentials | None) -> list[SearchResult]:
        """At most *limit* repositories that *term* finds at the registry that it begins with (``host/term``), else at
        Docker Hub. Their names are as they are pulled. Raises `InvalidArgument`, `Unsupported`, `Unavailable`."""
        host, words = split_search_term(term)
        if not 1 <= limit <= SEARCH_LIMIT:
            raise InvalidArgument(f"limit {limit} is outside the range of [1, {SEARCH_LIMIT}]")
        who = await self.credentials(host, credentials)
        found: list[SearchResult] = await self._call(
            host, "search", lambda driver: driver.search(host, words, limit, who)
        )
        return found

    async def inspect(self, ref: Reference, credentials: Credentials | None) -> dict[str, Any]:
        """Docker's DistributionInspect of *ref* (with a tag or digest): its descriptor and the platforms that it has,
        without pulling it. Raises `NotFound`, `Unauthorized`, `Unavailable`, `Corrupt`."""
        who = await self.credentials(ref.host, credentials)
        served = await self._call(  # without a deadline: an image that is built on demand takes its time
            ref.host, "resolve", lambda driver: driver.resolve(ref, who, lambda line: None), deadline_s=None
        )
        document = manifests.check_bytes(served, ref.digest)
        if manifests.is_index(document, served.descriptor.media_type):
            members = document.get("manifests")
            platforms = [member.get("platform") for member in members or () if isinstance(member, dict)]
        else:
            platforms = [await self._platform(ref, Descriptor.from_json(document.get("config")), who)]
        return {
            "Descriptor": served.descriptor.to_json(),
            "Platforms": [_platform_json(platform) for platform in platforms if isinstance(platform, dict)],
        }

    async def _platform(self, ref: Reference, config: Descriptor, who: Credentials | None) -> dict[str, Any] | None:
        """What the image config *config* says of it; None where it says nothing, as that of an artifact."""
        if config.size_bytes > manifests.LIMIT_BYTES:
            raise Corrupt(f"image config {config.digest} is larger than {manifests.LIMIT_BYTES} bytes")

        def fetch(driver: RegistryBackend) -> bytes:
            with driver.fetch(ref, config, who) as stream:
                return stream.read(manifests.LIMIT_BYTES + 1)

        data = await self._call(ref.host, "fetch", fetch)
        if digest_of(data) != config.digest:
            raise Corrupt(f"image config verification failed for digest {config.digest}: got {digest_of(data)}")
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            return None
        return document if isinstance(document, dict) and (document.get("os") or document.get("architecture")) else None

    async def _call(
        self,
        host: str,
        method: str,
        fn: Callable[[RegistryBackend], Any],
        deadline_s: float | None = DEFAULT_DEADLINE_S,
    ) -> Any:
        backend = await self.backend(host)
        return await self._drivers.call(REGISTRY, backend, method, fn, deadline_s=deadline_s)


def _platform_json(platform: Mapping[str, Any]) -> dict[str, Any]:
    """An OCI platform, in the order of the image specification, without what it does not say."""
    names = ("architecture", "os", "os.version", "os.features", "variant")
    return {name: platform[name] for name in names if platform.get(name)}
