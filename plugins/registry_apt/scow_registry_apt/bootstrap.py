"""A minimal root from package archives, with nothing but dpkg: the packages and files of debootstrap's minbase.

The steps are mmdebstrap's: unpack everything so that programs run, then let dpkg, inside, install all of it properly.
debootstrap resolves and downloads one package at a time and knows no security updates: 22 s for bookworm on the machine
where this takes 6 s.
"""

from __future__ import annotations

import platform
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from scow.errors import Unavailable
from scow_registry_apt import chroot

if TYPE_CHECKING:
    from pathlib import Path

    from scow_registry_apt.index import PackageIndex

_MERGED = ("bin", "sbin", "lib") + (("lib64",) if platform.machine() == "x86_64" else ())
_FIRST = ("base-passwd_", "base-files_")  # they make the users and the files that others' scripts take for granted
_UNPACKED_LATER = ("./usr/share/doc/*", "./usr/share/info/*", "./usr/share/locale/*", "./usr/share/man/*")
_WORKERS = 2


def packages(index: PackageIndex) -> list[str]:
    """What a minimal root of *index*'s suite consists of, before dependencies: all that is required, and apt."""
    # Where usr-is-merged exists, it spares the programs that usrmerge brings along to convert a root that is merged.
    return [*index.required(), "apt", *(["usr-is-merged"] if index.has("usr-is-merged") else [])]


def bootstrap(root: Path, lists: Path, archives: Path) -> None:
    """The empty folder *root* is a root with the packages of *archives* installed."""
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    debs = sorted(archives.glob("*.deb"), key=lambda deb: (not deb.name.startswith(_FIRST), deb.name))
    with ThreadPoolExecutor(_WORKERS) as pool:
        for _ in pool.map(lambda deb: _unpack(deb, root), debs):
            pass  # a failure is raised here
    database = root / "var/lib/dpkg"
    for name in ("status", "available"):
        (database / name).touch()
    awk = root / "usr/bin/awk"
    if not awk.is_symlink():
        awk.symlink_to("mawk")  # scripts want it before mawk is configured (as debootstrap does)
    with chroot.prepared(root, lists, archives):
        inside = [f"/var/cache/apt/archives/{deb.name}" for deb in debs]
        # dpkg does not order by Pre-Depends on its own; everything is unpacked already, so the order does not matter.
        force = ("--force-unsafe-io", "--force-depends", "--force-confdef", "--force-confold")
        chroot.run(root, ["dpkg", *force, "--install", *inside], "dpkg --install")
        chroot.run(root, ["dpkg", "--force-unsafe-io", "--configure", "--pending"], "dpkg --configure")


def _unpack(deb: Path, root: Path) -> None:
    tar = ["tar", "--extract", "--directory", str(root), "--keep-directory-symlink", "--preserve-permissions"]
    tar += ["--same-owner", "--numeric-owner", *(f"--exclude={pattern}" for pattern in _UNPACKED_LATER)]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as packed:
        done = subprocess.run(tar, stdin=packed.stdout)
    if done.returncode or packed.returncode:
        raise Unavailable(f"cannot unpack {deb.name}")
