"""Images and programs of attackers. The programs are run by the host's Python, mounted into the containers."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.daemon import Daemon, busybox_tar

PYTHON = "/usr/bin/python3"
HAVE_PYTHON = os.access(PYTHON, os.X_OK)
FOLDERS = [folder for folder in ("/usr", "/lib", "/lib64") if Path(folder).is_dir()]
_TYPES = {"link": tarfile.SYMTYPE, "folder": tarfile.DIRTYPE, "fifo": tarfile.FIFOTYPE, "char": tarfile.CHRTYPE}

Entry = bytes | tuple[str, *tuple[Any, ...]] | None
"""The content of a file; ``("link", target)``, ``("folder",)``, ``("fifo",)``, ``("char", major, minor)``; None: the
base image's entry is left out."""


def add_image(daemon: Daemon, name: str, entries: Mapping[str, Entry], changes: Sequence[str] = ()) -> None:
    """The image *name*: busybox, with *entries* instead of what was there."""
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(busybox_tar())) as base,
        tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for member in base:
            if member.name not in entries:
                tar.addfile(member, base.extractfile(member) if member.isfile() else None)
        for path, entry in entries.items():
            _add(tar, path, entry)
    options = [word for change in changes for word in ("-c", change)]
    daemon.docker("import", *options, "-", name, input=out.getvalue())


def _add(tar: tarfile.TarFile, path: str, entry: Entry) -> None:
    info = tarfile.TarInfo(path)
    if entry is None:
        return
    if isinstance(entry, bytes):
        info.size, info.mode = len(entry), 0o644
        tar.addfile(info, io.BytesIO(entry))
        return
    kind, *rest = entry
    info.type, info.mode = _TYPES[kind], 0o755
    if kind == "link":
        info.linkname = rest[0]
    elif kind == "char":
        info.devmajor, info.devminor = rest
    tar.addfile(info)


def with_python(*options: str) -> list[str]:
    """The options of ``docker run`` for a container that can run `PYTHON`."""
    binds = [word for folder in FOLDERS for word in ("-v", f"{folder}:{folder}:ro")]
    return ["--network", "none", *binds, *options]


def attack(daemon: Daemon, program: str, *options: str, image: str = "busybox") -> Any:
    """What *program* prints last, as JSON, run by Python in a container of its own."""
    words = ["run", "--rm", *with_python(*options), image, PYTHON, "-c", PRELUDE + program]
    return json.loads(daemon.out(*words).splitlines()[-1])


PRELUDE = '''
import ctypes, errno, json, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *args):
    """The result of a system call, or the name of its error; a fork makes it, so that it changes nothing here."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        ctypes.set_errno(0)
        result = libc.syscall(number, *[a if a is None or isinstance(a, bytes) else ctypes.c_long(a) for a in args])
        os.write(write, (errno.errorcode[ctypes.get_errno()] if result < 0 else "ok").encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    text = os.read(read, 100).decode()
    os.close(read)
    return text

def attempt(path, flags, data=None):
    try:
        fd = os.open(path, flags)
        try:
            return "wrote" if data is not None and os.write(fd, data) else f"read {len(os.read(fd, 64))}"
        finally:
            os.close(fd)
    except OSError as error:
        return errno.errorcode[error.errno]
'''
