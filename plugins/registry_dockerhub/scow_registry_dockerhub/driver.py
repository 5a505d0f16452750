"""The registry backend for everything that speaks the OCI distribution protocol."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

from scow.errors import Corrupt, InvalidArgument, ScowError, Unavailable, Unsupported
from scow.oci import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor
from scow.ports.registry import Manifest
from scow_registry_dockerhub.endpoints import Endpoints, login_host
from scow_registry_dockerhub.known import KnownManifests
from scow_registry_dockerhub.mirrors import Mirrors
from scow_registry_dockerhub.proxies import Proxies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import requests

    from scow.ports import DriverContext
    from scow.ports.registry import Credentials, SearchResult
    from scow.reference import Reference
    from scow_registry_dockerhub.blob import Range
    from scow_registry_dockerhub.client import Client
    from scow_registry_dockerhub.endpoints import Endpoint

ACCEPT = ", ".join((OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST))
CHUNK_BYTES = 64 << 20  # proxies on the way refuse more (Cloudflare: 100 MB), and a break costs no more than this
_PAGES = 1000
_TAGS_LIMIT_BYTES = 16 << 20

T = TypeVar("T")

log = logging.getLogger(__name__)


class DistributionBackend:
    """A `RegistryBackend` over HTTP; requests is imported when the first registry is spoken to (60 ms).

    Options: ``timeout_s`` (30) is how long a registry may be silent, ``retry_pause_s`` (0.5) the first pause before a
    failed request is sent again, ``chunk_bytes`` (64 MiB) the most of a blob that one request uploads. Core adds
    ``registries``, ``proxy`` and ``certs_dir`` of the config file.
    """

    def __init__(self, context: DriverContext) -> None:
        certs_dir = context.options.get("certs_dir")
        registries = _plain(context.options.get("registries") or {})
        self._endpoints = Endpoints(registries, Path(certs_dir) if certs_dir else None)
        self._proxies = Proxies(**_plain({"proxy": context.options.get("proxy") or {}})["proxy"])
        self._pause_s = float(context.options.get("retry_pause_s", 0.5))
        self._chunk_bytes = int(context.options.get("chunk_bytes", CHUNK_BYTES))
        self._timeout_s = float(context.options.get("timeout_s", 30))
        self._mirrors, self._known = Mirrors(), KnownManifests()
        self._lock = threading.Lock()
        self._made: Client | None = None

    def check(self) -> None:
        """Usable on every host; whether a registry is within reach shows when it is asked."""

    def serves(self, host: str) -> bool:
        """No host in particular: this backend is the default one."""
        return False

    def resolve(self, ref: Reference, credentials: Credentials | None, progress: Callable[[str], None]) -> Manifest:
        """See `RegistryBackend`; mirrors are asked first."""
        return self._from_any(ref, credentials, lambda endpoint, who: self._manifest(endpoint, ref, who))

    def manifest(self, ref: Reference, descriptor: Descriptor, credentials: Credentials | None) -> Manifest:
        """See `RegistryBackend`."""
        return self.resolve(ref.with_digest(descriptor.digest), credentials, lambda line: None)

    @contextmanager
    def fetch(
        self,
        ref: Reference,
        descriptor: Descriptor,
        credentials: Credentials | None,
        offset_bytes: int = 0,
        length_bytes: int | None = None,
    ) -> Iterator[BinaryIO]:
        """See `RegistryBackend`. A connection that breaks is replaced, a few times, by one that goes on there."""
        from scow_registry_dockerhub.blob import BlobStream, Range

        end = descriptor.size_bytes
        if length_bytes is not None:
            end = min(end, offset_bytes + length_bytes)

        served: list[Endpoint] = []

        def open_at(offset: int) -> requests.Response:
            part = Range(offset, end, partly=end < descriptor.size_bytes)

            def ask(endpoint: Endpoint, who: Credentials | None) -> requests.Response:
                response = self._blob(endpoint, ref, descriptor, who, part)
                served.append(endpoint)
                return response

            return self._from_any(ref, credentials, ask, "" if offset else descriptor.digest)

        back_off = self._client().transport.back_off
        what = f"{descriptor.digest} from {ref.host}"
        with BlobStream(open_at, end, offset_bytes, back_off, what) as stream:
            yield cast("BinaryIO", stream)
            if stream.ended and not offset_bytes and served and served[0].mirror:
                self._mirrors.delivered(served[0], descriptor.digest)

    def push_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        credentials: Credentials | None,
        sent: Callable[[int], None],
        mount_from: Iterable[str] = (),
    ) -> bool:
        """See `RegistryBackend`."""
        from scow_registry_dockerhub.answers import Refused, push_error
        from scow_registry_dockerhub.push import Upload

        endpoint = self._endpoints.registry(ref.host)
        upload = Upload(
            self._client(), endpoint, ref.repository, descriptor, credentials, mount_from, self._chunk_bytes
        )
        try:
            return upload.run(open_blob, sent)
        except Refused as refused:
            raise push_error(refused, ref) from None

    def push_manifest(self, ref: Reference, manifest: Manifest, credentials: Credentials | None) -> None:
        """See `RegistryBackend`."""
        from scow_registry_dockerhub.answers import Refused, push_error, release
        from scow_registry_dockerhub.client import push_scope

        name = ref.tag or ref.digest or manifest.descriptor.digest
        try:
            response = self._client().request(
                self._endpoints.registry(ref.host),
                "PUT",
                f"/v2/{ref.repository}/manifests/{name}",
                scopes=push_scope(ref.repository),
                credentials=credentials,
                wanted=(200, 201),
                headers={"Content-Type": manifest.descriptor.media_type},
                body=manifest.data,
            )
            release(response)
        except Refused as refused:
            raise push_error(refused, ref) from None

    def tags(self, ref: Reference, credentials: Credentials | None) -> list[str]:
        """See `RegistryBackend`; every page is read."""
        return self._from_any(ref, credentials, lambda endpoint, who: self._tags(endpoint, ref, who))

    def search(self, host: str, term: str, limit: int, credentials: Credentials | None) -> list[SearchResult]:
        """See `RegistryBackend`: Docker Hub's search, which others may have too (``/v1/search``)."""
        from scow_registry_dockerhub.search import search

        return search(self._client(), self._endpoints.index(host), term, limit, credentials)

    def login(self, host: str, credentials: Credentials) -> Mapping[str, str]:
        """See `RegistryBackend`; *host* may be an address, as ``docker login`` sends it."""
        from scow_registry_dockerhub.answers import Refused, release

        endpoint = self._endpoints.registry(login_host(host))
        client = self._client()
        try:
            release(client.request(endpoint, "GET", "/v2/", scopes=frozenset(), credentials=credentials))
            identity = client.tokens.refresh_token(endpoint, credentials)
        except Refused as refused:
            raise refused.generic() from None
        return {"Status": "Login Succeeded", "IdentityToken": identity}

    def close(self) -> None:
        """No connection is left open; waits between attempts end with `Unavailable`."""
        with self._lock:
            if self._made is not None:
                self._made.close()

    def _client(self) -> Client:
        with self._lock:
            if self._made is None:
                from scow_registry_dockerhub.client import Client

                self._made = Client(self._endpoints, self._proxies, pause_s=self._pause_s, timeout_s=self._timeout_s)
            return self._made

    def _from_any(
        self,
        ref: Reference,
        credentials: Credentials | None,
        ask: Callable[[Endpoint, Credentials | None], T],
        digest: str = "",
    ) -> T:
        """What the first mirror that has it answers, or else the registry, whose refusal is the one that counts."""
        from scow_registry_dockerhub.answers import Refused, pull_error

        self._client()
        final: ScowError | None = None
        for endpoint in self._mirrors.order(self._endpoints.reading(ref.host, ref.repository), digest):
            error: ScowError
            try:
                return ask(endpoint, None if endpoint.mirror else credentials)
            except Refused as refused:
                down, error = refused.status == 429 or refused.status >= 500, pull_error(refused, ref)
            except ScowError as failure:
                down, error = isinstance(failure, Unavailable), failure
            if not endpoint.mirror:
                final = error
                continue
            log.info("mirror %s of %s is passed over: %s", endpoint.netloc, ref.familiar_name, error)
            if down:
                self._mirrors.failed(endpoint)
        raise final or Unavailable(f"no endpoint for registry {ref.host}")

    def _manifest(self, endpoint: Endpoint, ref: Reference, credentials: Credentials | None) -> Manifest:
        from scow_registry_dockerhub.answers import MANIFEST_LIMIT_BYTES
        from scow_registry_dockerhub.client import pull_scope

        repository = endpoint.repository(ref.repository)
        target = f"/v2/{repository}/manifests/{ref.digest or ref.tag}"
        known = self._known.get(endpoint, target)
        if known is not None and self._unchanged(endpoint, target, pull_scope(repository), credentials, known):
            return known
        response, data = self._client().read(
            endpoint,
            target,
            MANIFEST_LIMIT_BYTES,
            scopes=pull_scope(repository),
            credentials=credentials,
            headers={"Accept": ACCEPT},
        )
        said = ref.digest or response.headers.get("Docker-Content-Digest", "")
        if not said.startswith(("sha256:", "sha512:")):
            said = ""  # other algorithms say nothing here
        digest = _digest_like(said, data)
        if said and digest != said:
            raise Corrupt(f"manifest for {ref.familiar} is {digest}, but registry {endpoint.host} calls it {said}")
        media_type = _media_type(response.headers.get("Content-Type", ""), data, ref)
        found = Manifest(Descriptor(media_type, digest, len(data)), data)
        self._known.put(endpoint, target, found)
        return found

    def _unchanged(
        self,
        endpoint: Endpoint,
        target: str,
        scopes: frozenset[str],
        credentials: Credentials | None,
        known: Manifest,
    ) -> bool:
        """Whether *endpoint* says that *target* is still *known*. False where it knows no such question; raises
        `Refused` for what it would answer to the other one, too."""
        from scow_registry_dockerhub.answers import Refused, release

        try:
            response = self._client().request(
                endpoint, "HEAD", target, scopes=scopes, credentials=credentials, headers={"Accept": ACCEPT}
            )
        except Refused as refused:
            if refused.status in (401, 403, 429) or refused.status >= 500:
                raise
            return False
        release(response)
        return bool(response.headers.get("Docker-Content-Digest", "") == known.descriptor.digest)

    def _blob(
        self,
        endpoint: Endpoint,
        ref: Reference,
        descriptor: Descriptor,
        credentials: Credentials | None,
        part: Range,
    ) -> requests.Response:
        from scow_registry_dockerhub.blob import skip
        from scow_registry_dockerhub.client import pull_scope

        repository = endpoint.repository(ref.repository)
        response = self._client().request(
            endpoint,
            "GET",
            f"/v2/{repository}/blobs/{descriptor.digest}",
            scopes=pull_scope(repository),
            credentials=credentials,
            wanted=(200, 206) if part.header else (200,),
            headers={"Range": part.header} if part.header else None,
        )
        try:
            if response.status_code == 206:
                part.check(response.headers.get("Content-Range", ""), f"{descriptor.digest} of {endpoint.host}")
            elif part.partly and part.offset:
                raise Unsupported(f"registry {endpoint.host} sends no parts of blobs")
            else:
                skip(response, part.offset)
        except ScowError:
            response.close()
            raise
        return response

    def _tags(self, endpoint: Endpoint, ref: Reference, credentials: Credentials | None) -> list[str]:
        from scow_registry_dockerhub.client import pull_scope
        from scow_registry_dockerhub.targets import target_of

        found: set[str] = set()
        left_bytes = _TAGS_LIMIT_BYTES
        repository = endpoint.repository(ref.repository)
        target = f"/v2/{repository}/tags/list?n=1000"
        for _ in range(_PAGES):
            response, data = self._client().read(
                endpoint, target, left_bytes, scopes=pull_scope(repository), credentials=credentials
            )
            left_bytes -= len(data)
            try:
                found.update(map(str, json.loads(data).get("tags") or ()))
            except (ValueError, AttributeError, TypeError, RecursionError):
                raise Unavailable(
                    f"registry {endpoint.host} answered no list of tags for {ref.familiar_name}"
                ) from None
            following = response.links.get("next", {}).get("url", "")
            if not following:
                break
            page = urlsplit(target_of(endpoint.host, target, following))
            if not page.path.startswith("/"):  # would be read as part of the host's name
                raise Unavailable(f"registry {endpoint.host} answered an invalid link to more tags")
            target = f"{page.path}?{page.query}".removeprefix(endpoint.prefix)
        return sorted(found)


def _plain(registries: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Each host's entry as a mapping: the config file's own, or core's dataclass."""
    return {
        host: asdict(entry) if is_dataclass(entry) and not isinstance(entry, type) else entry
        for host, entry in registries.items()
    }


def _digest_like(said: str, data: bytes) -> str:
    algorithm = "sha512" if said.startswith("sha512:") else "sha256"
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def _media_type(content_type: str, data: bytes, ref: Reference) -> str:
    """That of the manifest itself where it has one (image-spec manifest.md), or else of the answer."""
    try:
        document = json.loads(data)
        version, own = document.get("schemaVersion"), document.get("mediaType")
    except (ValueError, AttributeError, RecursionError):
        raise InvalidArgument(f"manifest for {ref.familiar} is not a json object") from None
    if version == 1:
        raise Unsupported(
            f"manifest for {ref.familiar} has docker's schema 1, which no engine pulls any more",
            hint="push the image again with a current client",
        )
    if own:
        return str(own)
    sent = content_type.partition(";")[0].strip()
    if sent in (OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST):
        return sent
    return OCI_INDEX if "manifests" in document else OCI_MANIFEST
