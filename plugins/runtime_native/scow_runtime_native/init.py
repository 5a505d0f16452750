"""What a container's first process does between clone and execve, in order; each step names its stage in errors.

Runs with stdio as descriptors 0 to 2, the start pipe as 3 and the status pipe as 4, nothing else open. Standard library
and ``scow.linux`` only; nothing is imported here after the fork.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import functools
import os
import struct
from typing import TYPE_CHECKING, Any, NoReturn

from scow.errors import SyscallError
from scow.linux import syscalls as sys
from scow_runtime_native import handover, hooks, process, rootfs, userns
from scow_runtime_native.failure import StageError, stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scow.linux.siblings import Birth

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def run(plan: dict[str, Any], tty: bool, birth: Birth | None = None, *, has: int = 0) -> NoReturn:
    """The process becomes the container's init; *plan* is what `scow_runtime_native.plan` made. In the PID namespace of
    another container it is one that the process leaves behind, told by *birth*. *has*: the new namespaces that an
    `embryo` is in, set up."""
    if not has:
        os.setsid()
    with stage("joining the cgroup"):
        join_cgroup(plan["cgroup"], 0)
    if has:
        with stage("namespaces"):
            sys.unshare(plan["clone"] & ~has)
    handed = userns.arrive(plan, apart=bool(has)) if plan["userns"] else None
    with stage("namespaces"):
        for path, kind in plan["join"]:
            _join(path, kind)
        if plan["cgroupns"]:
            sys.unshare(sys.CLONE_NEWCGROUP)
        if plan["hostname"]:
            sys.sethostname(plan["hostname"])
        if plan["domainname"]:
            sys.setdomainname(plan["domainname"])
        if plan["loopback"] and not has & sys.CLONE_NEWNET:
            bring_up_loopback()
        if plan.get("new_keyring", True) and (not has or has & sys.CLONE_NEWUSER):
            new_keyring()
    with stage("sysctl"):
        write_sysctls(plan["sysctls"])
    spec = plan["process"]
    process.prepare(spec)
    with stage("namespaces"):
        others = -1
        if birth is not None and handed is None:  # of a user namespace `userns.arrive` has joined it
            others = os.open(plan["join_pid"], os.O_RDONLY | os.O_CLOEXEC)
        if plan["join_mount"]:
            _join(plan["join_mount"], sys.CLONE_NEWNS)
    root_fd, master = rootfs.enter(plan, tty, handed)
    if "startContainer" in plan["hooks"]:
        spec["before_execve"] = functools.partial(hooks.before_execve, plan)
    if birth is None:
        process.run(spec, tty, root_fd=root_fd, master=master, reaper_wanted=plan["init"])
    if others >= 0:  # so late that no hook is a process which the other container may trace
        _enter(others, sys.CLONE_NEWPID, plan["join_pid"])
    handover.run(spec, tty, birth, root_fd=root_fd, master=master, reaper_wanted=plan["init"])


def join_cgroup(cgroup: dict[str, Any], init_pid: int) -> None:
    """The caller is in the container's cgroup. Version 1: ``0`` into each ``tasks`` while single-threaded, which skips
    the RCU wait that any other pid costs (0.3 ms against 13 ms over 8 hierarchies)."""
    for path in cgroup.get("tasks", ()):
        _write(path, b"0")
    if cgroup.get("join"):
        with open(f"/proc/{init_pid}/cgroup", encoding="utf-8") as lines:
            own = next(line.strip().split("::", 1)[1] for line in lines if line.startswith("0::"))
        _write(f"{cgroup['mount']}{own}/cgroup.procs", b"0")


def _join(path: str, kind: int) -> None:
    _enter(os.open(path, os.O_RDONLY | os.O_CLOEXEC), kind, path)


def _enter(namespace: int, kind: int, path: str) -> None:
    """The caller is in the *namespace* that was opened at *path*; the descriptor is closed."""
    try:
        sys.setns(namespace, kind)
    except SyscallError as error:
        if error.errno != errno.EINVAL:
            raise
        raise StageError(
            f"{path} is no namespace of the kind that the spec says",
            stage="namespaces",
            errno=errno.EINVAL,
            hint="or, for a user or time namespace, the process cannot be moved there",
        ) from error
    finally:
        os.close(namespace)


def bring_up_loopback() -> None:
    """``lo`` of the caller's network namespace is up, without netlink (netdevice(7))."""
    control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)  # `socket` costs memory and time, for names alone
    try:
        request = struct.pack("16sh22x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(control.fileno(), _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(control.fileno(), _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
    finally:
        control.close()


def new_keyring() -> None:
    """The process has a session keyring of its own; not where the kernel has no keyrings or the quota is used up."""
    try:
        sys.join_session_keyring()
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EDQUOT, errno.EPERM):
            raise


def write_sysctls(sysctls: Iterable[tuple[str, str]]) -> None:
    """Through the host's /proc, which shows the caller's namespaces and cannot be faked by an image."""
    for path, value in sysctls:
        try:
            _write(path, value.encode())
        except OSError as error:
            name = path.removeprefix("/proc/sys/").replace("/", ".")
            text = os.strerror(error.errno or 0).lower()
            raise StageError(f"cannot set sysctl {name} to {value!r}: {text}", stage="", errno=error.errno or 0)


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
