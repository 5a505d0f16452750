"""Links in images and volumes that are to lead the engine out of a container's root: in the image, or swapped in by a
container that shares the volume, while another one is made (CVE-2019-19921, CVE-2019-16884, CVE-2021-30465,
CVE-2018-15664)."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import DOCKER, Daemon
from tests.integration.hostile import HAVE_PYTHON, PRELUDE, PYTHON, add_image, with_python

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI"),
    pytest.mark.skipif(not HAVE_PYTHON, reason=f"needs {PYTHON}"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the attacks name system calls by x86-64 numbers"),
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


def run(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = daemon.docker("run", "--rm", "--network", "none", *words, check=False)
    return done


@pytest.mark.parametrize("folder", ["proc", "sys"])
def test_proc_and_sys_are_not_mounted_through_links(daemon: Daemon, folder: str) -> None:
    add_image(daemon, "linked", {folder: ("link", "/tmp")})
    assert "ordinary directory" in run(daemon, "linked", "true").stderr


@pytest.mark.parametrize("target", ["/proc", "/proc/sys/kernel", "/proc/self/attr", "/", "/tmp/../"])
def test_a_volume_of_the_image_covers_neither_proc_nor_the_root(daemon: Daemon, target: str) -> None:
    add_image(daemon, "covering", {"data": ("link", target)}, ["VOLUME /data"])
    done = run(daemon, "covering", "true")
    assert done.returncode == 125
    assert "it leads to" in done.stderr
    assert "it leads to" in run(daemon, "--tmpfs", "/data", "covering", "true").stderr


def test_files_of_the_engine_are_not_mounted_where_links_of_the_image_lead(daemon: Daemon, tmp_path: Path) -> None:
    outside = "../" * 20 + str(tmp_path).lstrip("/") + "/made"
    add_image(daemon, "etc-links", {"etc/hostname": ("link", outside), "etc/resolv.conf": ("link", "/no/such/file")})
    assert run(daemon, "etc-links", "cat", "/etc/hostname").returncode == 0
    assert list(tmp_path.iterdir()) == []


_SWAP = """
outside = sys.argv[1]
os.chdir("/v")
while True:
    for name in os.listdir("."):
        if not name.startswith(".") and not os.path.islink(name):
            try:
                os.rename(name, f".{name}{time.time_ns()}")
                os.symlink(outside, name)
            except OSError:
                pass
"""


def test_content_of_an_image_is_not_copied_through_links_that_a_container_swaps_in(
    daemon: Daemon, tmp_path: Path
) -> None:
    entries: dict[str, Any] = {"data": ("folder",)}
    for folder in range(40):
        entries[f"data/x{folder}"] = ("folder",)
        entries |= {f"data/x{folder}/f{n}": b"abc" for n in range(10)}
    add_image(daemon, "copied", entries)
    for attempt in range(4):
        volume = f"shared{attempt}"
        daemon.out(
            "run", "-d", "--name", "swap", *with_python("-v", f"{volume}:/v"), "busybox", PYTHON, "-c",
            PRELUDE + _SWAP, str(tmp_path),
        )  # fmt: skip
        try:
            time.sleep(0.2)
            daemon.docker(
                "create", "--name", "victim", "--network", "none", "-v", f"{volume}:/data", "copied", check=False
            )
        finally:
            daemon.docker("rm", "-f", "swap", "victim", check=False)
            daemon.out("volume", "rm", volume)
        assert list(tmp_path.iterdir()) == []


_FLIP = """
outside = sys.argv[1]
os.chdir("/v")
while True:
    for target in (outside, "/proc", "/proc/sys", "/", "../../../../../../" + outside):
        try:
            os.mkdir(".new")
        except OSError:
            pass
        try:
            os.symlink(target, ".link")
            libc.syscall(316, -100, b".link", -100, b"sub", 2)
            os.rename("sub", ".link")
        except OSError:
            pass
        for name in (".link", "sub"):
            try:
                os.unlink(name)
            except OSError:
                try: os.rmdir(name)
                except OSError: pass
"""


def test_a_mount_below_a_volume_stays_inside_while_another_container_swaps_links(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.out("volume", "create", "raced")
    daemon.out("volume", "create", "inner")
    daemon.out(
        "run",
        "-d",
        "--name",
        "flip",
        *with_python("-v", "raced:/v"),
        "busybox",
        PYTHON,
        "-c",
        PRELUDE + _FLIP,
        str(tmp_path),
    )
    before = Path("/proc/self/mountinfo").read_text().count("inner")
    try:
        for _ in range(15):
            done = run(
                daemon, "-v", "raced:/v:nocopy", "-v", "inner:/v/sub:nocopy", "busybox", "cat", "/proc/self/mountinfo"
            )
            for line in done.stdout.splitlines():
                if "/inner/_data " in line:
                    assert not line.split()[4].startswith("/proc")
    finally:
        daemon.docker("rm", "-f", "flip", check=False)
        daemon.docker("volume", "rm", "raced", "inner", check=False)
    assert list(tmp_path.iterdir()) == []
    assert Path("/proc/self/mountinfo").read_text().count("inner") == before
