"""Images of apt.local, built from the host's mirror; busybox and refusals are quick, roots are slow."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.errors import DriverUnusable, NotFound, ScowError, Unavailable
from scow.oci import Descriptor, chain_ids, digest_of
from scow.ports import DriverContext
from scow.ports.registry import Manifest
from scow.reference import Reference
from scow_registry_apt import AptBackend
from scow_registry_apt.sources import read_mirror


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AptBackend]:
    made = make_backend(tmp_path_factory.mktemp("apt"))
    try:
        made.check()
    except DriverUnusable as error:
        pytest.skip(str(error))
    yield made
    made.close()


@pytest.fixture(scope="module")
def mirror(backend: AptBackend) -> None:
    """Skips where the host's mirror is out of reach."""
    try:
        resolve(backend, "no-such-package-anywhere")
    except NotFound:
        return
    except Unavailable as error:
        pytest.skip(f"the host's package mirror is out of reach: {error}")


def make_backend(folder: Path) -> AptBackend:
    return AptBackend(DriverContext("apt", folder, folder))


def resolve(backend: AptBackend, text: str, lines: list[str] | None = None) -> Manifest:
    told = lines if lines is not None else []
    return backend.resolve(Reference.parse(f"apt.local/{text}"), None, told.append)


def layers(manifest: Manifest) -> list[Descriptor]:
    return [Descriptor.from_json(layer) for layer in json.loads(manifest.data)["layers"]]


def read(backend: AptBackend, blob: Descriptor) -> bytes:
    with backend.fetch(Reference.parse("apt.local/any"), blob, None) as stream:
        data = stream.read()
    assert digest_of(data) == blob.digest
    return data


def config(backend: AptBackend, manifest: Manifest) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads(
        read(backend, Descriptor.from_json(json.loads(manifest.data)["config"]))
    )
    return found


def members(backend: AptBackend, blob: Descriptor) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(read(backend, blob)))) as tar:
        return {member.name: member for member in tar}


def unpack(backend: AptBackend, manifest: Manifest, folder: Path) -> None:
    """The layers over each other; they hold no whiteouts, which is checked."""
    folder.mkdir(exist_ok=True)
    for blob in layers(manifest):
        assert not any(".wh." in name for name in members(backend, blob))
        tar = ["tar", "--extract", "--gzip", "--numeric-owner", "--preserve-permissions", "--directory", str(folder)]
        subprocess.run(tar, input=read(backend, blob), check=True)


def inside(root: Path, *command: str) -> str:
    chroot = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", f"--root={root}", "--", *command]
    done = subprocess.run(chroot, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_busybox_is_built_in_a_moment_and_then_kept(backend: AptBackend) -> None:
    lines: list[str] = []
    try:
        start = time.monotonic()
        manifest = resolve(backend, "busybox", lines)
        assert time.monotonic() - start < 20
    except Unavailable as error:
        pytest.skip(f"busybox-static is not installed and {error}")
    again: list[str] = []
    assert resolve(backend, "busybox", again) == manifest
    assert lines and not again
    found = members(backend, layers(manifest)[0])
    assert found["bin/busybox"].mode == 0o755 and found["bin/busybox"].isreg()
    assert found["bin/sh"].linkname == "/bin/busybox"
    assert found["tmp"].mode == 0o1777
    assert {"etc/passwd", "etc/group", "proc", "dev", "sys", "root", "usr/bin/wget"} <= set(found)
    assert config(backend, manifest)["config"]["Cmd"] == ["sh"]


def test_an_unknown_package_is_named_before_anything_is_built(backend: AptBackend, mirror: None) -> None:
    with pytest.raises(NotFound, match="no package named 'no-such-package-anywhere'"):
        resolve(backend, "no-such-package-anywhere/curl")


def test_a_name_is_no_pattern(backend: AptBackend, mirror: None) -> None:
    with pytest.raises(NotFound, match="no package named 'lib.c6'"):
        resolve(backend, "lib.c6")


def test_an_unknown_suite_is_named(backend: AptBackend, mirror: None) -> None:
    with pytest.raises(NotFound, match="manifest for apt.local/curl:no-such-suite not found: .* no suite"):
        resolve(backend, "curl:no-such-suite")


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nginx_and_another_image_share_their_root(backend: AptBackend, mirror: None, tmp_path: Path) -> None:
    lines: list[str] = []
    nginx = resolve(backend, "nginx", lines)
    assert any(line.startswith("Building apt.local/nginx: installing nginx ") for line in lines)
    again: list[str] = []
    start = time.monotonic()
    assert resolve(backend, "nginx", again) == nginx and not again
    assert time.monotonic() - start < 1
    both = resolve(backend, "curl/nginx")
    base = resolve(backend, read_mirror().distribution)
    assert layers(nginx)[0] == layers(both)[0] == layers(base)[0]
    described = config(backend, nginx)
    assert described["config"]["StopSignal"] == "SIGQUIT"
    diff_ids = described["rootfs"]["diff_ids"]
    assert isinstance(diff_ids, list)
    for blob, diff_id in zip(layers(nginx), diff_ids, strict=True):
        assert digest_of(gzip.decompress(read(backend, blob))) == diff_id
    assert len(chain_ids(diff_ids)) == 2

    root = tmp_path / "root"
    unpack(backend, nginx, root)
    assert os.readlink(root / "var/log/nginx/access.log") == "/dev/stdout"
    assert list((root / "var/www/html").iterdir())
    assert not (root / "usr/sbin/policy-rc.d").exists()
    assert not list((root / "var/lib/apt/lists").iterdir()) and not list((root / "dev").iterdir())
    assert "secret" not in (root / "etc/apt/sources.list").read_text()
    assert inside(root, "dpkg", "--audit") == ""
    assert "nginx version" in inside(root, "nginx", "-v")
    assert inside(root, "su", "-s", "/bin/sh", "-c", "id -un", "www-data").strip() == "www-data"


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_build_leaves_no_mounts_and_its_folder_goes_with_the_next(
    backend: AptBackend, mirror: None, tmp_path: Path
) -> None:
    resolve(backend, read_mirror().distribution)  # this one is there
    other = make_backend(tmp_path)
    failures: list[ScowError] = []
    started = threading.Event()

    def build() -> None:
        try:
            other.resolve(
                Reference.parse("apt.local/curl"),
                None,
                lambda line: started.set() if "installing a minimal root" in line else None,
            )
        except ScowError as error:
            failures.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    assert started.wait(120)
    builder = other._made
    assert builder is not None
    (worker,) = builder._running
    os.kill(worker.pid, signal.SIGKILL)
    thread.join(60)
    assert failures and isinstance(failures[0], Unavailable)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    stale = tmp_path / "work" / "left-behind"
    (stale / "work").mkdir(parents=True)
    resolve(other, "curl")
    assert list((tmp_path / "work").iterdir()) == []
    other.close()
