"""System calls that Python 3.11 lacks, one function each. Mechanism only; raises `SyscallError` with call and target.

Standard library only: the zygote imports this module before it freezes its heap. `_libc` is a ``PyDLL``: calls keep the
GIL, so that `clone` returns in the child as the one thread there (single-threaded callers only). Numbers and flags:
Linux 6.1 uapi, x86_64 and arm64 (which share the numbers from 424 on).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import TYPE_CHECKING

from scow.errors import SyscallError
from scow.linux import signals

if TYPE_CHECKING:
    from collections.abc import Iterable

_libc = ctypes.PyDLL(None, use_errno=True)
_blocking = ctypes.CDLL(None, use_errno=True)  # releases the GIL: for calls that may wait, never for clone

# What monitors call, bound here: an attribute of `_libc` is looked up in vain first, which writes to more objects.
_syscall, _prctl = _libc.syscall, _libc.prctl
_malloc_trim = getattr(_libc, "malloc_trim", None)  # glibc

_OPENAT2_ATTEMPTS = 128
_X86 = os.uname().machine == "x86_64"
SYS_CLONE = 56 if _X86 else 220
SYS_PIVOT_ROOT = 155 if _X86 else 41
SYS_RT_SIGPROCMASK = 14 if _X86 else 135
SYS_RT_SIGACTION = 13 if _X86 else 134
SYS_CAPSET = 126 if _X86 else 91
SYS_KEYCTL = 250 if _X86 else 219
SYS_SECCOMP = 317 if _X86 else 277
SYS_PIDFD_SEND_SIGNAL = 424
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_FSOPEN = 430
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
SYS_CLONE3 = 435
SYS_OPENAT2 = 437
SYS_PIDFD_GETFD = 438
SYS_MOUNT_SETATTR = 442

_SIGCHLD = signals.SIGCHLD
_DEFAULT_ACTION = ctypes.create_string_buffer(32)  # struct kernel_sigaction with SIG_DFL

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PARENT = 0x00008000
CLONE_INTO_CGROUP = 0x200000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_SILENT = 32768
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25
MNT_DETACH = 2

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_SYMLINKS = 0x10
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR__ATIME = 0x70  # the whole field; relatime is 0
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_SET_CHILD_SUBREAPER = 36
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4


def _check(result: int, syscall: str, target: str = "") -> int:
    if result < 0:
        raise SyscallError(ctypes.get_errno(), syscall, target)
    return result


def _bytes(path: str | bytes | os.PathLike[str] | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


def clone(flags: int) -> int:
    """Fork with new namespaces (``CLONE_NEW*``); 0 in the child. Only for single-threaded processes (clone(2))."""
    result: int = _syscall(SYS_CLONE, ctypes.c_ulong(flags | _SIGCHLD), None, None, None, None)
    return _check(result, "clone")


def clone3_into_cgroup(flags: int, cgroup_fd: int) -> int:
    """As `clone`, the child being born in the cgroup v2 directory *cgroup_fd* (Linux 5.7)."""
    args = struct.pack("=11Q", flags | CLONE_INTO_CGROUP, 0, 0, 0, _SIGCHLD, 0, 0, 0, 0, 0, cgroup_fd)
    buffer = ctypes.create_string_buffer(args, len(args))
    result: int = _libc.syscall(SYS_CLONE3, buffer, ctypes.c_size_t(len(args)))
    return _check(result, "clone3")


def unshare(flags: int) -> None:
    """The caller is in new namespaces of the kinds in *flags* (unshare(2))."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare", hex(flags))


def setns(fd: int, flags: int) -> None:
    """The caller is in the namespace of *fd*, or in those kinds in *flags* of the pidfd *fd* (Linux 5.8)."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(flags)), "setns", hex(flags))


def mount(source: str | None, target: str, fstype: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    _check(
        _libc.mount(_bytes(source), _bytes(target), _bytes(fstype), ctypes.c_ulong(flags), _bytes(data)),
        "mount",
        target,
    )


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(_bytes(target), ctypes.c_int(flags)), "umount", target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _check(_libc.syscall(SYS_PIVOT_ROOT, _bytes(new_root), _bytes(put_old)), "pivot_root", new_root)


def open_tree(dirfd: int, path: str, flags: int) -> int:
    """A descriptor of the mount at *path*, of a detached copy with ``OPEN_TREE_CLONE`` (Linux 5.2)."""
    result: int = _syscall(SYS_OPEN_TREE, dirfd, _bytes(path), flags)
    return _check(result, "open_tree", path)


def move_mount(from_fd: int, from_path: str, to_fd: int, to_path: str, flags: int) -> None:
    """Attaches or moves a mount (Linux 5.2)."""
    moved = _syscall(SYS_MOVE_MOUNT, from_fd, _bytes(from_path), to_fd, _bytes(to_path), flags)
    _check(moved, "move_mount", to_path)


def fsopen(fstype: str) -> int:
    """A context to configure a new filesystem of *fstype* (Linux 5.2)."""
    result: int = _libc.syscall(SYS_FSOPEN, _bytes(fstype), ctypes.c_uint(FSOPEN_CLOEXEC))
    return _check(result, "fsopen", fstype)


def fsconfig(fd: int, command: int, key: str | None = None, value: str | None = None, aux: int = 0) -> None:
    """Sets one parameter of, or with ``FSCONFIG_CMD_CREATE`` makes, the filesystem of context *fd* (Linux 5.2)."""
    _check(
        _libc.syscall(
            SYS_FSCONFIG, ctypes.c_int(fd), ctypes.c_uint(command), _bytes(key), _bytes(value), ctypes.c_int(aux)
        ),
        "fsconfig",
        f"{key}={value}",
    )


def fsmount(fd: int, attributes: int = 0) -> int:
    """A detached mount of the filesystem that context *fd* made; *attributes* are ``MOUNT_ATTR_*`` (Linux 5.2)."""
    result: int = _libc.syscall(
        SYS_FSMOUNT, ctypes.c_int(fd), ctypes.c_uint(FSMOUNT_CLOEXEC), ctypes.c_uint(attributes)
    )
    return _check(result, "fsmount")


def mount_setattr(
    dirfd: int,
    path: str,
    flags: int,
    set_attributes: int = 0,
    clear_attributes: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
) -> None:
    """Changes the attributes of a mount, or of a tree of them with ``AT_RECURSIVE`` (Linux 5.12)."""
    args = struct.pack("=4Q", set_attributes, clear_attributes, propagation, userns_fd)
    _check(_syscall(SYS_MOUNT_SETATTR, dirfd, _bytes(path), flags, args, len(args)), "mount_setattr", path)


def openat2(dirfd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Opens *path* below *dirfd* under the ``RESOLVE_*`` rules (Linux 5.6); close-on-exec.

    EAGAIN, which any rename or mount on the host may cause where *path* has a ``..``, is tried again, as openat2(2)
    advises."""
    args = struct.pack("=3Q", flags | os.O_CLOEXEC, mode, resolve)
    name = _bytes(path)
    for _ in range(_OPENAT2_ATTEMPTS):
        result: int = _syscall(SYS_OPENAT2, dirfd, name, args, len(args))
        if result >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
    return _check(result, "openat2", os.fsdecode(path))


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """Every descriptor from *first* to *last* is closed (Linux 5.9, glibc 2.34)."""
    _check(_libc.close_range(ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_int(flags)), "close_range")


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2), for arguments of 31 bits."""
    return _check(_prctl(option, arg2, arg3, arg4, arg5), "prctl", str(option))


def set_name(name: bytes) -> None:
    """The thread is called *name* (15 bytes at most) in ps and top."""
    _check(_prctl(PR_SET_NAME, name[:15], 0, 0, 0), "prctl", "PR_SET_NAME")


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """The thread's three capability sets are these bit masks (capset(2), version 3)."""
    header = struct.pack("=Ii", 0x20080522, 0)
    low, high = 0xFFFFFFFF, 32
    data = struct.pack(
        "=6I",
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> high,
        permitted >> high,
        inheritable >> high,
    )
    _check(
        _libc.syscall(
            SYS_CAPSET, ctypes.create_string_buffer(header, len(header)), ctypes.create_string_buffer(data, len(data))
        ),
        "capset",
    )


def set_signal_mask(mask: int) -> int:
    """The thread blocks the signals in *mask* (bit 0 is signal 1); answers the mask before. As `signal.pthread_sigmask`
    without its sets of enumeration members, which cost a forked process 200 page faults."""
    new, old = ctypes.c_uint64(mask), ctypes.c_uint64()
    _check(
        _libc.syscall(
            SYS_RT_SIGPROCMASK,
            ctypes.c_int(signals.SIG_SETMASK),
            ctypes.byref(new),
            ctypes.byref(old),
            ctypes.c_size_t(8),
        ),
        "rt_sigprocmask",
    )
    return old.value


def reset_signal_handlers(numbers: Iterable[int] = range(1, 65)) -> None:
    """Every signal has its default action, behind the back of the `signal` module: for a process that will execve.
    *numbers*: those that may have another one, see `changed_signals`."""
    for number in numbers:  # glibc refuses to touch 32 and 33, which a parent may have left ignored
        _libc.syscall(SYS_RT_SIGACTION, number, _DEFAULT_ACTION, None, 8)  # EINVAL for SIGKILL and SIGSTOP


def changed_signals() -> tuple[int, ...]:
    """The signals that the process ignores or handles (proc(5), SigIgn and SigCgt of status)."""
    with open("/proc/self/status", encoding="utf-8") as lines:
        masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigIgn:", "SigCgt:"))]
    return tuple(number for number in range(1, 65) if any(mask >> (number - 1) & 1 for mask in masks))


def trim_heap() -> None:
    """Whole free pages of the C heap are the kernel's again (malloc_trim(3)); nothing where the C library cannot."""
    if _malloc_trim is not None:
        _malloc_trim(0)


def join_session_keyring() -> None:
    """The thread has a new anonymous session keyring (keyctl(2), ``KEYCTL_JOIN_SESSION_KEYRING``)."""
    _check(_libc.syscall(SYS_KEYCTL, ctypes.c_int(1), None, 0, 0, 0), "keyctl", "join session keyring")


def seccomp_filter(program: bytes, flags: int = 0) -> int:
    """The thread's system calls pass the classic BPF *program* (``sock_filter`` of 8 bytes each; seccomp(2)). Answers
    the agent's descriptor with ``SECCOMP_FILTER_FLAG_NEW_LISTENER``, else 0."""
    instructions = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(instructions)), 16)
    result: int = _libc.syscall(SYS_SECCOMP, ctypes.c_uint(1), ctypes.c_uint(flags), header)
    return _check(result, "seccomp", "set filter")


def pidfd_send_signal(pidfd: int, signum: int) -> None:
    """The process of *pidfd* got *signum* (Linux 5.1)."""
    _check(
        _libc.syscall(SYS_PIDFD_SEND_SIGNAL, ctypes.c_int(pidfd), ctypes.c_int(signum), None, ctypes.c_uint(0)),
        "pidfd_send_signal",
    )


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A duplicate, close-on-exec, of *fd* of the process of *pidfd* (Linux 5.6; needs the right to trace it)."""
    result: int = _libc.syscall(SYS_PIDFD_GETFD, ctypes.c_int(pidfd), ctypes.c_int(fd), ctypes.c_uint(0))
    return _check(result, "pidfd_getfd", str(fd))


def sethostname(name: str) -> None:
    """The host name of the caller's UTS namespace is *name*."""
    data = os.fsencode(name)
    _check(_libc.sethostname(data, ctypes.c_size_t(len(data))), "sethostname", name)


def setdomainname(name: str) -> None:
    """The NIS domain name of the caller's UTS namespace is *name*."""
    data = os.fsencode(name)
    _check(_libc.setdomainname(data, ctypes.c_size_t(len(data))), "setdomainname", name)
