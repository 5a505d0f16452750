"""Registry backends: where manifests and blobs come from and go to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager

    from scow.oci import Descriptor
    from scow.reference import Reference


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks. *identity_token* is an OAuth2 refresh token. Never printed: ``repr`` hides the secrets."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or index as it was served: its descriptor and its exact bytes."""

    descriptor: Descriptor
    data: bytes


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A repository that a search found: *name* as it is pulled, and what its registry says of it."""

    name: str
    description: str = ""
    stars: int = 0
    official: bool = False
    automated: bool = False


@runtime_checkable
class RegistryBackend(Protocol):
    """Speaks to the registries of some hosts. Stateless between calls but for connections and tokens.

    Core checks every digest; a backend need not. *credentials* are what the client or a hook gave, or None. Errors:
    `NotFound` (no such repository, tag or blob), `Unauthorized`, `Unavailable` (cannot be reached, 429, 5xx),
    `InvalidArgument`.
    """

    def check(self) -> None:
        """Raise `DriverUnusable` where this host cannot serve the backend."""

    def serves(self, host: str) -> bool:
        """Whether this backend wants *host* (``docker.io``, ``127.0.0.1:5000``, ``apt.local``) for itself; the
        configured default backend gets what nobody wants."""

    def resolve(self, ref: Reference, credentials: Credentials | None, progress: Callable[[str], None]) -> Manifest:
        """The manifest or index that *ref* (by tag or digest) names now. May take long (an image built on demand);
        then *progress* is told one line at a time."""

    def manifest(self, ref: Reference, descriptor: Descriptor, credentials: Credentials | None) -> Manifest:
        """The manifest of *ref*'s repository with this digest (a member of an index)."""

    def fetch(
        self,
        ref: Reference,
        descriptor: Descriptor,
        credentials: Credentials | None,
        offset_bytes: int = 0,
        length_bytes: int | None = None,
    ) -> AbstractContextManager[BinaryIO]:
        """The blob's bytes from *offset_bytes* on, at most *length_bytes* (None: to its end). A backend that cannot
        seek raises `Unsupported` for offset > 0, on entry or at the first read."""

    def push_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        credentials: Credentials | None,
        sent: Callable[[int], None],
        mount_from: Iterable[str] = (),
    ) -> bool:
        """The repository holds the blob; False where it was there already. *sent* is told bytes as they go.
        *mount_from* names repositories of the same host that may have it."""

    def push_manifest(self, ref: Reference, manifest: Manifest, credentials: Credentials | None) -> None:
        """*ref* names *manifest*; its blobs are there."""

    def tags(self, ref: Reference, credentials: Credentials | None) -> list[str]:
        """The tags of *ref*'s repository, sorted."""

    def search(self, host: str, term: str, limit: int, credentials: Credentials | None) -> list[SearchResult]:
        """At most *limit* repositories of *host* that *term* finds, best first. Raises `Unsupported` where the registry
        has no search."""

    def login(self, host: str, credentials: Credentials) -> Mapping[str, str]:
        """The credentials work at *host*; answers ``{"Status": …, "IdentityToken": …}``. Raises `Unauthorized`."""

    def close(self) -> None:
        """No connection is left open."""
