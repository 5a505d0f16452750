"""Uploads: one blob, streamed in one request (distribution-spec, "Pushing a blob monolithically")."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urljoin, urlsplit, urlunsplit

from scow.errors import ScowError, Unavailable
from scow_registry_dockerhub.answers import Refused
from scow_registry_dockerhub.client import Client, push_scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scow.oci import Descriptor
    from scow.ports.registry import Credentials
    from scow_registry_dockerhub.endpoints import Endpoint

ATTEMPTS = 3
MOST_MOUNTS = 3  # candidates beyond these cost more round trips than they save
_FINISH_TIMEOUT_S = 300.0  # a registry may check or copy the whole blob before it answers


class Upload:
    """One blob on its way to *repository* of *endpoint*."""

    def __init__(
        self,
        client: Client,
        endpoint: Endpoint,
        repository: str,
        descriptor: Descriptor,
        credentials: Credentials | None,
        mount_from: Iterable[str],
    ) -> None:
        self._client, self._endpoint, self._descriptor, self._credentials = client, endpoint, descriptor, credentials
        self._base = f"/v2/{repository}/blobs/"
        self._mounts = tuple(islice((name for name in mount_from if name != repository), MOST_MOUNTS))
        self._scopes = push_scope(repository, self._mounts)

    def exists(self) -> bool:
        """Whether the repository holds the blob already."""
        target = self._base + self._descriptor.digest
        response = self._client.request(
            self._endpoint, "HEAD", target, scopes=self._scopes, credentials=self._credentials, wanted=(200, 404)
        )
        response.close()
        return response.status_code == 200

    def run(self, open_blob: Callable[[], BinaryIO], sent: Callable[[int], None]) -> bool:
        """The repository holds the blob; False where it did not have to be sent. *sent* hears of each byte once, also
        when it has to be sent again."""
        if self.exists():
            return False
        location = self._mount()
        if location == "":
            return False
        meter = _Meter(sent)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._send(location or self._begin(), open_blob, meter)
            except (Unavailable, Refused) as error:
                # A session that is lost (404) or broken is begun anew; anything else is the registry's last word.
                if attempt == ATTEMPTS or (
                    isinstance(error, Refused) and error.status not in (404, 416, 500, 502, 503)
                ):
                    raise
                location = None
                self._client.transport.back_off(attempt)
            else:
                return True
        return True

    def _mount(self) -> str | None:
        """``""`` once the blob was mounted, the location of the upload that was begun instead, or None."""
        location = None
        for source in self._mounts:
            try:
                location = self._begin(f"?mount={self._descriptor.digest}&from={source}")
            except Refused:
                continue  # the source may be private to others: then the blob is sent
            if not location:
                return ""
        return location

    def _begin(self, query: str = "") -> str:
        response = self._client.request(
            self._endpoint,
            "POST",
            self._base + "uploads/" + query,
            scopes=self._scopes,
            credentials=self._credentials,
            wanted=(201, 202),
            headers={"Content-Length": "0"},
            body=b"",
        )
        response.close()
        if response.status_code == 201 and query:
            return ""
        location = urljoin(self._client.transport.url(self._endpoint, self._base), response.headers.get("Location", ""))
        if not response.headers.get("Location"):
            raise Unavailable(f"registry {self._endpoint.host} began an upload without saying where")
        return location

    def _send(self, location: str, open_blob: Callable[[], BinaryIO], meter: _Meter) -> None:
        parts = urlsplit(location)
        query = f"{parts.query}&" if parts.query else ""
        target = urlunsplit(parts._replace(query=f"{query}digest={self._descriptor.digest}"))
        self._client.transport.check_target(self._client.transport.url(self._endpoint, "/"), target)
        with open_blob() as blob:
            body = _Body(blob, self._descriptor.size_bytes, meter)
            self._client.request(
                self._endpoint,
                "PUT",
                target,
                scopes=self._scopes,
                credentials=self._credentials,
                wanted=(201, 204),
                headers={"Content-Type": "application/octet-stream"},
                body=body,
                attempts=1,
                read_timeout_s=_FINISH_TIMEOUT_S,
            ).close()


class _Meter:
    """Tells *sent* how far the farthest attempt has come."""

    def __init__(self, sent: Callable[[int], None]) -> None:
        self._sent, self._farthest = sent, 0

    def at(self, position: int) -> None:
        if position > self._farthest:
            self._sent(position - self._farthest)
            self._farthest = position


class _Body:
    """The blob as requests wants it: a length, and `read` for the blocks."""

    def __init__(self, blob: BinaryIO, size_bytes: int, meter: _Meter) -> None:
        self._blob, self._size, self._meter, self._at = blob, size_bytes, meter, 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> bytes:
        if data := self.read(1 << 18):
            return data
        raise StopIteration

    def read(self, size: int = -1) -> bytes:
        data = self._blob.read(min(size, self._size - self._at) if size >= 0 else self._size - self._at)
        if not data and self._at < self._size:
            raise ScowError(f"the blob to push ended at byte {self._at} of {self._size}")
        self._at += len(data)
        self._meter.at(self._at)
        return data
