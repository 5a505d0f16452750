"""Layers in formats that hold more than the tar, read as plain ones: zstd:chunked, eStargz, several streams in one."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import zlib
from pathlib import Path

import pytest
import zstandard

from scow.errors import Corrupt, InvalidArgument
from scow.layers import decompress
from scow.oci import OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST, Descriptor, digest_of
from scow.ports.registry import Manifest
from scow.testing.fakes_registry import SmallImage, make_tar
from tests.unit.image_kit import Kit, image, run

TAR = make_tar({f"f{n}": bytes([n]) * 30_000 for n in range(40)})


def skippable(data: bytes, magic: int = 0x184D2A50) -> bytes:
    """A zstd frame that says nothing (RFC 8878, 3.1.2)."""
    return struct.pack("<II", magic, len(data)) + data


def zstd_chunked() -> bytes:
    """As containers/storage writes it: a frame for each chunk, then its table and a footer in skippable frames."""
    frames = b"".join(zstandard.compress(TAR[at : at + 50_000]) for at in range(0, len(TAR), 50_000))
    table = zstandard.compress(json.dumps({"version": 1, "entries": []}).encode())
    footer = struct.pack("<QQQQ", len(frames) + 8, len(table), 30, 1) + b"GNUlInUx"
    return frames + skippable(table) + skippable(footer)


def estargz() -> bytes:
    """As stargz-snapshotter writes it: a gzip member for each chunk, the last of them empty, with an extra field."""
    members = b"".join(gzip.compress(TAR[at : at + 50_000], 1, mtime=0) for at in range(0, len(TAR), 50_000))
    extra = b"SG" + struct.pack("<H", 22) + b"%016xSTARGZ" % len(members)
    header = b"\x1f\x8b\x08\x04" + bytes(4) + b"\x00\xff" + struct.pack("<H", len(extra)) + extra
    empty = zlib.compressobj(0, zlib.DEFLATED, -15).flush()
    return members + header + empty + struct.pack("<II", 0, 0)


FORMATS = {
    "zstd:chunked": (zstd_chunked(), OCI_LAYER_ZSTD),
    "a skippable frame first": (skippable(b"hello", 0x184D2A5F) + zstandard.compress(TAR), OCI_LAYER_ZSTD),
    "a long zstd window": (zstandard.ZstdCompressor(19).compress(TAR), OCI_LAYER_ZSTD),
    "eStargz": (estargz(), OCI_LAYER_GZIP),
    "two gzip members": (gzip.compress(TAR[:7777]) + gzip.compress(TAR[7777:]), OCI_LAYER_GZIP),
    "a zstd stream that is called gzip": (zstandard.compress(TAR), OCI_LAYER_GZIP),
    "a plain tar that is called gzip": (TAR, OCI_LAYER_GZIP),
}


@pytest.mark.parametrize("format", FORMATS)
def test_a_layer_is_read_whatever_else_its_format_holds(format: str) -> None:
    blob, _ = FORMATS[format]
    stream = decompress(io.BytesIO(blob))
    data = b"".join(iter(lambda: stream.read(10_000), b""))
    assert data == TAR


@pytest.mark.parametrize("format", ["eStargz", "two gzip members"])
def test_a_layer_that_ends_in_the_middle_of_a_member_is_damaged(format: str) -> None:
    blob, _ = FORMATS[format]
    stream = decompress(io.BytesIO(blob[: len(blob) // 2]))
    with pytest.raises(Corrupt, match="damaged"):
        list(iter(lambda: stream.read(10_000), b""))


def wrapped(blob: bytes, media_type: str) -> SmallImage:
    """An image whose only layer, by its diff ID, is `TAR`."""
    plain = image({f"f{n}": bytes([n]) * 30_000 for n in range(40)})
    assert plain.diff_ids == ("sha256:" + hashlib.sha256(TAR).hexdigest(),)
    layer = Descriptor(media_type, digest_of(blob), len(blob))
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": plain.config.to_json()}
    data = json.dumps({**document, "layers": [layer.to_json()]}).encode()
    manifest = Manifest(Descriptor(OCI_MANIFEST, digest_of(data), len(data)), data)
    blobs = {plain.config.digest: plain.blobs[plain.config.digest], layer.digest: blob}
    return SmallImage(manifest, plain.config, (layer,), plain.diff_ids, blobs, plain.platform)


@pytest.mark.parametrize("format", ["zstd:chunked", "a long zstd window", "eStargz"])
def test_a_pull_refuses_one_that_ends_early_although_its_digest_is_right(tmp_path: Path, format: str) -> None:
    blob, media_type = FORMATS[format]

    async def test(kit: Kit) -> None:
        kit.registry.add("library/x", "latest", wrapped(blob[: len(blob) // 2], media_type))
        with pytest.raises((Corrupt, InvalidArgument)):
            await kit.pull("x")
        assert (kit.images.list(), kit.storage.list()) == ([], [])

    run(tmp_path, test)


@pytest.mark.parametrize("format", FORMATS)
def test_a_pull_takes_it(tmp_path: Path, format: str) -> None:
    async def test(kit: Kit) -> None:
        kit.registry.add("library/x", "latest", wrapped(*FORMATS[format]))
        pulled = await kit.pull("x")
        assert len(kit.storage.files(pulled.chain_id or "")) == 40

    run(tmp_path, test)
