"""Images of attackers: layers that try to get out or to fill memory, configurations and files that lie.

What is bounded: extended headers (4 MiB before a member), names that are remembered (512 MiB), blobs by the size that
their descriptor says, manifests and configs by 4 and 8 MiB. What a layer inflates to is bounded by the disk only; a
full one is told and leaves no snapshot (`test_overlay_layers`).
"""

from __future__ import annotations

import io
import os
import resource
import stat
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scow.errors import InvalidArgument
from scow.layers import Whiteouts, apply_layer
from scow.testing.fakes_registry import FileTree, SmallImage, make_image
from tests.daemon import DOCKER, Daemon
from tests.integration.hostile import add_image
from tests.registry import HAVE_REGISTRY, RunningRegistry, running_registry

pytestmark = pytest.mark.root


def member(
    name: str, type: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: Any
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size = type, len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def layer(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    out.seek(0)
    return out


def pax(kind: bytes, records: dict[str, str]) -> bytes:
    """One extended header of *kind* (``x``, ``g``), without its member."""
    body = b""
    for key, value in records.items():
        rest = f" {key}={value}\n".encode()
        size = len(rest) + len(str(len(rest)))
        size = len(rest) + len(str(size))
        body += str(size).encode() + rest
    info = tarfile.TarInfo("pax")
    info.type, info.size = kind, len(body)
    return info.tobuf(tarfile.USTAR_FORMAT) + body + b"\0" * (-len(body) % 512)


class Repeated(io.RawIOBase):
    """*piece* (made anew for each number) without end."""

    def __init__(self, piece: Any) -> None:
        super().__init__()
        self._piece, self._number, self._rest = piece, 0, b""

    def read(self, size: int = -1) -> bytes:
        while len(self._rest) < size:
            self._rest += self._piece(self._number)
            self._number += 1
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder outside of the layer's root that must stay as it is."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_text("untouched")
    (tmp_path / "root").mkdir()
    return folder


@pytest.mark.parametrize("way", list(Whiteouts))
@pytest.mark.parametrize("target", ["ABSOLUTE", "../outside", "a/../../outside", "/proc/self/root/ABSOLUTE"])
def test_nothing_is_written_through_links_within_or_across_layers(
    tmp_path: Path, secret: Path, way: Whiteouts, target: str
) -> None:
    target = target.replace("ABSOLUTE", str(secret))
    root = tmp_path / "root"
    apply_layer(layer(member("out", tarfile.SYMTYPE, linkname=target)), str(root), way)
    attacks = [
        member("out/file", content=b"evil"),
        member("out/new", content=b"evil"),
        member("out/.wh.file"),
        member("out/.wh..wh..opq"),
        member("out/link", tarfile.LNKTYPE, linkname="out/file"),
        member("out/folder", tarfile.DIRTYPE, mode=0o777),
        member("out/node", tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("hard", tarfile.LNKTYPE, linkname=f"out/{'../' * 9}{str(secret).lstrip('/')}/file"),
    ]
    upper = tmp_path / "upper"
    upper.mkdir()
    for attack in attacks:
        for folder, lower in ((root, []), (upper, [str(root)])):
            try:
                apply_layer(layer(attack), str(folder), way, lower)
            except InvalidArgument:
                pass
    assert (secret / "file").read_text() == "untouched"
    assert [path.name for path in secret.iterdir()] == ["file"]
    assert stat.S_IMODE(secret.stat().st_mode) != 0o777


@pytest.mark.parametrize(
    "name", [".wh...", ".wh..", ".wh.", "a/.wh...", "../.wh.x", "a/../../x", "a\0b", "x" * 256, "d/" * 2100 + "x"]
)
def test_a_name_that_cannot_be_is_refused(tmp_path: Path, secret: Path, name: str) -> None:
    stream = layer(member(name, content=b"evil"))
    if "\0" in name:
        stream = io.BytesIO(pax(b"x", {"path": name}) + layer(member("f")).read())
    with pytest.raises(InvalidArgument):
        apply_layer(stream, str(tmp_path / "root"), Whiteouts.OVERLAY)
    assert [path.name for path in secret.iterdir()] == ["file"]


def test_odd_names_are_kept_as_they_are(tmp_path: Path, secret: Path) -> None:
    names = ["new\nline", "\udcff\udcfe", "n" * 255, "d/" * 100 + "f", "\x1b[31m", "-rf *", "%s%n"]
    apply_layer(layer(*(member(name, content=b"x") for name in names)), str(tmp_path / "root"), Whiteouts.OVERLAY)
    assert all((tmp_path / "root" / name).read_bytes() == b"x" for name in names)


@pytest.mark.parametrize(
    "records",
    [{"size": "-1"}, {"size": "9" * 30}, {"size": "9" * 5000}, {"size": "1e9"}, {"uid": "9" * 30}, {"uid": "-7"},
     {"mtime": "9" * 40}, {"mtime": "nan"}, {"GNU.sparse.major": "1", "GNU.sparse.realsize": "9" * 30},
     {"GNU.sparse.map": "0,1," * 9, "GNU.sparse.size": "5"}],
    ids=str,
)  # fmt: skip
def test_a_number_that_lies_is_refused(tmp_path: Path, secret: Path, records: dict[str, str]) -> None:
    stream = io.BytesIO(pax(b"x", records) + layer(member("f", content=b"abc" * 500)).read())
    with pytest.raises(InvalidArgument):
        apply_layer(stream, str(tmp_path / "root"), Whiteouts.OVERLAY)


@pytest.mark.parametrize("kind", [b"x", b"g"])
def test_extended_headers_without_end_do_not_fill_the_memory(tmp_path: Path, secret: Path, kind: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    endless = Repeated(lambda number: pax(kind, {f"SCHILY.xattr.user.x{number}": "A" * 900_000}))
    with pytest.raises(InvalidArgument, match="without end"):
        apply_layer(endless, str(tmp_path / "root"), Whiteouts.OVERLAY)  # type: ignore[arg-type]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_a_file_of_terabytes_of_nothing_takes_no_room_nor_does_a_link_to_it(tmp_path: Path, secret: Path) -> None:
    below, above = tmp_path / "below", tmp_path / "above"
    below.mkdir()
    above.mkdir()
    size = 4 << 40
    stream = pax(b"x", {"GNU.sparse.map": f"{size - 3},3", "GNU.sparse.size": str(size)})
    apply_layer(io.BytesIO(stream + layer(member("huge", content=b"end")).read()), str(below), Whiteouts.OVERLAY)
    started = time.monotonic()
    apply_layer(layer(member("copy", tarfile.LNKTYPE, linkname="huge")), str(above), Whiteouts.OVERLAY, [str(below)])
    made = (above / "copy").stat()
    assert (made.st_size, made.st_blocks * 512 < 1 << 20) == (size, True)
    assert time.monotonic() - started < 5
    with open(above / "copy", "rb") as file:
        file.seek(-3, os.SEEK_END)
        assert file.read() == b"end"


def test_attributes_that_overlayfs_acts_on_are_not_for_images(tmp_path: Path, secret: Path) -> None:
    names = ("trusted.overlay.redirect", "trusted.overlay.metacopy", "user.overlay.opaque", "trusted.overlay.overlay.x")
    info, content = member("f", content=b"x")
    info.pax_headers = {f"SCHILY.xattr.{name}": "/etc" for name in names}
    apply_layer(layer((info, content)), str(tmp_path / "root"), Whiteouts.OVERLAY)
    assert not set(os.listxattr(tmp_path / "root" / "f")) & set(names)


# -- in an engine


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    if DOCKER is None:
        pytest.skip("needs the docker CLI")
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    if not HAVE_REGISTRY:
        pytest.skip("needs docker-registry (Debian package)")
    with running_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


def pulled(daemon: Daemon, registry: RunningRegistry, image: SmallImage, name: str) -> str:
    registry.put(f"evil/{name}", "1", image)
    ref = f"{registry.host}/evil/{name}:1"
    daemon.docker("pull", ref)
    return ref


@pytest.mark.parametrize(
    "config",
    [
        {"User": "../../etc/passwd"}, {"User": "4294967295"}, {"WorkingDir": "../.."}, {"Volumes": {"/": {}}},
        {"Env": [""]}, {"Env": ["=x"]}, {"Env": ["A\0B=c"]}, {"Cmd": ["a\0b"]}, {"StopSignal": "SIG; rm"},
        {"Volumes": {"/proc": {}}}, {"Volumes": {"//proc/sys": {}}}, {"Cmd": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_configuration_that_lies_is_refused_when_it_is_used(
    daemon: Daemon, registry: RunningRegistry, config: dict[str, Any]
) -> None:
    ref = pulled(daemon, registry, make_image({"bin/": None}, config={"Cmd": ["/bin/x"], **config}), "config")
    done = daemon.docker("run", "--rm", "--network", "none", ref, check=False)
    assert done.returncode in (125, 126, 127)
    assert "internal error" not in done.stderr
    assert daemon.out("ps", "-aq") == ""


def test_a_volume_that_climbs_lies_below_the_root(daemon: Daemon) -> None:
    add_image(daemon, "climbs", {}, ["VOLUME /../../climbed"])
    assert daemon.out("run", "--rm", "--network", "none", "climbs", "ls", "-d", "/climbed") == "/climbed"
    assert not Path("/climbed").exists()


def test_labels_of_an_image_give_it_nothing(daemon: Daemon) -> None:
    add_image(daemon, "labelled", {}, ['LABEL scow.init=1 scow.privileged=true "privileged=true"'])
    status = daemon.out("run", "--rm", "--network", "none", "labelled", "cat", "/proc/self/status")
    assert "CapEff:\t00000000a80425fb" in status


@pytest.mark.parametrize(
    "passwd",
    [("link", "/dev/zero"), ("fifo",), ("link", "/proc/self/environ"), ("link", "/proc/1/root/etc/passwd"),
     ("link", "../../../../../../etc/shadow"), ("char", 1, 5), ("folder",), b"mail:x:4294967295:4294967295::/:\n",
     b"mail:x:-1:0::/:\n", b"mail:x:\xc2\xb2:0::/:\n", b"mail:x:99999999999:0::/:\n", b"\xff\n" * 1_000_000],
    ids=lambda entry: str(entry)[:40],
)  # fmt: skip
def test_users_are_looked_up_in_files_that_lie_without_hanging_or_becoming_root(daemon: Daemon, passwd: Any) -> None:
    add_image(daemon, "lying", {"etc/passwd": passwd})
    done = daemon.docker("run", "--rm", "--network", "none", "-u", "mail", "lying", "true", check=False, timeout_s=20)
    assert done.returncode == 125
    assert "uid" in done.stderr or "user" in done.stderr or "etc/" in done.stderr


@pytest.mark.parametrize(
    "group",
    [("link", "/dev/zero"), ("fifo",), ("link", "../../../../../../etc/group"), ("char", 1, 5), ("folder",),
     b"mail:x:4294967295:\n", b"mail:x:-1:mail\n", b"\xff\n" * 1_000_000],
    ids=lambda entry: str(entry)[:40],
)  # fmt: skip
def test_groups_are_looked_up_in_files_that_lie_without_hanging_or_a_group_of_the_hosts(
    daemon: Daemon, group: Any
) -> None:
    add_image(daemon, "lying", {"etc/passwd": b"mail:x:8:12::/:\n", "etc/group": group})
    run = ("run", "--rm", "--network", "none")
    done = daemon.docker(*run, "-u", "8:mail", "lying", "true", check=False, timeout_s=20)
    assert done.returncode == 125 and ("group" in done.stderr or "etc/" in done.stderr)
    done = daemon.docker(*run, "-u", "mail", "lying", "cat", "/proc/self/status", check=False, timeout_s=20)
    assert "Groups:\t12 \n" in done.stdout or "etc/" in done.stderr


def test_thousands_of_members_of_one_name_are_taken(daemon: Daemon) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(2000):
            info, content = member("same", content=str(number).encode())
            tar.addfile(info, io.BytesIO(content))
    daemon.docker("import", "-", "repeated", input=out.getvalue())


def test_thousands_of_layers_are_refused_or_run_but_break_nothing(daemon: Daemon, registry: RunningRegistry) -> None:
    layers: list[FileTree] = [{f"f{number}": str(number)} for number in range(600)]
    image = make_image(*layers, config={"Cmd": ["/f1"]})
    registry.put("evil/layers", "1", image)
    ref = f"{registry.host}/evil/layers:1"
    daemon.docker("pull", ref, check=False, timeout_s=120)
    done = daemon.docker("run", "--rm", "--network", "none", ref, check=False)
    assert done.returncode in (125, 126, 127)
    assert "internal error" not in done.stderr
    assert daemon.out("run", "--rm", "--network", "none", "busybox", "echo", "lives") == "lives"
