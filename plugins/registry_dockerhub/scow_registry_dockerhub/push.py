"""Uploads: one blob, in one request or in chunks, that go on where they broke off (distribution-spec, "Pushing a blob
monolithically" and "in chunks")."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urljoin, urlsplit, urlunsplit

from scow.errors import ScowError, Unavailable
from scow_registry_dockerhub.answers import Refused, release
from scow_registry_dockerhub.client import Client, push_scope
from scow_registry_dockerhub.targets import target_of
from scow_registry_dockerhub.transport import LONGEST_WAIT_S, retry_after_s

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    import requests

    from scow.oci import Descriptor
    from scow.ports.registry import Credentials
    from scow_registry_dockerhub.endpoints import Endpoint

FAILURES = 4
"""How many times in a row an upload may break off."""
MOST_MOUNTS = 3  # candidates beyond these cost more round trips than they save
_FINISH_TIMEOUT_S = 300.0  # a registry may check or copy the whole blob before it answers
_PROGRESS_BYTES = 1 << 20  # after so many bytes it is another row
_BEGUN_ANEW = frozenset({404, 416, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")


@dataclass(frozen=True, slots=True)
class _Session:
    """An upload that the registry knows: where it goes on, how much it has, the least that a chunk may hold."""

    location: str
    offset: int = 0
    least: int = 0


class Upload:
    """One blob on its way to *repository* of *endpoint*, in requests of at most *chunk_bytes*."""

    def __init__(
        self,
        client: Client,
        endpoint: Endpoint,
        repository: str,
        descriptor: Descriptor,
        credentials: Credentials | None,
        mount_from: Iterable[str],
        chunk_bytes: int,
    ) -> None:
        self._client, self._endpoint, self._descriptor, self._credentials = client, endpoint, descriptor, credentials
        self._base = f"/v2/{repository}/blobs/"
        self._mounts = tuple(islice((name for name in mount_from if name != repository), MOST_MOUNTS))
        self._scopes = push_scope(repository, self._mounts)
        self._chunk = chunk_bytes
        self._refused_once = False

    def exists(self) -> bool:
        """Whether the repository holds the blob already."""
        target = self._base + self._descriptor.digest
        response = self._client.request(
            self._endpoint, "HEAD", target, scopes=self._scopes, credentials=self._credentials, wanted=(200, 404)
        )
        release(response)
        return response.status_code == 200

    def run(self, open_blob: Callable[[], BinaryIO], sent: Callable[[int], None]) -> bool:
        """The repository holds the blob; False where it did not have to be sent. *sent* hears of each byte once, also
        when it has to be sent again."""
        if self.exists():
            return False
        session = self._mount()
        if session is not None and not session.location:
            return False
        meter = _Meter(sent)
        failures, failed_at = 0, 0
        while True:
            try:
                session = session or self._begin()
                session = self._send(session, open_blob, meter)
                if not session.location:
                    return True
            except (Unavailable, Refused) as error:
                if meter.farthest - failed_at >= _PROGRESS_BYTES:
                    failures = 0
                failures, failed_at = failures + 1, meter.farthest
                if failures >= FAILURES or not self._passes(error):
                    raise
                self._wait(error, failures)
                session = self._resume(session)

    def _passes(self, error: Unavailable | Refused) -> bool:
        """Whether another attempt may succeed; else *error* is the registry's last word."""
        if isinstance(error, Unavailable):
            return True
        if error.status in _BEGUN_ANEW:
            return (retry_after_s(error.wait) or 0) <= LONGEST_WAIT_S
        again = error.status == 401 and not self._refused_once  # the token had run out; the client has another
        self._refused_once = self._refused_once or again
        return again

    def _wait(self, error: Unavailable | Refused, failures: int) -> None:
        asked = retry_after_s(error.wait) if isinstance(error, Refused) else None
        if asked is None:
            self._client.transport.back_off(failures)
        else:
            self._client.transport.pause(asked)

    def _mount(self) -> _Session | None:
        """A session without location once the blob was mounted, the session that was begun instead, or None."""
        session = None
        for source in self._mounts:
            try:
                session = self._begin(f"?mount={self._descriptor.digest}&from={source}")
            except Refused:
                continue  # the source may be private to others: then the blob is sent
            if not session.location:
                break
        return session

    def _begin(self, query: str = "") -> _Session:
        response = self._ask("POST", self._base + "uploads/" + query, (201, 202))
        if response.status_code == 201 and query:
            return _Session("")
        least = response.headers.get("OCI-Chunk-Min-Length", "")
        return _Session(self._location(response, self._base), least=int(least) if least.isdecimal() else 0)

    def _resume(self, session: _Session | None) -> _Session | None:
        """*session* as the registry has it now; None where it must be begun anew."""
        if session is None:
            return None
        try:
            response = self._ask("GET", session.location, (200, 204))
            held = _RANGE.fullmatch(response.headers.get("Range", ""))
            offset = int(held[1]) + 1 if held and held[1] != "0" else 0  # "0-0" is how some say that they have nothing
            if not 0 < offset < self._descriptor.size_bytes:
                return None
            return _Session(self._location(response, session.location), offset, session.least)
        except (Unavailable, Refused):
            return None

    def _send(self, session: _Session, open_blob: Callable[[], BinaryIO], meter: _Meter) -> _Session:
        """The next chunk is there; with the last one the blob is, and the session has no location any more."""
        size = self._descriptor.size_bytes
        length = min(size - session.offset, max(self._chunk, session.least))
        last = session.offset + length == size
        target = self._finishing(session.location) if last else session.location
        headers = {"Content-Type": "application/octet-stream"}
        if length < size:
            headers["Content-Range"] = f"{session.offset}-{session.offset + length - 1}"
        with open_blob() as blob:
            body = _Body(blob, session.offset, length, meter)
            response = self._ask("PUT" if last else "PATCH", target, (201, 202, 204), headers, body)
        if last:
            return _Session("")
        held = _RANGE.fullmatch(response.headers.get("Range", ""))
        offset = int(held[1]) + 1 if held else session.offset + length
        if not session.offset < offset < size:
            raise Unavailable(f"registry {self._endpoint.host} has {offset} bytes of an upload of {size}")
        return _Session(self._location(response, session.location), offset, session.least)

    def _finishing(self, location: str) -> str:
        parts = urlsplit(location)
        query = f"{parts.query}&" if parts.query else ""
        return urlunsplit(parts._replace(query=f"{query}digest={self._descriptor.digest}"))

    def _location(self, response: requests.Response, before: str) -> str:
        """Where *response* says that the upload goes on, checked."""
        given = response.headers.get("Location", "")
        if not given:
            raise Unavailable(f"registry {self._endpoint.host} began an upload without saying where")
        root = self._client.transport.url(self._endpoint, "/")
        location = target_of(self._endpoint.host, urljoin(root, before), given)
        self._client.transport.check_target(root, location)
        return location

    def _ask(
        self,
        method: str,
        target: str,
        wanted: Collection[int],
        headers: Mapping[str, str] | None = None,
        body: _Body | None = None,
    ) -> requests.Response:
        """The answer, whose body nobody needs; a request with a *body* is sent once."""
        empty = b"" if method == "POST" else None
        response = self._client.request(
            self._endpoint,
            method,
            target,
            scopes=self._scopes,
            credentials=self._credentials,
            wanted=wanted,
            headers=headers or ({"Content-Length": "0"} if method == "POST" else None),
            body=body if body is not None else empty,
            attempts=1 if body is not None else None,
            read_timeout_s=_FINISH_TIMEOUT_S if body is not None else None,
        )
        release(response)
        return response


class _Meter:
    """Tells *sent* how far the farthest attempt has come."""

    def __init__(self, sent: Callable[[int], None]) -> None:
        self._sent, self.farthest = sent, 0

    def at(self, position: int) -> None:
        if position > self.farthest:
            self._sent(position - self.farthest)
            self.farthest = position


class _Body:
    """The bytes of a chunk as requests wants them: a length, and `read` for the blocks."""

    def __init__(self, blob: BinaryIO, offset: int, length: int, meter: _Meter) -> None:
        self._blob, self._length, self._meter = blob, length, meter
        self._at, self._end = offset, offset + length
        if offset:
            blob.seek(offset)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> bytes:
        if data := self.read(1 << 18):
            return data
        raise StopIteration

    def read(self, size: int = -1) -> bytes:
        left = self._end - self._at
        data = self._blob.read(min(size, left) if size >= 0 else left)
        if not data and left:
            raise ScowError(f"the blob to push ended at byte {self._at} of {self._end}")
        self._at += len(data)
        self._meter.at(self._at)
        return data
