"""The registry backend of ``apt.local``: its images are built from packages when they are asked for."""

from __future__ import annotations

import shlex
import shutil
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

from scow.errors import DriverUnusable, NotFound, ScowError, Unsupported
from scow.oci import OCI_MANIFEST, Descriptor
from scow_registry_apt.recipe import Recipe, recipe_of
from scow_registry_apt.sources import read_mirror
from scow_registry_apt.store import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from scow.ports import DriverContext
    from scow.ports.registry import Credentials, Manifest, SearchResult
    from scow.reference import Reference
    from scow_registry_apt.builder import Builder
    from scow_registry_apt.sources import Mirror

HOST = "apt.local"
_PROGRAMS = ("apt-get", "apt-cache", "apt-config", "dpkg-deb", "dpkg-query")


class AptBackend:
    """A `RegistryBackend` for ``apt.local`` alone.

    ``apt.local/busybox``, ``apt.local/debian:bookworm`` (the host's distribution: a minimal root) and
    ``apt.local/nginx[/curl…]`` (packages on that root). The tag names a suite; ``latest`` is the host's. Options:
    ``index_hours`` (24): how old a package index may be.
    """

    def __init__(self, context: DriverContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._made: Builder | None = None
        self._builds: dict[str, _Build] = {}

    def check(self) -> None:
        """Raises `DriverUnusable` where the host has no apt or no mirror configured."""
        missing = [name for name in _PROGRAMS if shutil.which(name) is None]
        if missing:
            raise DriverUnusable(f"{missing[0]} is not installed", hint="apt.local needs a Debian or Ubuntu host")
        read_mirror()

    def serves(self, host: str) -> bool:
        """Whether *host* is ``apt.local``."""
        return host == HOST

    def resolve(self, ref: Reference, credentials: Credentials | None, progress: Callable[[str], None]) -> Manifest:
        """The image, built or found built; who asks for one that is being built waits for it."""
        builder = self._builder()
        if ref.digest:
            return self._by_digest(ref, ref.digest)
        mirror = builder.mirror
        recipe = recipe_of(ref, mirror.distribution, mirror.suite)
        try:
            return self._build(builder, recipe, lambda line: progress(f"Building {ref.familiar_name}: {line}"))
        except NotFound as error:
            message = f"manifest for {ref.familiar} not found: manifest unknown: {error}"
            raise NotFound(message, hint=error.hint) from error

    def manifest(self, ref: Reference, descriptor: Descriptor, credentials: Credentials | None) -> Manifest:
        """See `RegistryBackend`."""
        return self._by_digest(ref, descriptor.digest)

    @contextmanager
    def fetch(
        self,
        ref: Reference,
        descriptor: Descriptor,
        credentials: Credentials | None,
        offset_bytes: int = 0,
        length_bytes: int | None = None,
    ) -> Iterator[BinaryIO]:
        """See `RegistryBackend`; a file is opened."""
        with self._builder().store.open(descriptor.digest) as stream:
            stream.seek(offset_bytes)
            yield stream if length_bytes is None else cast("BinaryIO", Part(stream, length_bytes))

    def push_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        credentials: Credentials | None,
        sent: Callable[[int], None],
        mount_from: Iterable[str] = (),
    ) -> bool:
        """Raises `Unsupported`: these images come from packages."""
        raise _read_only()

    def push_manifest(self, ref: Reference, manifest: Manifest, credentials: Credentials | None) -> None:
        """Raises `Unsupported`."""
        raise _read_only()

    def tags(self, ref: Reference, credentials: Credentials | None) -> list[str]:
        """The host's suite and ``latest``; other suites of the mirror can be asked for too."""
        return sorted({"latest", self._builder().mirror.suite})

    def search(self, host: str, term: str, limit: int, credentials: Credentials | None) -> list[SearchResult]:
        """Raises `Unsupported`: apt searches packages."""
        raise Unsupported(f"{HOST} has no search", hint=f"apt-cache search {shlex.quote(term)} lists packages")

    def login(self, host: str, credentials: Credentials) -> Mapping[str, str]:
        """Raises `Unsupported`: nobody needs to."""
        raise Unsupported(f"{HOST} takes no logins", hint="its images are built on this host, for everybody here")

    def close(self) -> None:
        """No build is left running."""
        with self._lock:
            if self._made is not None:
                self._made.close()

    def _builder(self) -> Builder:
        with self._lock:
            if self._made is None:
                from scow_registry_apt.builder import Builder

                mirror: Mirror = read_mirror()
                hours = float(self._context.options.get("index_hours", 24))
                self._made = Builder(self._context.state_dir, mirror, hours)
            return self._made

    def _by_digest(self, ref: Reference, digest: str) -> Manifest:
        store = self._builder().store
        try:
            size = store.path(digest).stat().st_size
        except FileNotFoundError:
            raise NotFound(f"manifest for {ref.familiar} not found: manifest unknown: manifest unknown") from None
        return store.manifest(Descriptor(OCI_MANIFEST, digest, size))

    def _build(self, builder: Builder, recipe: Recipe, tell: Callable[[str], None]) -> Manifest:
        with self._lock:
            build = self._builds.get(recipe.key)
            mine = build is None
            if build is None:
                build = self._builds[recipe.key] = _Build()
            build.listeners.append(tell)
        if not mine:
            return build.result.result()
        try:
            build.result.set_result(builder.image(recipe, build.tell))
        except BaseException as error:
            failure = error if isinstance(error, ScowError) else ScowError(f"cannot build {recipe.name}: {error}")
            build.result.set_exception(failure)
            raise
        finally:
            with self._lock:
                del self._builds[recipe.key]
        return build.result.result()


class _Build:
    """An image under construction and who waits for it."""

    def __init__(self) -> None:
        self.result: Future[Manifest] = Future()
        self.listeners: list[Callable[[str], None]] = []

    def tell(self, line: str) -> None:
        for listener in list(self.listeners):
            listener(line)


def _read_only() -> Unsupported:
    return Unsupported(
        f"{HOST} cannot be pushed to: its images are built from packages", hint="tag for another registry"
    )
