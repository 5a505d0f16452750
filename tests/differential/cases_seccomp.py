"""``linux.seccomp``: what a filter does with the system calls of busybox's applets."""

from __future__ import annotations

import array
import errno
import fcntl
import json
import os
import socket
import struct
import threading
from pathlib import Path

from tests.differential.bundle import root_capabilities
from tests.differential.corpus import Observed, Spec, case
from tests.differential.run import Run, to_the_end

_MKDIR = {"names": ["mkdir", "mkdirat"]}
_TRY = {"mkdir": "mkdir /tmp/d; echo $?", "there": "ls -A /tmp"}
_NOTIF_RECV = 0xC0502100  # SECCOMP_IOCTL_NOTIF_RECV: struct seccomp_notif, 80 bytes
_NOTIF_SEND = 0xC0182101


def filter(spec: Spec, *rules: Spec, default: str = "SCMP_ACT_ALLOW", **more: object) -> None:
    """*spec* has a seccomp filter with these rules."""
    spec["linux"]["seccomp"] = {
        "defaultAction": default,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": list(rules),
        **more,
    }


def compared(index: int, value: int, op: str, second: int = 0) -> Spec:
    """A condition on an argument."""
    return {"index": index, "value": value, "valueTwo": second, "op": f"SCMP_CMP_{op}"}


@case("status", sh=_TRY, sample=True)
def seccomp_errno(spec: Spec, run: Run) -> None:
    """A call that is answered with EPERM."""
    filter(spec, {**_MKDIR, "action": "SCMP_ACT_ERRNO"})


@case("status", sh=_TRY)
def seccomp_errno_with_new_privileges(spec: Spec, run: Run) -> None:
    """The same where new privileges are allowed."""
    filter(spec, {**_MKDIR, "action": "SCMP_ACT_ERRNO"})
    spec["process"]["noNewPrivileges"] = False


@case(sh=_TRY, sample=True)
def seccomp_errno_given(spec: Spec, run: Run) -> None:
    """A call that is answered with an error of choice."""
    filter(spec, {**_MKDIR, "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSPC})


@case(sh=_TRY)
def seccomp_errno_zero(spec: Spec, run: Run) -> None:
    """The error 0: the call seems to succeed and does nothing."""
    filter(spec, {**_MKDIR, "action": "SCMP_ACT_ERRNO", "errnoRet": 0})


@case(sh=_TRY)
def seccomp_kill(spec: Spec, run: Run) -> None:
    """A call that kills the process."""
    filter(spec, {**_MKDIR, "action": "SCMP_ACT_KILL_PROCESS"})


@case(sh=_TRY)
def seccomp_kill_thread(spec: Spec, run: Run) -> None:
    """A call that kills the thread, by its two names."""
    filter(
        spec, {"names": ["mkdir"], "action": "SCMP_ACT_KILL"}, {"names": ["mkdirat"], "action": "SCMP_ACT_KILL_THREAD"}
    )


@case(sh=_TRY)
def seccomp_trap(spec: Spec, run: Run) -> None:
    """A call that raises SIGSYS."""
    filter(spec, {**_MKDIR, "action": "SCMP_ACT_TRAP"})


@case(sh=_TRY)
def seccomp_log(spec: Spec, run: Run) -> None:
    """A call that is logged and done."""
    filter(spec, {**_MKDIR, "action": "SCMP_ACT_LOG"})


@case(sh=_TRY)
def seccomp_trace(spec: Spec, run: Run) -> None:
    """A call for a tracer that is not there."""
    filter(spec, {**_MKDIR, "action": "SCMP_ACT_TRACE", "errnoRet": 7})


@case(sh=_TRY)
def seccomp_default_errno(spec: Spec, run: Run) -> None:
    """A filter that allows by name, with an error of choice for the rest."""
    names = sorted(_EVERYDAY)
    filter(spec, {"names": names, "action": "SCMP_ACT_ALLOW"}, default="SCMP_ACT_ERRNO", defaultErrnoRet=errno.EXDEV)


_WORDS = (
    "access arch_prctl brk capget capset chdir clone clone3 close close_range dup dup2 dup3 execve exit "
    "exit_group faccessat faccessat2 fchdir fcntl fstat fstatfs futex getcwd getdents getdents64 getegid "
    "geteuid getgid getpgrp getpid getppid getrandom getrlimit gettid getuid ioctl lseek lstat mmap "
    "mprotect mremap munmap nanosleep newfstatat open openat pipe pipe2 poll ppoll prctl pread64 prlimit64 "
    "read readlink readlinkat rseq rt_sigaction rt_sigprocmask rt_sigreturn rt_sigsuspend sendfile "
    "set_robust_list set_tid_address setgid setgroups setuid setpgid setsid sigaltstack stat statfs statx "
    "sysinfo tgkill time uname unshare vfork wait4 waitid write writev setresuid setresgid epoll_wait "
    "epoll_ctl epoll_create1 epoll_pwait sched_yield sched_getaffinity madvise kill umask getpeername "
    "openat2 recvfrom recvmsg sendmsg sendto setns getsockname clock_gettime keyctl seccomp pidfd_open "
)
_EVERYDAY = frozenset(_WORDS.split())  # what a shell and its applets need, and a runtime until execve


@case(sh={"chmod": "touch /tmp/f; for m in 600 644 755 700; do chmod $m /tmp/f; echo $m $?; done"}, sample=True)
def seccomp_argument_equal(spec: Spec, run: Run) -> None:
    """A rule for one value of an argument."""
    filter(spec, {"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "args": [compared(1, 0o644, "EQ")]},
           {"names": ["fchmodat"], "action": "SCMP_ACT_ERRNO", "args": [compared(2, 0o644, "EQ")]})  # fmt: skip


_CHMOD = "touch /tmp/f; for m in 600 644 755 700; do chmod $m /tmp/f 2> /dev/null; echo $m $?; done"


def _compares(name: str, *conditions: tuple[int, str, int]) -> None:
    def change(spec: Spec, run: Run) -> None:
        filter(
            spec,
            *(
                {
                    "names": [call],
                    "action": "SCMP_ACT_ERRNO",
                    "args": [compared(index, value, op, second) for value, op, second in conditions],
                }
                for call, index in (("chmod", 1), ("fchmodat", 2))
            ),
        )

    change.__name__ = f"seccomp_argument_{name}"
    change.__doc__ = f"A rule with {' and '.join(op for _, op, _ in conditions)} for an argument."
    case(sh={"chmod": _CHMOD})(change)


_compares("different", (0o644, "NE", 0))
_compares("less", (0o644, "LT", 0))
_compares("less_or_equal", (0o644, "LE", 0))
_compares("greater", (0o644, "GT", 0))
_compares("greater_or_equal", (0o644, "GE", 0))
_compares("masked", (0o700, "MASKED_EQ", 0o700))
_compares("between", (0o600, "GT", 0), (0o755, "LT", 0))


@case(sh={"kill": "sleep 1 & for s in 0 18 9; do kill -$s $! 2> /dev/null; echo $s $?; done"})
def seccomp_two_arguments(spec: Spec, run: Run) -> None:
    """A rule for two arguments."""
    conditions = [compared(0, 1, "GT"), compared(1, 18, "EQ")]
    filter(spec, {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ESRCH, "args": conditions})


@case(sh=_TRY)
def seccomp_unknown_call(spec: Spec, run: Run) -> None:
    """A call that nobody knows is passed over."""
    filter(spec, {"names": ["mkdir", "mkdirat", "fly"], "action": "SCMP_ACT_ERRNO"})


@case()
def seccomp_unknown_action(spec: Spec, run: Run) -> None:
    """An action that nobody knows is an error."""
    filter(spec, {**_MKDIR, "action": "SCMP_ACT_FLY"})


@case()
def seccomp_unknown_operator(spec: Spec, run: Run) -> None:
    """An operator that nobody knows is an error."""
    filter(spec, {**_MKDIR, "action": "SCMP_ACT_ERRNO", "args": [compared(0, 1, "FLY")]})


@case()
def seccomp_unknown_architecture(spec: Spec, run: Run) -> None:
    """An architecture that nobody knows is an error."""
    filter(spec, {**_MKDIR, "action": "SCMP_ACT_ERRNO"}, architectures=["SCMP_ARCH_FLY"])


@case("status", sh=_TRY)
def seccomp_more_architectures(spec: Spec, run: Run) -> None:
    """A filter for three architectures."""
    words = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    filter(spec, {**_MKDIR, "action": "SCMP_ACT_ERRNO"}, architectures=words)


@case("status", sh=_TRY)
def seccomp_without_architectures(spec: Spec, run: Run) -> None:
    """A filter for the machine's own architecture."""
    filter(spec, {**_MKDIR, "action": "SCMP_ACT_ERRNO"})
    del spec["linux"]["seccomp"]["architectures"]


@case("status", sh=_TRY)
def seccomp_flags(spec: Spec, run: Run) -> None:
    """Flags of the filter: log, and speculation allowed."""
    flags = ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    filter(spec, {**_MKDIR, "action": "SCMP_ACT_ERRNO"}, flags=flags)


@case("status")
def seccomp_no_flags(spec: Spec, run: Run) -> None:
    """An empty list of flags."""
    filter(spec, {**_MKDIR, "action": "SCMP_ACT_ERRNO"}, flags=[])


@case()
def seccomp_unknown_flag(spec: Spec, run: Run) -> None:
    """A flag that nobody knows is an error."""
    filter(spec, {**_MKDIR, "action": "SCMP_ACT_ERRNO"}, flags=["SECCOMP_FILTER_FLAG_FLY"])


@case("status", sh=_TRY)
def seccomp_that_allows_all(spec: Spec, run: Run) -> None:
    """A filter whose rules say what the default says."""
    filter(spec, {**_MKDIR, "action": "SCMP_ACT_ALLOW"})


@case(sh=_TRY)
def seccomp_for_a_user(spec: Spec, run: Run) -> None:
    """The filter of a user without capabilities."""
    filter(spec, {**_MKDIR, "action": "SCMP_ACT_ERRNO"})
    spec["process"].update(user={"uid": 8, "gid": 12}, capabilities={}, noNewPrivileges=False)


class Listener:
    """Takes the notifying descriptor of a filter, and answers each call with *error*."""

    def __init__(self, path: Path, error: int) -> None:
        self.state: Spec = {}
        self.calls = 0
        self._error = error
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._socket.settimeout(10)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return
        with connection:
            message, fds, _, _ = socket.recv_fds(connection, 1 << 16, 1)
        if not fds:
            return
        self.state = json.loads(message)
        try:
            while True:
                call = array.array("B", bytes(80))
                fcntl.ioctl(fds[0], _NOTIF_RECV, call)
                self.calls += 1
                fcntl.ioctl(
                    fds[0], _NOTIF_SEND, struct.pack("=QqiI", *struct.unpack_from("=Q", call), 0, -self._error, 0)
                )
        except OSError:  # the last process of the filter has ended
            pass
        finally:
            os.close(fds[0])

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)


def _notified(run: Run) -> Observed:
    listener = Listener(run.folder / "notify", errno.EDQUOT)
    try:
        observed = to_the_end(run)
    finally:
        listener.close()
    state = listener.state
    observed["descriptors"] = " ".join(state.get("fds", ()))
    observed["metadata"] = state.get("metadata", "")
    observed["state"] = " ".join(f"{key}={state.get('state', {}).get(key)}" for key in ("id", "status", "bundle"))
    observed["process"] = str(bool(state.get("pid")) and state["pid"] == state["state"]["pid"])
    observed["calls"] = str(listener.calls)
    return observed


@case(sh={"mkdir": "mkdir /tmp/d"}, drive=_notified)
def seccomp_notify(spec: Spec, run: Run) -> None:
    """A call that another process answers, by ``listenerPath``."""
    filter(
        spec,
        {**_MKDIR, "action": "SCMP_ACT_NOTIFY"},
        listenerPath=str(run.folder / "notify"),
        listenerMetadata="of the case",
    )
    root_capabilities(spec)
