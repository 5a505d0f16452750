"""Why execve refused a program, found out by looking at the file, as the container's user in the container's root.

The kernel answers ENOENT for a script whose interpreter is missing and for a binary whose loader is missing, EACCES for
half a dozen reasons, and ENOEXEC for whatever it does not know. Docker's clients choose exit code and advice by the
message, so that stays as runc words it; the cause is the hint.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from scow_runtime_native.failure import CANNOT_RUN, NOT_FOUND, StageError

STAGE = "exec"
_MACHINES = {
    2: "sparc", 3: "386", 8: "mips", 20: "ppc", 21: "ppc64le", 22: "s390x", 40: "arm", 62: "amd64", 183: "arm64",
    243: "riscv64", 258: "loong64",
}  # fmt: skip
_OURS = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
_PT_INTERP = 3
_READ_LIMIT = 4096
_FORMATS = (
    (b"MZ", "a program for Windows"),
    (b"\xcf\xfa\xed\xfe", "a program for macOS"),
    (b"\xca\xfe\xba\xbe", "a program for macOS, or a Java class"),
    (b"\xef\xbb\xbf#!", "a script with a byte order mark before its #!"),
    (b"\xff\xfe", "text in UTF-16"),
    (b"\x1f\x8b", "compressed (gzip)"),
    (b"PK", "a zip archive"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself"),
)


def missing(path: str) -> StageError:
    """ENOENT though *path* is there: a dangling link, or an interpreter, loader or emulator that is missing."""
    message = f"exec {path}: no such file or directory"
    if not os.path.exists(path):
        return _not_found(message, f"{path} is a symbolic link to {os.readlink(path)}, which does not exist")
    name, why = _needed(path)
    if not name:
        return _not_found(message, why)
    if why == "loader":
        hint = "the program is linked against a C library that the image does not have (glibc or musl)"
        return _not_found(message, f"its loader {name} does not exist: {hint}")
    hint = "the script's first line names a program that the image does not have"
    if why == "carriage return":
        hint = "the first line ends in a carriage return (Windows line ending)"
    return _not_found(message, f"its interpreter {name!r} does not exist: {hint}")


def _needed(path: str) -> tuple[str, str]:
    """The file that *path* needs and that is missing, and as what; without a name, the cause in words."""
    for _ in range(5):  # BINPRM_MAX_RECURSION: a script's interpreter may be a script
        head = _head(path)
        interpreter, ending = _interpreter(head)
        if interpreter and not os.path.exists(interpreter):
            return interpreter, ending
        if interpreter:
            path = interpreter
            continue
        machine, loader = elf_machine(head), elf_interpreter(head) if elf_machine(head) else ""
        if machine and machine != _OURS and not (loader and not os.path.exists(loader)):
            return "", (
                f"{path} is for {machine}, this host is {_OURS}: an emulator is registered (binfmt_misc), "
                "but the image does not have it"
            )
        if loader and not os.path.exists(loader):
            return loader, "loader"
        break
    return "", "a file that it needs is missing"


def denied(path: str) -> StageError:
    """EACCES: directories that may not be entered, no executable bit, noexec, or the same of what *path* needs."""
    message = f'exec: "{path}": permission denied'
    return StageError(message, stage=STAGE, kind=CANNOT_RUN, errno=errno.EACCES, hint=_why_denied(path))


def _why_denied(path: str, number: int = 0) -> str | None:
    closed = _closed_directory(path)
    if closed:
        return f"the user may not enter {closed}"
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            return f"{path} is a directory"
        if not stat.S_ISREG(mode):
            return f"{path} is no regular file"
        if not mode & 0o111:
            return f"{path} is not executable (mode {stat.S_IMODE(mode):04o})"
        if os.statvfs(path).f_flag & os.ST_NOEXEC:
            return f"the filesystem of {path} is mounted noexec"
        if not os.access(path, os.X_OK, effective_ids=True):
            return f"{path} is not executable for the user {os.geteuid()} (mode {stat.S_IMODE(mode):04o})"
    except OSError as error:
        return f"{path}: {os.strerror(error.errno or 0).lower()}"
    head = _head(path)
    needed = _interpreter(head)[0] or elf_interpreter(head)
    if needed and number < 5:
        why = _why_denied(needed, number + 1)
        return f"it needs {needed}: {why}" if why else None
    return None


def _closed_directory(path: str) -> str:
    """The first directory on the way to *path* that the caller may not search."""
    parts = os.path.abspath(path).split("/")[1:-1]
    for count in range(len(parts)):
        directory = "/" + "/".join(parts[: count + 1])
        if os.path.isdir(directory) and not os.access(directory, os.X_OK, effective_ids=True):
            return directory
    return ""


def other(path: str, number: int, args: list[str], environment: dict[str, str]) -> StageError:
    """Any other error *number*."""
    hint = None
    if number == errno.ENOEXEC:
        hint = _unknown_format(path)
    elif number == errno.E2BIG:
        size = sum(len(os.fsencode(word)) + 9 for word in (*args, *(f"{k}={v}" for k, v in environment.items())))
        hint = f"arguments and environment take {size} bytes, and one of them may take 131071 at most"
    elif number == errno.ETXTBSY:
        hint = f"{path} is open for writing"
    elif number == errno.ELOOP:
        hint = f"too many symbolic links, or scripts whose interpreter is a script, at {path}"
    elif number == errno.EPERM:
        hint = "no_new_privs, a seccomp profile or a security module forbids it"
    message = f"exec {path}: {os.strerror(number).lower()}"
    return StageError(message, stage=STAGE, kind=CANNOT_RUN, errno=number, hint=hint)


def _unknown_format(path: str) -> str:
    head = _head(path)
    if not head:
        return f"{path} is empty" if not os.stat(path).st_size else f"{path} cannot be read by the user"
    machine = elf_machine(head)
    if machine and machine != _OURS:
        return f"{path} is for {machine}, this host is {_OURS}, and no emulator is registered (binfmt_misc)"
    if machine:
        return f"{path} is no complete program for {_OURS}, or not for this kernel"
    interpreter = _interpreter(head)[0]
    if interpreter:
        return f"its interpreter {interpreter} is no program either"
    for begin, what in _FORMATS:
        if head.startswith(begin):
            return f"{path} is {what}"
    if head.lstrip().startswith(b"#!"):
        return f"there is something before the #! of {path}"
    return "it is no ELF binary, and a script needs #! and its interpreter on the first line"


def _not_found(message: str, hint: str) -> StageError:
    return StageError(message, stage=STAGE, kind=NOT_FOUND, errno=errno.ENOENT, hint=hint)


def _head(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""  # executable but not readable: the cause stays unknown
    try:
        return os.read(fd, _READ_LIMIT)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _interpreter(head: bytes) -> tuple[str, str]:
    """What the script that begins with *head* names, as the kernel reads it, and how its line ends where that is the
    fault; ``""`` for what is no script."""
    if not head.startswith(b"#!"):
        return "", ""
    line = head[2:].split(b"\n", 1)[0]
    words = line.strip(b" \t").replace(b"\t", b" ").split(b" ")
    name = os.fsdecode(words[0])
    return name, "carriage return" if name.endswith("\r") else ""


def elf_machine(head: bytes) -> str:
    """The architecture of the ELF file that begins with *head*, in Docker's words; ``""`` where it is none."""
    if len(head) < 20 or not head.startswith(b"\x7fELF"):
        return ""
    (machine,) = struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)
    return _MACHINES.get(machine, f"machine {machine}")


def elf_interpreter(head: bytes) -> str:
    """The dynamic loader that the ELF file beginning with *head* asks for; ``""`` for a static one (elf(5))."""
    if not elf_machine(head):
        return ""
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
