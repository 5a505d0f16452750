"""The busybox image: one static program, a link for each of its applets, and the few files that programs expect."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
from typing import TYPE_CHECKING

from scow.errors import Unavailable

if TYPE_CHECKING:
    from pathlib import Path

    from scow_registry_apt.layers import LayerWriter

_APPLET = re.compile(r"[a-z/]+/[A-Za-z0-9_.+\[-]+")
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n"
_GROUP = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"
_FOLDERS = {
    "bin": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "proc": 0o755,
    "root": 0o700,
    "run": 0o755,
    "sbin": 0o755,
    "sys": 0o755,
    "tmp": 0o1777,
    "usr": 0o755,
    "usr/bin": 0o755,
    "usr/sbin": 0o755,
    "var": 0o755,
    "var/log": 0o755,
    "var/spool": 0o755,
    "var/tmp": 0o1777,
}


def program_of(package: Path) -> bytes:
    """``bin/busybox`` out of the busybox-static *package*; nothing is unpacked on the host."""
    unpacked = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE, check=True)
    with tarfile.open(fileobj=io.BytesIO(unpacked.stdout)) as tar:
        for member in tar:
            if member.name.removeprefix("./") in ("bin/busybox", "usr/bin/busybox") and member.isreg():
                stream = tar.extractfile(member)
                if stream is not None:
                    return stream.read()
    raise Unavailable(f"{package.name} holds no bin/busybox")


def write_root(layer: LayerWriter, program: bytes) -> None:
    """*layer* holds a root with *program* as ``/bin/busybox``."""
    members: dict[str, tuple[str, str]] = dict.fromkeys(_applets(program), ("link", "/bin/busybox"))
    members.pop("bin/busybox", None)
    for path, mode in sorted(_FOLDERS.items()):
        layer.directory(path, mode)
    layer.file("bin/busybox", program, 0o755)
    for path, (_, target) in sorted(members.items()):
        layer.link(path, target)
    layer.file("etc/group", _GROUP.encode())
    layer.file("etc/hostname", b"")
    layer.file("etc/hosts", b"")
    layer.file("etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n")
    layer.file("etc/passwd", _PASSWD.encode())
    layer.file("etc/resolv.conf", b"")
    layer.file("etc/shadow", b"root:*:::::::\nnobody:*:::::::\n", 0o600)


def _applets(program: bytes) -> list[str]:
    """The paths of the applets (``bin/ls``), as the program itself lists them; run from memory, never from a file."""
    fd = os.memfd_create("busybox")
    try:
        os.write(fd, program) if len(program) < 1 << 30 else None
        listed = subprocess.run(
            ["busybox", "--list-full"],
            executable=f"/proc/self/fd/{fd}",
            pass_fds=(fd,),
            stdout=subprocess.PIPE,
            check=True,
        )
    finally:
        os.close(fd)
    return [line for line in listed.stdout.decode().split() if _APPLET.fullmatch(line)]
