"""Layers of ours unpacked by umoci, oci-image-tool and podman, and layers of theirs by us: all see the same tree."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scow.layers import compress_gzip, decompress
from scow.linux.mounts import mounted
from scow.oci import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Platform, chain_ids, digest_of
from scow.ports import DriverContext
from scow.testing.storage import ACTIVE
from scow.testing.trees import layer_key
from scow_storage_overlay import OverlayDriver
from tests.properties import pictured

pytestmark = pytest.mark.root

CAPABILITY = b"\x01\x00\x00\x02\x00\x04" + bytes(14)
Picture = dict[bytes, tuple[Any, ...]]


def needs(*tools: str) -> pytest.MarkDecorator:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path: podman refuses a run root of more than 50 characters."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def driver(place: Path) -> Iterator[OverlayDriver]:
    for name in ("ours", "at"):
        (place / name).mkdir()
    with contextlib.closing(OverlayDriver(DriverContext("overlay", place / "ours", place))) as driver:
        driver.check()
        yield driver


def furnish(root: Path) -> None:
    """A bit of everything that a layer may hold."""
    for folder in ("usr/bin", "usr/lib/deep", "srv", "var/tmp", "empty"):
        (root / folder).mkdir(parents=True)
    (root / "var/tmp").chmod(0o1777)
    (root / "usr/bin/ping").write_bytes(os.urandom(5000))
    (root / "usr/bin/ping").chmod(0o755)
    os.setxattr(root / "usr/bin/ping", "security.capability", CAPABILITY)
    os.setxattr(root / "usr/lib", "user.kept", b"\x00binary\xff")
    os.link(root / "usr/bin/ping", root / "usr/lib/deep/ping6")
    (root / "usr/bin/su").write_text("#!")
    (root / "usr/bin/su").chmod(0o4755)
    os.chown(root / "srv", 1_000_000, 4_000_000_000)
    (root / "srv/link").symlink_to("../usr/bin/ping")
    (root / "srv/dangling").symlink_to("/nowhere/" + "x" * 150)
    (root / ("d" * 120)).mkdir()
    (root / ("d" * 120) / ("f" * 200)).write_text("long")
    (root / "grün und weiß").write_text("utf-8")
    os.mknod(root / "srv/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(root / "srv/fifo", 0o622)
    with (root / "var/sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"end")
    settle(root)


def alter(root: Path) -> None:
    """What a container did: deletions, replaced kinds, an opaque directory, changed attributes."""
    (root / "usr/bin/su").unlink()
    (root / "usr/lib/deep/ping6").unlink()
    (root / "usr/lib/deep").rmdir()
    (root / "usr/lib/deep").mkdir()
    (root / "usr/lib/deep/new").write_text("over what was there")
    (root / "srv/link").unlink()
    (root / "srv/link").mkdir()
    (root / "srv/link/inside").write_text("a directory now")
    shutil.rmtree(root / ("d" * 120))
    (root / ("d" * 120)).write_text("a file now")
    (root / "empty").chmod(0o700)
    os.chown(root / "empty", 33, 33)
    (root / "first").write_text("two names")
    os.link(root / "first", root / "var/tmp/second")
    settle(root)


def settle(root: Path) -> None:
    """Times are in whole seconds: some writers cut what is beyond, others round."""
    for path in root.rglob("*"):
        seconds = int(path.lstat().st_mtime)
        os.utime(path, (seconds, seconds), follow_symlinks=False)


def shown(driver: OverlayDriver, key: str, at: Path) -> Picture:
    with mounted(driver.view(key), str(at)):
        return pictured(at)


def write_layout(folder: Path, tars: list[bytes]) -> None:
    """An OCI image layout with the image ``made``."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, Any]:
        digest = digest_of(data)
        (blobs / digest.removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    layers = [put(b"".join(compress_gzip([tar])), OCI_LAYER_GZIP) for tar in tars]
    config = {
        "architecture": Platform.host().architecture,
        "os": "linux",
        "config": {"Cmd": ["/usr/bin/ping"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
        "history": [{"created_by": f"layer {number}"} for number in range(len(tars))],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": put(json.dumps(config).encode(), OCI_CONFIG),
        "layers": layers,
    }
    made = put(json.dumps(manifest).encode(), OCI_MANIFEST)
    named = {**made, "annotations": {"org.opencontainers.image.ref.name": "made"}}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [named]}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def read_layout(folder: Path, ref: str) -> list[bytes]:
    """The uncompressed layers of the image *ref*."""

    def blob(descriptor: dict[str, Any]) -> bytes:
        name: str = descriptor["digest"].removeprefix("sha256:")
        return (folder / "blobs/sha256" / name).read_bytes()

    entries = json.loads((folder / "index.json").read_text())["manifests"]
    names = [entry.get("annotations", {}).get("org.opencontainers.image.ref.name", ref) for entry in entries]
    manifest = json.loads(blob(entries[names.index(ref)]))
    return [decompress(io.BytesIO(blob(layer))).read() for layer in manifest["layers"]]


def tool(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, timeout=60, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def image(driver: OverlayDriver, place: Path) -> tuple[Path, Picture]:
    """The layout of an image that our driver made, and what the image looks like."""
    driver.prepare(ACTIVE, None)
    with mounted(driver.mounts(ACTIVE), str(place / "at")):
        furnish(place / "at")
    base, top = layer_key("base"), layer_key("top")
    driver.commit(base, ACTIVE)
    driver.prepare(ACTIVE, base)
    with mounted(driver.mounts(ACTIVE), str(place / "at")):
        alter(place / "at")
    driver.commit(top, ACTIVE)
    write_layout(place / "layout", [b"".join(driver.diff(key)) for key in (base, top)])
    return place / "layout", shown(driver, top, place / "at")


@needs("umoci")
def test_umoci_unpacks_what_we_wrote(image: tuple[Path, Picture], place: Path) -> None:
    layout, wanted = image
    tool("umoci", "unpack", "--image", f"{layout}:made", place / "bundle")
    assert pictured(place / "bundle/rootfs") == wanted


@needs("oci-image-tool")
def test_oci_image_tool_finds_our_layout_valid_and_unpacks_it(
    image: tuple[Path, Picture], driver: OverlayDriver, place: Path
) -> None:
    """It keeps no attributes, makes no devices, and does not know opaque directories: it gets the first layer."""
    layout, _ = image
    tool("oci-image-tool", "validate", "--type", "image", "--ref", "name=made", layout)
    write_layout(place / "base", read_layout(layout, "made")[:1])
    (place / "out").mkdir()
    tool("oci-image-tool", "unpack", "--type", "imageLayout", "--ref", "name=made", place / "base", place / "out")
    wanted = shown(driver, layer_key("base"), place / "at")
    assert contents(pictured(place / "out")) == contents(wanted)


def contents(picture: Picture) -> dict[bytes, tuple[Any, ...]]:
    """Names, kinds, hard links and contents in *picture* of what is no device."""
    kinds = (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK)
    return {name: (stat.S_IFMT(what[0]), *what[4:6]) for name, what in picture.items() if stat.S_IFMT(what[0]) in kinds}


def podman(place: Path, *words: str) -> str:
    policy = place / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    roots = ["--root", str(place / "p"), "--runroot", str(place / "r"), "--storage-driver", "vfs"]
    pulls = ["--signature-policy", str(policy)] if words[0] == "pull" else []
    return tool("podman", *roots, words[0], *pulls, *words[1:]).strip()


@needs("podman")
def test_podman_unpacks_what_we_wrote(image: tuple[Path, Picture], place: Path) -> None:
    layout, wanted = image
    name = podman(place, "pull", "-q", f"oci:{layout}:made")
    root = Path(podman(place, "image", "mount", name))
    assert pictured(root) == wanted
    podman(place, "image", "unmount", name)


@needs("umoci")
def test_we_unpack_what_umoci_wrote(driver: OverlayDriver, place: Path) -> None:
    image = f"{place / 'theirs'}:made"
    tool("umoci", "init", "--layout", place / "theirs")
    tool("umoci", "new", "--image", image)
    for number, change in enumerate((furnish, alter)):
        bundle = place / f"bundle{number}"
        tool("umoci", "unpack", "--image", image, bundle)
        change(bundle / "rootfs")
        tool("umoci", "repack", "--image", image, bundle)
    assert unpacked(driver, read_layout(place / "theirs", "made"), place) == pictured(bundle / "rootfs")


@needs("podman")
def test_we_unpack_what_podman_wrote(driver: OverlayDriver, place: Path) -> None:
    scratch = io.BytesIO()
    with gzip.open(scratch, "w") as file:
        file.write(bytes(1024))
    (place / "empty.tar.gz").write_bytes(scratch.getvalue())
    name = podman(place, "import", "-q", str(place / "empty.tar.gz"))
    wanted: Picture = {}
    for change in (furnish, alter):
        container = podman(place, "create", "--network", "none", name, "/none")
        root = Path(podman(place, "mount", container))
        change(root)
        wanted = pictured(root)
        podman(place, "unmount", container)
        name = podman(place, "commit", "-q", container)
        podman(place, "rm", container)
    podman(place, "save", "-q", "--format", "oci-dir", "-o", str(place / "theirs"), name)
    assert unpacked(driver, read_layout(place / "theirs", ""), place) == wanted


def unpacked(driver: OverlayDriver, tars: list[bytes], place: Path) -> Picture:
    """What our driver shows of the layers *tars*."""
    parent = None
    for chain, tar in zip(chain_ids([digest_of(tar) for tar in tars]), tars, strict=True):
        driver.apply(chain, parent, digest_of(tar), io.BytesIO(tar))
        parent = chain
    assert parent is not None
    return shown(driver, parent, place / "at")
