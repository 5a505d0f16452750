"""apt.local without root and without network: what a reference asks for, where from, and how layers are written."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import threading
from pathlib import Path

import pytest

from scow.errors import Corrupt, DriverUnusable, NotFound, Unsupported
from scow.oci import OCI_MANIFEST, Descriptor
from scow.ports import DriverContext
from scow.ports.registry import Credentials, Manifest
from scow.reference import Reference
from scow_registry_apt import AptBackend
from scow_registry_apt.driver import _Build
from scow_registry_apt.image import put_image
from scow_registry_apt.known import KNOWN
from scow_registry_apt.layers import Layer, LayerWriter
from scow_registry_apt.memory import tmpfs_bytes
from scow_registry_apt.prune import finish
from scow_registry_apt.recipe import Recipe, recipe_of
from scow_registry_apt.sources import Mirror, Source, read_mirror
from scow_registry_apt.store import Record, Store

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example.com/debian/
Suites: bookworm bookworm-updates
 bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: https://user:secret@security.example.com/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example.com/debian
Suites: bookworm
Components: main
"""
MIRROR = Mirror("debian", "bookworm", (Source("http://m/debian", "bookworm", ("main",)),))


def etc(folder: Path, release: str, **files: str) -> Path:
    (folder / "apt/sources.list.d").mkdir(parents=True)
    (folder / "os-release").write_text(release)
    for name, text in files.items():
        (folder / "apt" / name.replace("__", "/").replace("_", ".")).write_text(text)
    return folder


BOOKWORM = 'ID=debian\nVERSION_CODENAME="bookworm"\n'


# where from


def test_deb822_sources_are_read(tmp_path: Path) -> None:
    mirror = read_mirror(etc(tmp_path, BOOKWORM, **{"sources.list.d__debian_sources": DEB822}))
    assert [(source.uri, source.suite, source.components) for source in mirror.sources] == [
        ("http://mirror.example.com/debian", "bookworm", ("main",)),
        ("http://mirror.example.com/debian", "bookworm-updates", ("main",)),
        ("https://user:secret@security.example.com/debian-security", "bookworm-security", ("main",)),
    ]
    assert mirror.sources[0].signed_by == "/usr/share/keyrings/debian-archive-keyring.gpg"


def test_one_line_sources_are_read(tmp_path: Path) -> None:
    text = (
        "deb-src http://a.example.com/ubuntu jammy main\n"
        "# deb http://b.example.com/ubuntu jammy main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://c.example.com/ubuntu jammy main universe # here\n"
        "deb http://c.example.com/ubuntu jammy-security main\n"
    )
    mirror = read_mirror(etc(tmp_path, "ID=ubuntu\nVERSION_CODENAME=jammy\n", sources_list=text))
    assert mirror.sources == (
        Source("http://c.example.com/ubuntu", "jammy", ("main", "universe"), "/k.gpg"),
        Source("http://c.example.com/ubuntu", "jammy-security", ("main",)),
    )


def test_a_vendors_own_suite_is_not_taken_for_the_distributions(tmp_path: Path) -> None:
    vendor = "deb https://packages.example.com/prod bookworm main\n"
    folder = etc(tmp_path, BOOKWORM, **{"sources.list.d__a_list": vendor, "sources.list.d__debian_sources": DEB822})
    assert read_mirror(folder).sources[0].uri == "http://mirror.example.com/debian"


def test_a_host_without_sources_is_unusable(tmp_path: Path) -> None:
    with pytest.raises(DriverUnusable, match="no package source for debian bookworm"):
        read_mirror(etc(tmp_path, BOOKWORM))


def test_an_image_learns_no_password_and_no_keyring_that_it_lacks(tmp_path: Path) -> None:
    source = Source("https://user:secret@m.example.com/debian", "trixie", ("main",), "/k.gpg")
    assert source.line(keyrings_below=tmp_path) == "deb https://m.example.com/debian trixie main"
    assert "secret" in source.line()


def test_another_suite_has_its_own_pockets_and_sid_has_none(tmp_path: Path) -> None:
    mirror = read_mirror(etc(tmp_path, BOOKWORM, **{"sources.list.d__debian_sources": DEB822}))
    assert [source.suite for source in mirror.of_suite("trixie")] == ["trixie", "trixie-updates", "trixie-security"]
    assert [source.suite for source in mirror.of_suite("sid")] == ["sid"]


# what is asked for


def recipe(text: str) -> Recipe:
    return recipe_of(Reference.parse(f"apt.local/{text}"), "debian", "bookworm")


@pytest.mark.parametrize(
    ("text", "suite", "packages"),
    [
        ("debian", "bookworm", ()),
        ("debian:trixie-slim", "trixie", ()),
        ("nginx", "bookworm", ("nginx",)),
        ("redis:sid", "sid", ("redis-server",)),
        ("python3.11/curl/jq", "bookworm", ("curl", "jq", "python3.11")),
        ("busybox", "bookworm", ("busybox-static",)),
    ],
)
def test_references_are_recipes(text: str, suite: str, packages: tuple[str, ...]) -> None:
    found = recipe(text)
    assert (found.suite, found.packages) == (suite, packages)


def test_the_order_of_packages_decides_the_command_only() -> None:
    assert recipe("nginx/curl").packages == recipe("curl/nginx").packages
    assert recipe("nginx/curl").key != recipe("curl/nginx").key


@pytest.mark.parametrize("text", ["a", "a__b", "nginx:1.25", "nginx:Bookworm", "x/" * 40 + "yy"])
def test_what_can_be_no_package_or_suite_is_not_found(text: str) -> None:
    with pytest.raises(NotFound, match="manifest unknown"):
        recipe(text)


def test_known_packages_are_well_formed() -> None:
    for name, known in KNOWN.items():
        assert recipe(name).packages == (known.package or name,)
        assert known.command and all(port.endswith(("/tcp", "/udp")) for port in known.ports)


# layers


def unpack(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as tar:
        return {member.name: member for member in tar}


def write(fill: str, folder: Path, **options: Path) -> tuple[bytes, Layer]:
    out = io.BytesIO()
    writer = LayerWriter(out)
    getattr(writer, fill)(folder, **options)
    layer = writer.close()
    return out.getvalue(), layer


def test_a_tree_is_written_sorted_with_modes_links_and_both_digests(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("b" * 300_000)
    (tmp_path / "b").chmod(0o4755)
    os.link(tmp_path / "b", tmp_path / "c")
    (tmp_path / "a").mkdir(mode=0o700)
    (tmp_path / "a/link").symlink_to("/nowhere")
    (tmp_path / "proc/1").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")
    data, layer = write("tree", tmp_path)
    members = unpack(data)
    assert list(members) == ["a", "a/link", "b", "c", "pipe", "proc"]
    assert members["b"].mode == 0o4755 and members["b"].size == 300_000
    assert members["c"].islnk() and members["c"].linkname == "b"
    assert members["a/link"].linkname == "/nowhere"
    assert layer.descriptor.digest == "sha256:" + hashlib.sha256(data).hexdigest()
    assert layer.descriptor.size_bytes == len(data)
    assert layer.diff_id == "sha256:" + hashlib.sha256(gzip.decompress(data)).hexdigest()


@pytest.mark.root
def test_the_upper_directory_of_an_overlay_becomes_whiteouts(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for folder in (lower / "hidden", upper / "hidden", upper / "new"):
        folder.mkdir(parents=True)
    os.mknod(upper / "gone", 0o020000, os.makedev(0, 0))
    for folder in (upper / "hidden", upper / "new"):
        os.setxattr(folder, "trusted.overlay.opaque", b"y")
    members = unpack(write("tree", upper, lower=lower)[0])
    assert list(members) == [".wh.gone", "hidden", "hidden/.wh..wh..opq", "new"]
    assert all(member.isreg() for name, member in members.items() if ".wh." in name)


def test_the_same_tree_gives_the_same_layer(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    assert write("tree", tmp_path) == write("tree", tmp_path)


def test_names_that_are_not_text_survive(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))).write_text("x")
    assert list(unpack(write("tree", tmp_path)[0])) == ["\udcff\udcfe"]


def test_finishing_removes_traces_and_makes_links(tmp_path: Path) -> None:
    for name in ("var/cache/apt/pkgcache.bin", "var/log/dpkg.log", "run/x.pid", "tmp/x", "etc/hostname", "etc/keep"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("host")
    (tmp_path / "run/lock").mkdir()
    finish(tmp_path, {"/var/log/nginx/access.log": "/dev/stdout"})
    assert (tmp_path / "etc/keep").read_text() == "host"
    assert (tmp_path / "etc/hostname").read_text() == (tmp_path / "etc/machine-id").read_text() == ""
    assert (tmp_path / "run/lock").is_dir()
    assert os.readlink(tmp_path / "var/log/nginx/access.log") == "/dev/stdout"
    for name in ("var/cache/apt/pkgcache.bin", "var/log/dpkg.log", "run/x.pid", "tmp/x"):
        assert not (tmp_path / name).exists()


# what is kept


def stored(store: Store, key: str = "bookworm_nginx_nginx") -> Record:
    blob = store.put("application/octet-stream", key.encode())
    layers = (Layer(blob, "sha256:" + "d" * 64),)
    record = Record(layers, "index", "", put_image(store, recipe("nginx"), layers, ["a step"]))
    store.put_record(key, record)
    return record


def test_a_record_is_found_again(tmp_path: Path) -> None:
    record = stored(Store(tmp_path))
    assert Store(tmp_path).record("bookworm_nginx_nginx") == record


def test_a_record_whose_blob_is_gone_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.path(stored(store).layers[0].descriptor.digest).unlink()
    assert store.record("bookworm_nginx_nginx") is None


def test_a_broken_record_is_corrupt(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "records/x.json").write_text("{")
    with pytest.raises(Corrupt, match="record x"):
        store.record("x")


def test_only_old_blobs_that_nobody_names_are_collected(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = stored(store)
    old, new = (store.put("x", data) for data in (b"old", b"new"))
    for digest in (old.digest, record.layers[0].descriptor.digest):
        os.utime(store.path(digest), (0, 0))
    store.collect()
    assert not store.path(old.digest).exists()
    assert store.path(new.digest).exists()
    assert store.record("bookworm_nginx_nginx") == record


def test_the_image_config_says_how_it_is_started(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = stored(store)
    assert record.manifest is not None
    manifest = json.loads(store.manifest(record.manifest).data)
    with store.open(manifest["config"]["digest"]) as stream:
        config = json.load(stream)
    assert config["config"]["Cmd"] == ["nginx", "-g", "daemon off;"]
    assert config["config"]["ExposedPorts"] == {"80/tcp": {}}
    assert config["config"]["StopSignal"] == "SIGQUIT"
    assert config["rootfs"]["diff_ids"] == [record.layers[0].diff_id]


# the backend


def test_it_serves_apt_local_alone(tmp_path: Path) -> None:
    backend = AptBackend(DriverContext("apt", tmp_path, tmp_path))
    assert backend.serves("apt.local")
    assert not backend.serves("docker.io") and not backend.serves("apt.local:5000")


def test_login_is_refused_as_needless(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="takes no logins"):
        AptBackend(DriverContext("apt", tmp_path, tmp_path)).login("apt.local", Credentials("u", "p"))


def test_everybody_who_waits_for_a_build_hears_of_it() -> None:
    build, heard = _Build(), list[str]()
    build.listeners += [heard.append, lambda line: heard.append(line.upper())]
    build.tell("line")
    assert heard == ["line", "LINE"]


class _SlowBuilder:
    def __init__(self, error: Exception | None) -> None:
        self.error, self.built, self.go = error, 0, threading.Event()

    def image(self, recipe: Recipe, tell: object) -> Manifest:
        self.built += 1
        self.go.wait(10)
        if self.error is not None:
            raise self.error
        return Manifest(Descriptor(OCI_MANIFEST, "sha256:" + "a" * 64, 2), b"{}")


@pytest.mark.parametrize("error", [None, NotFound("no such package")])
def test_who_asks_for_what_is_being_built_shares_the_build(tmp_path: Path, error: Exception | None) -> None:
    backend, builder = AptBackend(DriverContext("apt", tmp_path, tmp_path)), _SlowBuilder(error)
    results: list[object] = []

    def ask() -> None:
        try:
            results.append(backend._build(builder, recipe("nginx"), lambda line: None))  # type: ignore[arg-type]
        except NotFound as failure:
            results.append(str(failure))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(backend._builds) != 1 or len(next(iter(backend._builds.values())).listeners) < 4:
        threading.Event().wait(0.01)
    builder.go.set()
    for thread in threads:
        thread.join()
    assert builder.built == 1
    assert len(results) == 4 and len({str(result) for result in results}) == 1
    assert not backend._builds


def test_memory_is_bounded_by_the_cgroup(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 10485760 kB\n")
    assert tmpfs_bytes(tmp_path, tmp_path) == int((10 << 30) * 0.6)
    (tmp_path / "memory.max").write_text("1000000000\n")
    assert tmpfs_bytes(tmp_path, tmp_path) == 0
