"""What we push, skopeo pulls, and the other way round, through Debian's docker-registry."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from scow.oci import OCI_INDEX, Descriptor, Platform, digest_of
from scow.ports import DriverContext
from scow.ports.registry import Manifest
from scow.reference import Reference
from scow.testing.fakes_registry import SmallImage, make_image, make_index
from scow_registry_dockerhub import DistributionBackend
from tests.registry import HAVE_REGISTRY, HAVE_SKOPEO, RunningRegistry, running_registry

pytestmark = [
    pytest.mark.skipif(not HAVE_REGISTRY, reason="docker-registry is not installed"),
    pytest.mark.skipif(not HAVE_SKOPEO, reason="skopeo is not installed"),
]
AMD64 = make_image({"bin/": None, "bin/sh": "amd"}, {"etc/": None, "etc/a": "1"}, platform=Platform("linux", "amd64"))
ARM64 = make_image({"bin/": None, "bin/sh": "arm"}, compression="zstd", platform=Platform("linux", "arm64", "v8"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[DistributionBackend]:
    made = DistributionBackend(DriverContext("dockerhub", tmp_path, tmp_path))
    yield made
    made.close()


def push(backend: DistributionBackend, ref: Reference, image: SmallImage) -> None:
    for digest, data in image.blobs.items():
        blob = Descriptor("application/octet-stream", digest, len(data))
        backend.push_blob(ref, blob, partial(io.BytesIO, data), None, lambda count: None)
    backend.push_manifest(ref, image.manifest, None)


def skopeo(*arguments: str) -> bytes:
    command = ["skopeo", "--insecure-policy", *arguments]
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


def test_skopeo_pulls_what_we_push(registry: RunningRegistry, backend: DistributionBackend, tmp_path: Path) -> None:
    push(backend, Reference.parse(f"{registry.host}/ours/app:1"), AMD64)
    skopeo("copy", "--src-tls-verify=false", f"docker://{registry.host}/ours/app:1", f"dir:{tmp_path / 'out'}")
    assert (tmp_path / "out/manifest.json").read_bytes() == AMD64.manifest.data
    for digest, data in AMD64.blobs.items():
        assert (tmp_path / "out" / digest.removeprefix("sha256:")).read_bytes() == data


def test_skopeo_reads_an_index_that_we_push(registry: RunningRegistry, backend: DistributionBackend) -> None:
    ref = Reference.parse(f"{registry.host}/ours/multi:1")
    for image in (AMD64, ARM64):
        push(backend, ref.with_digest(image.manifest.descriptor.digest), image)
    backend.push_manifest(ref, make_index(AMD64, ARM64), None)
    raw = skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{registry.host}/ours/multi:1")
    assert {member["platform"]["architecture"] for member in json.loads(raw)["manifests"]} == {"amd64", "arm64"}
    shown = skopeo("--override-arch=arm64", "inspect", "--tls-verify=false", f"docker://{registry.host}/ours/multi:1")
    assert json.loads(shown)["Architecture"] == "arm64"


@pytest.mark.parametrize("manifest_format", ["oci", "v2s2"])
def test_we_pull_what_skopeo_pushes(
    manifest_format: str, registry: RunningRegistry, backend: DistributionBackend, tmp_path: Path
) -> None:
    registry.put("seed/app", "1", AMD64)
    target = f"docker://{registry.host}/theirs/{manifest_format}:1"
    skopeo(
        "copy",
        f"--format={manifest_format}",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        f"docker://{registry.host}/seed/app:1",
        target,
    )
    ref = Reference.parse(target.removeprefix("docker://"))
    manifest: Manifest = backend.resolve(ref, None, lambda line: None)
    document = json.loads(manifest.data)
    assert manifest.descriptor.media_type == document["mediaType"]
    for blob in map(Descriptor.from_json, (document["config"], *document["layers"])):
        with backend.fetch(ref, blob, None) as stream:
            assert digest_of(stream.read()) == blob.digest


def test_a_blob_is_mounted_across_repositories(registry: RunningRegistry, backend: DistributionBackend) -> None:
    registry.put("from/here", "1", AMD64)
    sent: list[int] = []
    ref = Reference.parse(f"{registry.host}/to/there:1")
    layer = AMD64.layers[0]
    opened = partial(io.BytesIO, AMD64.blobs[layer.digest])
    assert backend.push_blob(ref, layer, opened, None, sent.append, ["from/here"]) is False
    assert sent == []
    assert backend.push_blob(ref, layer, opened, None, sent.append) is False


def test_an_index_keeps_its_bytes_and_type(registry: RunningRegistry, backend: DistributionBackend) -> None:
    ref = Reference.parse(f"{registry.host}/ours/exact:1")
    push(backend, ref.with_digest(AMD64.manifest.descriptor.digest), AMD64)
    data = json.dumps(json.loads(make_index(AMD64).data), indent=3).encode()
    index = Manifest(Descriptor(OCI_INDEX, digest_of(data), len(data)), data)
    backend.push_manifest(ref, index, None)
    assert backend.resolve(ref, None, lambda line: None) == index
