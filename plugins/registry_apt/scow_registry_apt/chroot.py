"""Runs programs inside a root under construction: chroot(2), without network, with /proc and a small /dev.

For processes that have a mount namespace of their own already: whatever is mounted here is theirs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scow.errors import Unavailable
from scow.linux.syscalls import (
    CLONE_NEWNET,
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOSUID,
    MS_RDONLY,
    MS_REMOUNT,
    mount,
    umount,
    unshare,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "DEBCONF_NONINTERACTIVE_SEEN": "true",
}


@contextmanager
def prepared(root: Path, lists: Path, archives: Path) -> Iterator[None]:
    """Programs may run in *root*, see the index's *lists* and the downloaded *archives*, and start no service."""
    targets = {"lists": root / "var/lib/apt/lists", "archives": root / "var/cache/apt/archives"}
    for folder in (*targets.values(), root / "proc", root / "dev", root / "usr/sbin"):
        folder.mkdir(parents=True, exist_ok=True)
    mount("proc", str(root / "proc"), "proc", MS_NOSUID | MS_NODEV)
    _mount_dev(root / "dev")
    _bind(lists, targets["lists"], read_only=True)
    _bind(archives, targets["archives"])
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")  # no service is started (invoke-rc.d(8))
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()
        for folder in (*targets.values(), root / "dev", root / "proc"):
            umount(str(folder), MNT_DETACH)


def run(root: Path, command: Sequence[str], what: str) -> None:
    """*command* ended well in *root*; raises `Unavailable` saying that *what* did not."""

    def enter() -> None:
        unshare(CLONE_NEWNET)
        os.chroot(root)
        os.chdir("/")

    done = subprocess.run(
        command, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=sys.stderr, preexec_fn=enter, close_fds=True
    )
    if done.returncode:
        raise Unavailable(f"{what} ended with {done.returncode}")


def _mount_dev(dev: Path) -> None:
    mount("dev", str(dev), "tmpfs", MS_NOSUID, "mode=0755,size=64k")
    for name in _DEVICES:
        (dev / name).touch()
        _bind(Path("/dev", name), dev / name)
    (dev / "shm").mkdir(mode=0o1777)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (dev / name).symlink_to(f"/proc/self/{target}")


def _bind(source: Path, target: Path, *, read_only: bool = False) -> None:
    mount(str(source), str(target), None, MS_BIND)
    if read_only:
        mount(None, str(target), None, MS_BIND | MS_REMOUNT | MS_RDONLY)
