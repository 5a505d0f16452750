"""OCI seccomp profiles compiled to BPF by libseccomp, once per profile: the program is kept on disk.

The key is the digest of the profile (which the capability set and the kernel have already shaped), the architecture
and the version of libseccomp; a program is data that the child hands to seccomp(2).
"""

from __future__ import annotations

import ctypes.util
import hashlib
import json
import os
import platform
import tempfile
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument, Unsupported
from scow_runtime_native.seccomp_shrink import shrink

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LIBRARY = "libseccomp.so.2"
_FORMAT = 3  # of the cache's entries
_UNKNOWN = -1  # __NR_SCMP_ERROR; other negative numbers are system calls of other architectures
_BINARY_TREE = 2  # SCMP_FLTATR_CTL_OPTIMIZE: log n comparisons a system call instead of n (libseccomp 2.5)
_KEPT_IN_MEMORY = 32


class Compiler:
    """Compiles profiles, with a cache in *directory*."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, bytes] = {}

    def compile(self, profile: Mapping[str, Any] | None) -> bytes:
        """The BPF program of *profile* (OCI ``linux.seccomp``); empty where there is nothing to filter.

        Raises `InvalidArgument` for a bad profile and `Unsupported` where libseccomp is missing.
        """
        if not profile or (profile.get("defaultAction") == "SCMP_ACT_ALLOW" and not profile.get("syscalls")):
            return b""
        key = self._key(profile)
        program = self._known.get(key)
        if program is None:
            path = self._directory / f"{key}.bpf"
            try:
                program = path.read_bytes()
            except FileNotFoundError:
                program = shrink(compile_profile(profile))
                self._store(path, program)
            if len(self._known) >= _KEPT_IN_MEMORY:
                self._known.clear()
            self._known[key] = program
        return program

    def _key(self, profile: Mapping[str, Any]) -> str:
        text = json.dumps([_FORMAT, platform.machine(), library_version(), profile], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _store(self, path: Path, program: bytes) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._directory, delete=False) as file:
            file.write(program)
            file.flush()
            os.fsync(file.fileno())
        os.rename(file.name, path)


_version: list[str] = []


def library_version() -> str:
    """The version of libseccomp, ``""`` where it is missing."""
    if not _version:
        try:
            library = ctypes.CDLL(_LIBRARY)
        except OSError:
            return ""
        library.seccomp_version.restype = ctypes.POINTER(ctypes.c_uint)
        numbers = library.seccomp_version()
        _version.append(".".join(str(numbers[index]) for index in range(3)))
    return _version[0]


def compile_profile(profile: Mapping[str, Any]) -> bytes:
    """*profile* as an array of ``struct sock_filter``."""
    if not library_version():
        raise Unsupported(
            "seccomp profiles need libseccomp",
            hint="install libseccomp2, or run with --security-opt seccomp=unconfined",
        )
    import pyseccomp  # here: importing it fails where the library is missing

    actions = {
        "SCMP_ACT_KILL": pyseccomp.KILL,
        "SCMP_ACT_KILL_THREAD": pyseccomp.KILL,
        "SCMP_ACT_KILL_PROCESS": pyseccomp.KILL_PROCESS,
        "SCMP_ACT_TRAP": pyseccomp.TRAP,
        "SCMP_ACT_ALLOW": pyseccomp.ALLOW,
        "SCMP_ACT_LOG": pyseccomp.LOG,
    }

    def action(name: str, errno: int | None) -> int:
        number = 1 if errno is None else errno
        if name == "SCMP_ACT_ERRNO":
            return int(pyseccomp.ERRNO(number))
        if name == "SCMP_ACT_TRACE":
            return int(pyseccomp.TRACE(number))
        if name not in actions:
            raise InvalidArgument(f"seccomp profile: unknown or unsupported action {name!r}")
        return int(actions[name])

    default = action(str(profile.get("defaultAction")), profile.get("defaultErrnoRet"))
    native = str(profile.get("defaultAction"))
    filter_ = pyseccomp.SyscallFilter(default)
    filter_.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)
    for name in profile.get("architectures") or ():
        _add_architecture(pyseccomp, filter_, str(name))
    for rule in profile.get("syscalls") or ():
        if rule.get("action") == native and rule.get("errnoRet") == profile.get("defaultErrnoRet"):
            continue  # libseccomp refuses a rule that says what the default says
        wanted = action(str(rule.get("action")), rule.get("errnoRet"))
        if wanted == default:
            continue
        _add_rule(pyseccomp, filter_, wanted, rule)
    with tempfile.TemporaryFile() as file:
        filter_.export_bpf(file)
        file.seek(0)
        return file.read()


def _add_architecture(library: Any, filter_: Any, name: str) -> None:
    architecture = getattr(library.Arch, name.removeprefix("SCMP_ARCH_"), None)
    if architecture is None:
        raise InvalidArgument(f"seccomp profile: unknown architecture {name!r}")
    try:
        filter_.add_arch(architecture)
    except FileExistsError:
        return  # the native one is there from the start
    except OSError as error:
        raise InvalidArgument(f"seccomp profile: architecture {name}: {error.strerror}") from error


def _add_rule(library: Any, filter_: Any, action: int, rule: Mapping[str, Any]) -> None:
    groups = _conditions(library, rule.get("args") or ())
    for name in rule.get("names") or ():
        number = library.resolve_syscall(library.Arch.NATIVE, str(name))
        if number == _UNKNOWN:
            continue  # a system call that this libseccomp does not know stays at the default, as with runc
        for conditions in groups:
            try:
                filter_.add_rule(action, number, *conditions)
            except OSError as error:
                raise InvalidArgument(f"seccomp profile: rule for {name}: {error.strerror}") from error


def _conditions(library: Any, args: Any) -> list[list[Any]]:
    """What the rule's arguments must be: all at once, or one by one where two speak of the same argument (runc)."""
    operators = {
        "SCMP_CMP_NE": library.NE,
        "SCMP_CMP_LT": library.LT,
        "SCMP_CMP_LE": library.LE,
        "SCMP_CMP_EQ": library.EQ,
        "SCMP_CMP_GE": library.GE,
        "SCMP_CMP_GT": library.GT,
        "SCMP_CMP_MASKED_EQ": library.MASKED_EQ,
    }
    conditions = []
    for arg in args:
        if arg.get("op") not in operators:
            raise InvalidArgument(f"seccomp profile: unknown comparison {arg.get('op')!r}")
        conditions.append(library.Arg(arg["index"], operators[arg["op"]], arg.get("value", 0), arg.get("valueTwo", 0)))
    indexes = [arg["index"] for arg in args]
    if len(set(indexes)) < len(indexes):
        return [[condition] for condition in conditions]
    return [conditions]
