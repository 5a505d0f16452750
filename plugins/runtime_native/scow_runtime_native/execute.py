"""execve with the PATH of the container, and the true cause where it fails.

The kernel answers ENOENT for a script whose interpreter is missing and for a binary whose loader is missing, and
ENOEXEC for a foreign architecture; this module reads the file and says which.
"""

from __future__ import annotations

import errno
import os
import platform
import stat
import struct
from typing import NoReturn

from scow_runtime_native.failure import CANNOT_RUN, NOT_FOUND, StageError

_STAGE = "exec"
_MACHINES = {
    2: "sparc", 3: "386", 8: "mips", 20: "ppc", 21: "ppc64le", 22: "s390x", 40: "arm", 62: "amd64", 183: "arm64",
    243: "riscv64", 258: "loong64",
}  # fmt: skip
_OURS = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
_PT_INTERP = 3
_READ_LIMIT = 4096


def find(args: list[str], environment: dict[str, str]) -> str:
    """Where `execute` will most likely find its program."""
    if "/" in args[0]:
        return args[0]
    paths = [f"{directory or '.'}/{args[0]}" for directory in environment.get("PATH", "").split(":")]
    return next((path for path in paths if not _absent(path)), args[0])


def execute(args: list[str], environment: dict[str, str]) -> NoReturn:
    """The process image is ``args[0]``, looked for in the container's PATH. Raises `StageError` with the cause."""
    name = args[0]
    if "/" in name:
        _try(name, args, environment)
        raise StageError(
            f'exec: "{name}": stat {name}: no such file or directory', stage=_STAGE, kind=NOT_FOUND, errno=errno.ENOENT
        )
    denied = ""
    for directory in environment.get("PATH", "").split(":"):
        path = f"{directory or '.'}/{name}"
        if _absent(path):
            continue
        try:
            _try(path, args, environment)
        except StageError as error:
            if error.errno != errno.EACCES:
                raise
            denied = denied or path
    if denied:
        raise _denied(denied)
    raise StageError(
        f'exec: "{name}": executable file not found in $PATH', stage=_STAGE, kind=NOT_FOUND, errno=errno.ENOENT
    )


def _absent(path: str) -> bool:
    """Whether *path* is surely not there; asked first because an execve that fails costs ten times as much."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # execve tells
    return False


def _try(path: str, args: list[str], environment: dict[str, str]) -> None:
    """execve; returns only where there is no such file."""
    try:
        os.execve(path, args, environment)
    except FileNotFoundError as error:
        if os.path.lexists(path):
            raise _explain_missing(path) from error
    except NotADirectoryError:
        return
    except PermissionError as error:
        raise _denied(path) from error
    except OSError as error:
        raise _explain(path, error.errno or 0) from error


def _denied(path: str) -> StageError:
    hint = None
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            hint = f"{path} is a directory"
        elif not mode & 0o111:
            hint = f"{path} is not executable (mode {stat.S_IMODE(mode):04o})"
        elif os.statvfs(path).f_flag & os.ST_NOEXEC:
            hint = f"the filesystem of {path} is mounted noexec"
    except OSError:
        hint = f"the user may not look into the directory of {path}"
    return StageError(
        f'exec: "{path}": permission denied', stage=_STAGE, kind=CANNOT_RUN, errno=errno.EACCES, hint=hint
    )


def _head(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""  # executable but not readable: the cause stays unknown
    try:
        return os.read(fd, _READ_LIMIT)
    finally:
        os.close(fd)


def _explain_missing(path: str) -> StageError:
    """Why execve says ENOENT though *path* is there: a dangling link, or an interpreter or loader that is missing."""
    message, hint = f"exec {path}: no such file or directory", None
    head = _head(path)
    if not os.path.exists(path):
        hint = f"{path} is a symbolic link to {os.readlink(path)}, which does not exist"
    elif head.startswith(b"#!"):
        line = head[2:].split(b"\n", 1)[0]
        words = line.split()
        interpreter = os.fsdecode(words[0]) if words else ""
        message = f"exec {path}: its interpreter {interpreter!r} does not exist"
        if line.endswith(b"\r"):
            hint = "the first line ends in a carriage return (Windows line ending)"
        else:
            hint = "the script's first line names a program that the image does not have"
    elif head.startswith(b"\x7fELF"):
        loader = elf_interpreter(head)
        if loader:
            message = f"exec {path}: its loader {loader} does not exist"
            hint = "the program is linked against a C library that the image does not have (glibc or musl)"
    return StageError(message, stage=_STAGE, kind=NOT_FOUND, errno=errno.ENOENT, hint=hint)


def _explain(path: str, number: int) -> StageError:
    message, hint = f"exec {path}: {os.strerror(number).lower()}", None
    if number == errno.ENOEXEC:
        head = _head(path)
        machine = elf_machine(head)
        if not head:
            hint = f"{path} is empty"
        elif machine and machine != _OURS:
            hint = f"{path} is for {machine}, this host is {_OURS}, and no emulator is registered (binfmt_misc)"
        elif not machine:
            hint = "it is no ELF binary, and a script needs #! and its interpreter on the first line"
    return StageError(message, stage=_STAGE, kind=CANNOT_RUN, errno=number, hint=hint)


def elf_machine(head: bytes) -> str:
    """The architecture of the ELF file that begins with *head*, in Docker's words; ``""`` where it is none."""
    if len(head) < 20 or not head.startswith(b"\x7fELF"):
        return ""
    (machine,) = struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)
    return _MACHINES.get(machine, f"machine {machine}")


def elf_interpreter(head: bytes) -> str:
    """The dynamic loader that the ELF file beginning with *head* asks for; ``""`` for a static one (elf(5))."""
    order = "<" if head[5] == 1 else ">"
    try:
        if head[4] == 2:
            (table,) = struct.unpack_from(order + "Q", head, 32)
            size, count = struct.unpack_from(order + "HH", head, 54)
            kind_offset_size = order + "I4xQ16xQ"
        else:
            (table,) = struct.unpack_from(order + "I", head, 28)
            size, count = struct.unpack_from(order + "HH", head, 42)
            kind_offset_size = order + "II8xI"
        for index in range(count):
            kind, offset, length = struct.unpack_from(kind_offset_size, head, table + index * size)
            if kind == _PT_INTERP:
                return os.fsdecode(head[offset : offset + length].rstrip(b"\0"))
    except struct.error:  # truncated, or not really ELF
        return ""
    return ""
