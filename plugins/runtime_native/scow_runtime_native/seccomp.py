"""OCI seccomp profiles compiled to BPF by libseccomp, once per profile: the program is kept on disk.

The key is the digest of the profile (which the capability set and the kernel have already shaped), the architecture
and the version of libseccomp; a program is data that the child hands to seccomp(2).
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument, Unsupported
from scow.plain_json import encode_json
from scow_runtime_native import seccomp_missing
from scow_runtime_native.seccomp_shrink import shrink

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LIBRARY = "libseccomp.so.2"
_FORMAT = 4  # of the cache's entries
_UNKNOWN = -1  # __NR_SCMP_ERROR; other negative numbers are system calls of other architectures
_BINARY_TREE = 2  # SCMP_FLTATR_CTL_OPTIMIZE: log n comparisons a system call instead of n (libseccomp 2.5)
_KEPT_IN_MEMORY = 32
_NEW_LISTENER = 8  # SECCOMP_FILTER_FLAG_NEW_LISTENER: seccomp(2) answers the descriptor for an agent
_WAIT_KILLABLE = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # one thread only
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    _WAIT_KILLABLE: 32,  # Linux 5.19; means something with an agent only
}
_NOTIFY = "SCMP_ACT_NOTIFY"
_WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")


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
        import hashlib  # here, as tempfile below: what asks for no filter need not load it

        text = encode_json([_FORMAT, os.uname().machine, library_version(), profile])
        return hashlib.sha256(text).hexdigest()

    def _store(self, path: Path, program: bytes) -> None:
        import tempfile

        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._directory, delete=False) as file:
            file.write(program)
            file.flush()
            os.fsync(file.fileno())
        os.rename(file.name, path)


def asks_agent(profile: Mapping[str, Any] | None) -> bool:
    """Whether a rule of *profile* leaves the decision to a seccomp agent."""
    return any(rule.get("action") == _NOTIFY for rule in (profile or {}).get("syscalls") or ())


def flags(profile: Mapping[str, Any] | None) -> int:
    """The flags for seccomp(2). Without flags in the spec SPEC_ALLOW, as runc: no speculation barrier that slows every
    process down. Raises `InvalidArgument` for an unknown one."""
    if not profile:
        return 0
    given = profile.get("flags")
    given = ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"] if given is None else given
    unknown = [flag for flag in given if flag not in _FLAGS]
    if unknown:
        raise InvalidArgument(f"unknown seccomp flag {unknown[0]!r}", hint=f"known: {', '.join(_FLAGS)}")
    agent = asks_agent(profile)
    wanted = sum(_FLAGS[flag] for flag in set(given) if agent or flag != _WAIT_KILLABLE)
    return wanted | (_NEW_LISTENER if agent else 0)


def listener(profile: Mapping[str, Any] | None, state: Mapping[str, Any]) -> dict[str, Any]:
    """Where the agent of *profile* listens and what it is told, *state* being what every state of the container says;
    empty where no rule asks one. Raises `InvalidArgument` where rules ask and nobody is named."""
    profile = profile or {}
    path, metadata = str(profile.get("listenerPath") or ""), str(profile.get("listenerMetadata") or "")
    if metadata and not path:
        raise InvalidArgument("seccomp profile: listenerMetadata without listenerPath")
    if not asks_agent(profile):
        return {}
    if not path.startswith("/"):
        raise InvalidArgument(f"seccomp profile: {_NOTIFY} needs the absolute path of an agent's socket, not {path!r}")
    return {"path": path, "metadata": metadata, "state": dict(state)}


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
    import tempfile

    import pyseccomp  # here: importing it fails where the library is missing

    actions = {
        "SCMP_ACT_KILL": pyseccomp.KILL,
        "SCMP_ACT_KILL_THREAD": pyseccomp.KILL,
        "SCMP_ACT_KILL_PROCESS": pyseccomp.KILL_PROCESS,
        "SCMP_ACT_TRAP": pyseccomp.TRAP,
        "SCMP_ACT_ALLOW": pyseccomp.ALLOW,
        "SCMP_ACT_LOG": pyseccomp.LOG,
        _NOTIFY: pyseccomp.NOTIFY,
    }

    def action(name: str, errno: int | None) -> int:
        if errno is not None and name not in _WITH_ERRNO:
            raise InvalidArgument(f"seccomp profile: {name} has no errno, but {errno} is given for it")
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
    if native == _NOTIFY:
        raise InvalidArgument(f"seccomp profile: {_NOTIFY} cannot be the default action")
    filter_ = pyseccomp.SyscallFilter(default)
    filter_.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)
    for name in profile.get("architectures") or ():
        _add_architecture(pyseccomp, filter_, str(name))
    for rule in profile.get("syscalls") or ():
        if rule.get("action") == native and rule.get("errnoRet") == profile.get("defaultErrnoRet"):
            continue  # libseccomp refuses a rule that says what the default says
        wanted = action(str(rule.get("action")), rule.get("errnoRet"))
        if rule.get("action") == _NOTIFY and "sendmsg" in rule.get("names", ()):
            raise InvalidArgument(f"seccomp profile: {_NOTIFY} for sendmsg, by which the agent gets its descriptor")
        if wanted == default:
            continue
        _add_rule(pyseccomp, filter_, wanted, rule)
    with tempfile.TemporaryFile() as file:
        filter_.export_bpf(file)
        file.seek(0)
        return seccomp_missing.prologue(pyseccomp, profile) + file.read()


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
