"""What is fuzzed: each target takes any bytes and raises where a promise is broken. `SEEDS` are its first inputs."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from scow.compression import decompress
from scow.engine import manifests
from scow.engine.platforms import choose
from scow.errors import ScowError
from scow.layers import Whiteouts, apply_layer, tree_diff
from scow.oci import (
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
from scow.tar_reader import BLOCK, DIRECTORY, LINK, REGULAR, SYMLINK, Member, TarReader
from scow.tar_writer import END, member_header, padding

_INFLATED_LIMIT_BYTES = 1 << 20


def rechecked(data: bytes) -> bytes:
    """*data* with a right checksum in every block that a tar reader would take for a header: what a fuzzer changes gets
    past the sum."""
    blocks = bytearray(data)
    position = 0
    while position + BLOCK <= len(blocks):
        header = blocks[position : position + BLOCK]
        if not any(header):
            break
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        blocks[position : position + BLOCK] = header
        digits = bytes(header[124:135]).strip(b"\0 ")
        size = int(digits, 8) if digits.isdigit() and not digits.strip(b"01234567") else 0
        position += BLOCK + size + -size % BLOCK
    return bytes(blocks)


def reader(data: bytes) -> None:
    """A tar is read to its end or refused, and gives no more data than there is."""
    for tar in (data, rechecked(data)):
        stream = TarReader(io.BytesIO(tar))
        try:
            while stream.next() is not None:
                assert sum(len(piece) for piece in stream.pieces()) <= len(tar)
        except ScowError:
            continue


def layer(data: bytes) -> None:
    """A layer stays inside its root, is unpacked or refused, and what was unpacked can be packed and unpacked again."""
    place = Path(tempfile.mkdtemp(dir=_memory()))
    try:
        for name in ("outside", "root", "copy"):
            (place / name).mkdir()
        (place / "outside/secret").write_text("s")
        try:
            apply_layer(io.BytesIO(rechecked(data)), str(place / "root"), Whiteouts.DELETE)
            if sum(1 for _ in (place / "root").rglob("*")) < 50 and _size(place / "root") < _INFLATED_LIMIT_BYTES:
                again = b"".join(tree_diff(str(place / "root"), None))
                apply_layer(io.BytesIO(again), str(place / "copy"), Whiteouts.DELETE)
                assert b"".join(tree_diff(str(place / "copy"), None)) == again
        except (ScowError, PermissionError):
            pass  # a device, without root
        assert sorted(os.listdir(place)) == ["copy", "outside", "root"]
        assert os.listdir(place / "outside") == ["secret"]
        assert (place / "outside/secret").read_text() == "s"
    finally:
        shutil.rmtree(place, ignore_errors=True)


def compression(data: bytes) -> None:
    """Compressed bytes are inflated or refused."""
    try:
        stream = decompress(io.BytesIO(data))
        left = _INFLATED_LIMIT_BYTES
        while left > 0 and (piece := stream.read(1 << 16)):
            left -= len(piece)
    except ScowError:
        return


def manifest(data: bytes) -> None:
    """The bytes of a manifest or of an image config are understood or refused."""
    served = Manifest(Descriptor("", digest_of(data), len(data)), data)
    try:
        document = manifests.check_bytes(served, "")
        if manifests.is_index(document, ""):
            choose(manifests.index_members(document), Platform("linux", "amd64"))
        else:
            manifests.parse_manifest(document, served.descriptor.digest, "")
    except ScowError:
        pass
    try:
        manifests.created_ns(manifests.parse_config(data, None))
    except ScowError:
        pass


def reference(data: bytes) -> None:
    """A text is a reference that reads again as itself, or refused."""
    try:
        parsed = Reference.parse(data.decode("utf-8", "replace"))
    except ScowError:
        return
    assert Reference.parse(str(parsed)) == parsed


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _size(root: Path) -> int:
    return sum(path.lstat().st_size for path in root.rglob("*"))


def _tar() -> bytes:
    parts = [
        Member(b"d/", DIRECTORY, 0o755, 0, 0, 0, 10**18, b"", 0, 0, {b"user.a": b"1"}),
        Member(b"d/" + b"n" * 120, REGULAR, 0o4755, 1 << 22, 7, 5, 10**18, b"", 0, 0, {}),
        Member(b"d/hard", LINK, 0o644, 0, 0, 0, 0, b"d/" + b"n" * 120, 0, 0, {}),
        Member(b"soft", SYMLINK, 0o777, 0, 0, 0, 0, b"../outside", 0, 0, {}),
        Member(b"soft/.wh.x", REGULAR, 0o644, 0, 0, 0, 0, b"", 0, 0, {}),
        Member(b"d/.wh..wh..opq", REGULAR, 0o644, 0, 0, 0, 0, b"", 0, 0, {}),
    ]
    return b"".join(member_header(part) + b"x" * part.size_bytes + padding(part.size_bytes) for part in parts) + bytes(
        END
    )


def _documents() -> list[bytes]:
    blob = {"mediaType": OCI_LAYER_GZIP, "digest": digest_of(b""), "size": 1}
    documents: list[object] = [
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {**blob, "mediaType": OCI_CONFIG}, "layers": [blob]},
        {"mediaType": OCI_INDEX, "manifests": [{**blob, "platform": {"os": "linux", "architecture": "amd64"}}]},
        {
            "created": "2024-01-01T00:00:00Z",
            "os": "linux",
            "architecture": "amd64",
            "config": {"Env": ["A=b"], "ExposedPorts": {"80/tcp": {}}},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(b"")]},
        },
    ]
    return [json.dumps(document).encode() for document in documents]


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (reader, layer, compression, manifest, reference)
}
SEEDS: dict[str, list[bytes]] = {
    "reader": [_tar()],
    "layer": [_tar()],
    "compression": [b"\x1f\x8b\x08" + bytes(7) + b"\x03\0" + bytes(8), b"\x28\xb5\x2f\xfd\x20\0\x01\0\0"],
    "manifest": _documents(),
    "reference": [b"nginx", b"localhost:5000/a/b:tag@" + digest_of(b"").encode()],
}
