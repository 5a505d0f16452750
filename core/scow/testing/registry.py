"""What every registry backend promises: subclass `RegistryContract` in a test module and give it a backend.

::

    class TestMine(RegistryContract):
        @pytest.fixture
        def backend(self, tmp_path):
            return MyBackend(DriverContext("mine", tmp_path, tmp_path))

        @pytest.fixture
        def stocked(self):
            return Reference.parse("registry.example.com/app:1")   # an image that the backend can resolve

        @pytest.fixture
        def writable(self):
            return Reference.parse("registry.example.com/new:1")   # may be pushed to; None: pushes are refused
"""

from __future__ import annotations

import inspect
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from scow.errors import NotFound, ScowError, Unauthorized, Unsupported
from scow.oci import INDEXES, MANIFESTS, Descriptor, digest_of
from scow.ports.registry import Credentials, Manifest, RegistryBackend
from scow.testing.fakes_registry import make_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scow.reference import Reference

NOWHERE = "sha256:" + "0" * 64
_METHODS = (
    *("check", "close", "fetch", "login", "manifest", "push_blob", "push_manifest", "resolve", "search", "serves"),
    "tags",
)


def no_progress(line: str) -> None:
    """A progress sink that forgets."""


class RegistryContract:
    """The promises of `scow.ports.registry.RegistryBackend`."""

    @pytest.fixture
    def backend(self) -> Iterator[RegistryBackend]:
        """The backend under test."""
        raise NotImplementedError

    @pytest.fixture
    def stocked(self) -> Reference:
        """A reference, by tag, to an image of this host's platform that the backend can resolve."""
        raise NotImplementedError

    @pytest.fixture
    def writable(self) -> Reference | None:
        """A reference, by tag, to a repository that may be pushed to; None where the backend is read only."""
        return None

    @pytest.fixture
    def credentials(self) -> Credentials | None:
        """Who asks in all tests."""
        return None

    @pytest.fixture
    def image(
        self, backend: RegistryBackend, stocked: Reference, credentials: Credentials | None
    ) -> tuple[Manifest, list[Descriptor]]:
        """The manifest of *stocked* and all its blobs, config first."""
        found = backend.resolve(stocked, credentials, no_progress)
        document = json.loads(found.data)
        if found.descriptor.media_type in INDEXES:
            member = Descriptor.from_json(document["manifests"][0])
            found = backend.manifest(stocked, member, credentials)
            document = json.loads(found.data)
        return found, [Descriptor.from_json(blob) for blob in (document["config"], *document["layers"])]

    def test_it_implements_the_protocol_with_its_signatures(self, backend: RegistryBackend) -> None:
        assert isinstance(backend, RegistryBackend)
        for name in _METHODS:
            promised = list(inspect.signature(getattr(RegistryBackend, name)).parameters)[1:]
            assert list(inspect.signature(getattr(backend, name)).parameters) == promised, name

    def test_check_passes_here_and_may_be_called_again(self, backend: RegistryBackend) -> None:
        backend.check()
        backend.check()

    def test_resolve_answers_the_manifest_with_its_digest_size_and_type(
        self, backend: RegistryBackend, stocked: Reference, credentials: Credentials | None
    ) -> None:
        found = backend.resolve(stocked, credentials, no_progress)
        assert found.descriptor.digest == digest_of(found.data)
        assert found.descriptor.size_bytes == len(found.data)
        assert found.descriptor.media_type in INDEXES | MANIFESTS

    def test_resolve_twice_answers_the_same(
        self, backend: RegistryBackend, stocked: Reference, credentials: Credentials | None
    ) -> None:
        first = backend.resolve(stocked, credentials, no_progress)
        assert backend.resolve(stocked, credentials, no_progress) == first

    def test_resolve_by_digest_answers_that_very_manifest(
        self, backend: RegistryBackend, stocked: Reference, credentials: Credentials | None
    ) -> None:
        found = backend.resolve(stocked, credentials, no_progress)
        assert backend.resolve(stocked.with_digest(found.descriptor.digest), credentials, no_progress) == found

    def test_manifest_by_descriptor_is_the_same(
        self,
        backend: RegistryBackend,
        stocked: Reference,
        credentials: Credentials | None,
        image: tuple[Manifest, list[Descriptor]],
    ) -> None:
        manifest, _ = image
        assert backend.manifest(stocked, manifest.descriptor, credentials).data == manifest.data

    def test_a_tag_that_is_not_there_is_not_found_by_name(
        self, backend: RegistryBackend, stocked: Reference, credentials: Credentials | None
    ) -> None:
        missing = stocked.with_tag("no-such-tag")
        with pytest.raises(NotFound, match="no-such-tag not found: manifest unknown"):
            backend.resolve(missing, credentials, no_progress)

    def test_a_digest_that_is_not_there_is_not_found(
        self, backend: RegistryBackend, stocked: Reference, credentials: Credentials | None
    ) -> None:
        with pytest.raises(NotFound):
            backend.resolve(stocked.with_digest(NOWHERE), credentials, no_progress)

    def test_a_repository_that_is_not_there_is_refused(
        self, backend: RegistryBackend, stocked: Reference, credentials: Credentials | None
    ) -> None:
        missing = replace(stocked, repository="no-such/repository-xyz")
        with pytest.raises((NotFound, Unauthorized), match="repository-xyz"):
            backend.resolve(missing, credentials, no_progress)

    def test_every_blob_has_the_bytes_that_its_digest_names(
        self,
        backend: RegistryBackend,
        stocked: Reference,
        credentials: Credentials | None,
        image: tuple[Manifest, list[Descriptor]],
    ) -> None:
        for blob in image[1]:
            data = self._read(backend, stocked, blob, credentials)
            assert (digest_of(data), len(data)) == (blob.digest, blob.size_bytes)

    def test_a_fetch_goes_on_where_it_is_told_to(
        self,
        backend: RegistryBackend,
        stocked: Reference,
        credentials: Credentials | None,
        image: tuple[Manifest, list[Descriptor]],
    ) -> None:
        blob = image[1][-1]
        whole = self._read(backend, stocked, blob, credentials)
        for offset in (1, blob.size_bytes // 2, blob.size_bytes - 1):
            try:
                rest = self._read(backend, stocked, blob, credentials, offset)
            except Unsupported:
                return  # it says so: core begins anew
            assert rest == whole[offset:]

    def test_a_fetch_ends_where_it_is_told_to(
        self,
        backend: RegistryBackend,
        stocked: Reference,
        credentials: Credentials | None,
        image: tuple[Manifest, list[Descriptor]],
    ) -> None:
        blob = image[1][-1]
        whole = self._read(backend, stocked, blob, credentials)
        middle = blob.size_bytes // 2
        assert self._read(backend, stocked, blob, credentials, 0, middle) == whole[:middle]
        for offset, length in ((middle, 7), (blob.size_bytes - 3, 99), (middle, 0)):
            try:
                part = self._read(backend, stocked, blob, credentials, offset, length)
            except Unsupported:
                return
            assert part == whole[offset : offset + length]

    def test_a_fetch_at_the_end_is_empty(
        self,
        backend: RegistryBackend,
        stocked: Reference,
        credentials: Credentials | None,
        image: tuple[Manifest, list[Descriptor]],
    ) -> None:
        blob = image[1][-1]
        try:
            assert self._read(backend, stocked, blob, credentials, blob.size_bytes) == b""
        except Unsupported:
            pass

    def test_a_fetch_can_be_left_before_its_end(
        self,
        backend: RegistryBackend,
        stocked: Reference,
        credentials: Credentials | None,
        image: tuple[Manifest, list[Descriptor]],
    ) -> None:
        blob = image[1][-1]
        for _ in range(3):
            with backend.fetch(stocked, blob, credentials) as stream:
                assert len(stream.read(1)) == 1
        assert digest_of(self._read(backend, stocked, blob, credentials)) == blob.digest

    def test_blobs_can_be_fetched_at_the_same_time(
        self,
        backend: RegistryBackend,
        stocked: Reference,
        credentials: Credentials | None,
        image: tuple[Manifest, list[Descriptor]],
    ) -> None:
        wanted = image[1] * 4
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda blob: self._read(backend, stocked, blob, credentials), wanted))
        assert [digest_of(data) for data in found] == [blob.digest for blob in wanted]

    def test_a_blob_that_is_not_there_is_not_found(
        self, backend: RegistryBackend, stocked: Reference, credentials: Credentials | None
    ) -> None:
        with pytest.raises(NotFound):
            self._read(backend, stocked, Descriptor("application/octet-stream", NOWHERE, 7), credentials)

    def test_tags_are_sorted_and_hold_the_tag(
        self, backend: RegistryBackend, stocked: Reference, credentials: Credentials | None
    ) -> None:
        tags = backend.tags(stocked, credentials)
        assert tags == sorted(tags)
        assert stocked.tag in tags

    def test_a_search_finds_no_more_than_it_is_told_to_or_says_that_there_is_none(
        self, backend: RegistryBackend, stocked: Reference, credentials: Credentials | None
    ) -> None:
        try:
            found = backend.search(stocked.host, stocked.repository, 1, credentials)
        except Unsupported:
            return
        assert len(found) <= 1
        assert all(result.name for result in found)

    def test_what_was_pushed_can_be_pulled(
        self, backend: RegistryBackend, writable: Reference | None, credentials: Credentials | None
    ) -> None:
        if writable is None:
            pytest.skip("the backend is read only")
        image = make_image({"etc/": None, "etc/motd": "x" * 100_000}, {"etc/issue": "y"})
        heard = self._push_blobs(backend, writable, image.blobs, credentials)
        assert heard == sum(len(blob) for blob in image.blobs.values())
        backend.push_manifest(writable, image.manifest, credentials)
        assert backend.resolve(writable, credentials, no_progress).data == image.manifest.data
        for layer in image.layers:
            assert self._read(backend, writable, layer, credentials) == image.blobs[layer.digest]
        assert writable.tag in backend.tags(writable, credentials)

    def test_a_blob_that_is_there_is_not_sent_again(
        self, backend: RegistryBackend, writable: Reference | None, credentials: Credentials | None
    ) -> None:
        if writable is None:
            pytest.skip("the backend is read only")
        image = make_image({"etc/": None, "etc/twice": "twice"})
        self._push_blobs(backend, writable, image.blobs, credentials)
        layer = image.layers[0]
        assert backend.push_blob(writable, layer, _never, credentials, lambda count: None) is False

    def test_a_manifest_can_be_pushed_by_its_digest(
        self, backend: RegistryBackend, writable: Reference | None, credentials: Credentials | None
    ) -> None:
        if writable is None:
            pytest.skip("the backend is read only")
        image = make_image({"etc/": None, "etc/untagged": "no tag"})
        self._push_blobs(backend, writable, image.blobs, credentials)
        ref = writable.with_digest(image.manifest.descriptor.digest)
        backend.push_manifest(ref, image.manifest, credentials)
        assert backend.resolve(ref, credentials, no_progress).data == image.manifest.data

    def test_a_read_only_backend_says_so(
        self, backend: RegistryBackend, writable: Reference | None, stocked: Reference, credentials: Credentials | None
    ) -> None:
        if writable is not None:
            pytest.skip("the backend can be pushed to")
        image = make_image({"etc/": None})
        with pytest.raises(Unsupported, match=stocked.host):
            backend.push_blob(stocked, image.layers[0], _never, credentials, lambda count: None)
        with pytest.raises(Unsupported, match=stocked.host):
            backend.push_manifest(stocked, image.manifest, credentials)

    def test_errors_do_not_quote_secrets(self, backend: RegistryBackend, stocked: Reference) -> None:
        wrong = Credentials("somebody", "hunter2-hunter2", "")
        assert "hunter2" not in repr(wrong)
        try:
            backend.login(stocked.host, wrong)
        except ScowError as error:
            assert "hunter2" not in f"{error!r} {error.hint} {error.__cause__!r} {error.__context__!r}"

    def test_close_may_be_called_twice(self, backend: RegistryBackend) -> None:
        backend.close()
        backend.close()

    @staticmethod
    def _read(
        backend: RegistryBackend,
        ref: Reference,
        blob: Descriptor,
        credentials: Credentials | None,
        offset_bytes: int = 0,
        length_bytes: int | None = None,
    ) -> bytes:
        data = bytearray()
        with backend.fetch(ref, blob, credentials, offset_bytes, length_bytes) as stream:
            while chunk := stream.read(65_536):
                data += chunk
        return bytes(data)

    @staticmethod
    def _push_blobs(backend: RegistryBackend, ref: Reference, blobs: Any, credentials: Credentials | None) -> int:
        heard: list[int] = []
        for digest, data in blobs.items():
            blob = Descriptor("application/octet-stream", digest, len(data))
            assert backend.push_blob(ref, blob, partial(io.BytesIO, data), credentials, heard.append) is True
        return sum(heard)


def _never() -> Any:
    raise AssertionError("the blob was opened although the registry has it")
