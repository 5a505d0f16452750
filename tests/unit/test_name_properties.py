"""Properties of references, manifests, image configs and descriptors, on drawn examples."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from scow.engine import manifests
from scow.engine.platforms import choose
from scow.errors import ScowError
from scow.oci import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Platform,
    digest_of,
)
from scow.ports.registry import Manifest
from scow.reference import Reference
from tests.properties import properties

_LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
_HOSTS = st.one_of(
    st.lists(_LABEL, min_size=2, max_size=3).map(".".join),
    st.builds("{}:{}".format, st.one_of(_LABEL, st.just("[::1]")), st.integers(1, 65535)),
    st.just("localhost"),
)
_REPOSITORIES = st.lists(
    st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}", fullmatch=True), min_size=1, max_size=4
).map("/".join)
_TAGS = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}\Z")
_DIGESTS = st.binary(max_size=3).map(digest_of)
_REFERENCES = st.builds(
    Reference, _HOSTS, _REPOSITORIES, st.one_of(st.just(""), _TAGS), st.one_of(st.just(""), _DIGESTS)
)

_WORDS = st.sampled_from(
    [
        "schemaVersion",
        "mediaType",
        "config",
        "layers",
        "manifests",
        "digest",
        "size",
        "platform",
        "os",
        "architecture",
        "variant",
        "annotations",
        "urls",
        "rootfs",
        "diff_ids",
        "history",
        "Env",
        "created",
        OCI_INDEX,
        OCI_MANIFEST,
        DOCKER_INDEX,
        DOCKER_MANIFEST,
        OCI_CONFIG,
        OCI_LAYER_GZIP,
        "linux",
        "amd64",
        digest_of(b""),
    ]
)
_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.floats(), st.text(max_size=5), _WORDS),
    lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(_WORDS, below, max_size=5)),
    max_leaves=15,
)


@given(_REFERENCES)
@properties(300)
def test_a_reference_is_read_as_it_was_written(reference: Reference) -> None:
    parsed = Reference.parse(str(reference), default_tag="")
    assert parsed == reference
    assert Reference.parse(parsed.familiar, default_tag="") == reference


@given(st.one_of(st.text(max_size=40), st.text("aB1.:/@-_[]", max_size=40)))
@properties(500)
def test_any_text_is_a_reference_or_an_error_of_ours(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except ScowError as error:
        assert error.http_status == 400
        return
    assert Reference.parse(str(reference)) == reference
    assert not reference.repository.startswith(("/", ".")) and ".." not in reference.repository
    assert not any(character.isspace() or character in "?#%\\" for character in str(reference))


def read_as_a_pull_does(data: bytes, served_as: str) -> None:
    """All that is done to the bytes of a manifest before anything is fetched."""
    manifest = Manifest(Descriptor(served_as, digest_of(data), len(data)), data)
    document = manifests.check_bytes(manifest, "")
    if manifests.is_index(document, served_as):
        choose(manifests.index_members(document), Platform("linux", "amd64"))
        return
    parsed = manifests.parse_manifest(document, digest_of(data), served_as)
    assert all(layer.size_bytes >= 0 and isinstance(layer.media_type, str) for layer in parsed.layers)
    manifests.with_layers(data, parsed.layers)


@given(_VALUES, st.sampled_from(["", OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, "text/html"]))
@properties(1000)
def test_any_json_is_a_manifest_or_an_error_of_ours(value: Any, served_as: str) -> None:
    try:
        read_as_a_pull_does(json.dumps(value).encode(), served_as)
    except ScowError as error:
        assert str(error)


@given(
    st.one_of(
        st.binary(max_size=60), st.just(b'{"os": "\xff"}'), st.integers(1, 200_000).map(lambda depth: b"[" * depth)
    )
)
@properties(100)
def test_any_bytes_are_a_manifest_or_an_error_of_ours(data: bytes) -> None:
    for read in (lambda: read_as_a_pull_does(data, ""), lambda: manifests.parse_config(data, None)):
        try:
            read()
        except ScowError as error:
            assert str(error)


@given(_VALUES)
@example({"rootfs": {"diff_ids": 1}})
@properties(1000)
def test_any_json_is_an_image_config_or_an_error_of_ours(value: Any) -> None:
    try:
        config = manifests.parse_config(json.dumps(value).encode(), None)
    except ScowError as error:
        assert str(error)
        return
    manifests.created_ns(config)
    msgspec.json.encode(config)


@given(
    st.builds(
        Descriptor,
        st.sampled_from([OCI_LAYER_GZIP, OCI_MANIFEST, "a/b"]),
        _DIGESTS,
        st.integers(0, 1 << 62),
        st.one_of(st.none(), st.builds(Platform, st.just("linux"), _LABEL, st.one_of(st.just(""), _LABEL))),
        st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
    )
)
@properties(200)
def test_a_descriptor_comes_back_from_its_json(descriptor: Descriptor) -> None:
    assert Descriptor.from_json(json.loads(json.dumps(descriptor.to_json()))) == descriptor
