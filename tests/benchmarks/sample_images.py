"""Two images made from a seed, the same bytes each time, as OCI image layouts: what a web server's image looks like
(four layers, 212 MB), and one with a whole language environment (four layers, 54,000 files, 622 MB).

Sizes, counts and how far the bytes compress (by 2.5) are those of ``nginx`` and of a Debian with python3-numpy, nodejs,
npm and git. Nothing is fetched.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isal import isal_zlib

_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_MTIME = 1_700_000_000
_POOL_BYTES = 24 << 20
_PER_FOLDER = 12


@dataclass(frozen=True, slots=True)
class Sample:
    """*layers* are functions that write one layer each."""

    name: str
    layers: tuple[Callable[[Layer], None], ...]


class Layer:
    """One layer while it is written; *seed* decides what is in it."""

    def __init__(self, tar: tarfile.TarFile, pool: bytes, seed: str) -> None:
        self._tar, self._pool, self._random = tar, pool, random.Random(seed)
        self._folders: set[str] = set()

    def tree(self, top: str, files: int, size_bytes: int) -> None:
        """*files* files of together about *size_bytes*, most of them small, one in twelve a symbolic link."""
        weights = [self._random.lognormvariate(0, 1.7) for _ in range(files)]
        scale = size_bytes / sum(weights)
        for n, weight in enumerate(weights):
            group = n // _PER_FOLDER
            name = f"{top}/{group % 97:02d}/part{group:05d}/file{n:06d}.py"
            if n % _PER_FOLDER == 1:
                self._link(name, f"file{n - 1:06d}.py")
            else:
                self.file(name, self._content(int(weight * scale)))

    def noise(self, top: str, files: int) -> None:
        """*files* small files that nothing compresses."""
        for n in range(files):
            self.file(
                f"{top}/{n % 40:02d}/{n // 40 % 20:02d}/f{n:05d}.bin", self._random.randbytes(100 + n * 37 % 5900)
            )

    def links(self, top: str, count: int) -> None:
        """*count* symbolic links to one folder."""
        for n in range(count):
            self._link(f"{top}/l{n}", "../small/00/00")

    def file(self, name: str, data: bytes) -> None:
        """One file, and the folders above it."""
        self._above(name)
        info = _info(name, tarfile.REGTYPE, 0o644)
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))

    def _link(self, name: str, target: str) -> None:
        self._above(name)
        info = _info(name, tarfile.SYMTYPE, 0o777)
        info.linkname = target
        self._tar.addfile(info)

    def _above(self, name: str) -> None:
        parts = name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder not in self._folders:
                self._folders.add(folder)
                self._tar.addfile(_info(folder, tarfile.DIRTYPE, 0o755))

    def _content(self, size: int) -> bytes:
        """Words, and one part in thirteen of noise, as in programs and packed data."""
        noise = self._random.randbytes(size // 13)
        words = bytearray()
        while len(words) < size - len(noise):
            start = self._random.randrange(_POOL_BYTES)
            words += self._pool[start : start + min(size - len(noise) - len(words), 1 << 20)]
        return bytes(words) + noise


def _info(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime, info.uname, info.gname = kind, mode, _MTIME, "root", "root"
    return info


def _base(layer: Layer) -> None:
    layer.tree("usr/lib", 4200, 172 << 20)


def _server(layer: Layer) -> None:
    layer.tree("usr/share/server", 900, 29 << 20)


def _settings(layer: Layer) -> None:
    layer.file("etc/server/server.conf", b"access_log off;\n" * 40)


def _page(layer: Layer) -> None:
    layer.file("srv/www/index.html", b"x" * 612)


def _languages(layer: Layer) -> None:
    layer.tree("usr/lib/languages", 41_000, 356 << 20)


def _small(layer: Layer) -> None:
    layer.noise("opt/small", 8000)


def _links(layer: Layer) -> None:
    layer.links("opt/links", 500)


NGINX_LIKE = Sample("nginx-like", (_base, _server, _settings, _page))
MANY_FILES = Sample("many-files", (_base, _languages, _small, _links))


def write_layout(sample: Sample, folder: Path) -> None:
    """*folder* is an OCI image layout that holds *sample* as ``latest``; left alone where it is one already."""
    if (folder / "index.json").exists():
        return
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    pool = _words(random.Random(7))
    layers, diff_ids = [], []
    for fill in sample.layers:
        layer, diff_id = _write_layer(fill, pool, blobs)
        layers.append(layer)
        diff_ids.append(diff_id)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2023-11-14T22:13:20Z",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": fill.__name__.strip("_")} for fill in sample.layers],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _put(blobs, config, "application/vnd.oci.image.config.v1+json"),
        "layers": layers,
    }
    named = _put(blobs, manifest, manifest["mediaType"])
    named["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))


def layers_of(folder: Path) -> list[tuple[str, int]]:
    """Digest and bytes of each layer of the image layout *folder*."""
    index = json.loads((folder / "index.json").read_text())
    manifest = json.loads(_blob(folder, index["manifests"][0]["digest"]).read_text())
    return [(layer["digest"], layer["size"]) for layer in manifest["layers"]]


def _blob(folder: Path, digest: str) -> Path:
    return folder / "blobs" / "sha256" / digest.partition(":")[2]


def _write_layer(fill: Callable[[Layer], None], pool: bytes, blobs: Path) -> tuple[dict[str, Any], str]:
    new = blobs / "new"
    with new.open("wb") as file:
        packed = _Packed(file)
        with tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as tar:  # type: ignore[call-overload]
            fill(Layer(tar, pool, fill.__name__))
        packed.finish()
    digest = packed.compressed.hexdigest()
    size = new.stat().st_size
    new.rename(blobs / digest)
    return {"mediaType": _LAYER, "digest": f"sha256:{digest}", "size": size}, f"sha256:{packed.plain.hexdigest()}"


class _Packed:
    """A file that takes a tar and writes it compressed; knows the digests of both."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._deflater = isal_zlib.compressobj(2, isal_zlib.DEFLATED, 31)
        self.plain, self.compressed = hashlib.sha256(), hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.plain.update(data)
        self._out(self._deflater.compress(data))
        return len(data)

    def finish(self) -> None:
        self._out(self._deflater.flush())

    def _out(self, data: bytes) -> None:
        self.compressed.update(data)
        self._file.write(data)


def _put(blobs: Path, value: object, media_type: object) -> dict[str, Any]:
    data = json.dumps(value).encode()
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _words(source: random.Random) -> bytes:
    """Text whose words are as unevenly frequent as those of a language."""
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    known = ["".join(source.choices(letters, k=source.randrange(2, 12))) for _ in range(4000)]
    weights = [1 / (n + 3) for n in range(len(known))]
    made = bytearray()
    while len(made) < _POOL_BYTES + (1 << 20):
        made += " ".join(source.choices(known, weights, k=4000)).encode() + b" "
    return bytes(made)
