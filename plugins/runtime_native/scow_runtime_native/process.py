"""The last steps of a container process: limits, user, capabilities, seccomp, working directory, execve.

*spec* is the ``process`` part of a plan (`scow_runtime_native.plan.process_plan`). Runs after the fork.
"""

from __future__ import annotations

import binascii
import errno
import fcntl
import os
import resource
import stat
import struct
import termios
from typing import TYPE_CHECKING, Any, NoReturn

from scow.linux import syscalls as sys
from scow.linux import users
from scow_runtime_native import execute, lookup, notify, reaper, scheduling
from scow_runtime_native.failure import CANNOT_RUN, StageError, describe, stage

if TYPE_CHECKING:
    from collections.abc import Callable

START_FD = 3
STATUS_FD = 4
_READY = b'{"ready": true}\n'


def prepare(spec: dict[str, Any], init_pid: int = 0) -> None:
    """What needs the host's /proc and paths: the OOM score, the labels that execve changes to, and the seccomp agent.
    *init_pid*: the container's init, for an exec."""
    set_oom_score(spec)
    for file, text in spec["labels"]:
        with stage(f"security label {text}"):
            _write(f"/proc/self/attr/{file}", text.encode())
    if spec["seccomp_listener"]:
        notify.connect(spec["seccomp_listener"], init_pid)


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def set_oom_score(spec: dict[str, Any], pid: str = "self") -> None:
    """The OOM score of the process *pid* is what *spec* says, if it says."""
    value = spec["oom_score_adj"]
    if value is None:
        return
    try:
        _write(f"/proc/{pid}/oom_score_adj", str(value).encode())
    except OSError as error:
        if spec["oom_score_asked"]:
            raise StageError(
                f"cannot set oom_score_adj to {value}: {describe(error)}",
                stage="",
                errno=error.errno or 0,
                hint="lowering it needs CAP_SYS_RESOURCE, which the engine does not have here",
            ) from error


def _set_rlimits(spec: dict[str, Any]) -> None:
    for name, number, soft, hard in spec["rlimits"]:
        try:
            resource.setrlimit(number, (soft, hard))
        except (OSError, ValueError) as error:
            raise limit_refused(name, soft, hard, resource.getrlimit(number)[1], error) from error


def limit_refused(name: str, soft: int, hard: int, had: int, error: Exception) -> StageError:
    """What is said where a limit cannot be set."""
    return StageError(
        f"cannot set ulimit {name} to {soft}:{hard}: the hard limit here is {had}",
        stage="",
        errno=getattr(error, "errno", 0) or errno.EPERM,
        hint="raising a hard limit needs CAP_SYS_RESOURCE, which the engine does not have here",
    )


def run(spec: dict[str, Any], tty: bool, *, root_fd: int, master: int, reaper_wanted: bool = False) -> NoReturn:
    """The process says that it is ready, waits for its start, and becomes ``spec["args"]``. Ends by ``_exit`` when the
    start pipe closes unwritten. *master* is of the terminal it made, for the monitor to take, or -1. With
    *reaper_wanted* this process stays as the container's init and runs the program as its child."""
    environment = settle(spec, tty, root_fd, controlling=tty and not reaper_wanted)
    wait_for_start(master)
    if "before_execve" in spec:
        spec["before_execve"]()
    if reaper_wanted:
        reaper.split(tty, STATUS_FD)
    execute.execute(spec["args"], environment)


def settle(
    spec: dict[str, Any], tty: bool, root_fd: int, *, controlling: bool, cover: Callable[[bytes], bytes] = bytes
) -> dict[str, str]:
    """Everything of *spec* holds but the program: its environment. *root_fd* is closed. With *controlling* standard
    input is the controlling terminal; *cover* makes the seccomp filter that is loaded from the one of *spec*."""
    with stage("looking up the user"):
        user = users.resolve(root_fd, spec["user"], spec["groups"], exact=not spec["named_user"])
    os.close(root_fd)
    environment = _environment(spec["env"], user.home)
    if controlling:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    if tty and spec["console_size"]:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", *spec["console_size"], 0, 0))
    reached = _change_directory(spec["cwd"], required=False)
    _give_stdio(user.uid)
    _set_rlimits(spec)  # late: a low limit must not fail the set-up
    if spec["scheduling"]:
        scheduling.apply(spec["scheduling"])
    _set_identity(spec, user, cover)
    if not reached:
        _change_directory(spec["cwd"], required=True)
    os.umask(spec["umask"])
    if spec.get("look_up"):
        lookup.look_up(spec["args"][0], environment)
    return environment


def wait_for_start(master: int) -> None:
    """The monitor was told that the process is set up, and has answered; it has taken *master* where that is not -1.
    Ends the process where it is not wanted any more. Nothing is open now but stdio and the status pipe."""
    os.write(STATUS_FD, _READY if master < 0 else b'{"ready": true, "console_fd": %d}\n' % master)
    if not os.read(START_FD, 1):
        os._exit(0)
    os.close(START_FD)
    if master >= 0:
        os.close(master)


def _environment(env: list[str], home: str) -> dict[str, str]:
    environment = dict(item.split("=", 1) for item in env if "=" in item)
    if not environment.get("HOME"):
        environment["HOME"] = home
    return environment


def _change_directory(cwd: str, *, required: bool) -> bool:
    """The working directory is *cwd*, inside the root (CVE-2024-21626); False where only the container's user may."""
    try:
        os.chdir(cwd)
    except PermissionError as error:
        if required:
            raise _bad_cwd(cwd, error.errno or errno.EACCES) from error
        return False
    except OSError as error:
        raise _bad_cwd(cwd, error.errno or 0) from error
    try:
        real = os.getcwd()
    except OSError as error:
        raise _bad_cwd(cwd, error.errno or 0) from error
    if not real.startswith("/"):  # glibc 2.27 and newer fail instead; musl answers "(unreachable)…"
        raise _bad_cwd(cwd, errno.ENOENT)
    return True


def _bad_cwd(cwd: str, number: int) -> StageError:
    text = os.strerror(number).lower()
    return StageError(
        f'cannot change to the working directory "{cwd}": {text}', stage="chdir", kind=CANNOT_RUN, errno=number
    )


def _give_stdio(uid: int) -> None:
    """Pipes and terminals belong to the user, so that /dev/stdout can be opened again (moby#31243)."""
    if uid == 0:
        return
    for fd in (0, 1, 2):
        has = os.fstat(fd)
        if has.st_uid == uid or (stat.S_ISCHR(has.st_mode) and has.st_rdev == os.makedev(1, 3)):
            continue
        try:
            os.fchown(fd, uid, has.st_gid)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM, errno.EROFS):
                raise


def _set_user(user: users.User) -> None:
    try:
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        groups = ",".join(map(str, user.groups))
        raise StageError(
            f"user {user.uid} with groups {groups}: the user namespace does not have all of these ids",
            stage="setting the user",
            errno=errno.EINVAL,
            hint="it has those that /proc/<pid>/uid_map and gid_map of the container show",
        ) from error


def _set_identity(spec: dict[str, Any], user: users.User, cover: Callable[[bytes], bytes]) -> None:
    """User, groups, capabilities, no_new_privs and the seccomp filter hold.

    The filter is loaded while CAP_SYS_ADMIN is there, or last of all where no_new_privs allows that.
    """
    with stage("capabilities"):
        for capability in spec["bounding_drop"]:
            sys.prctl(sys.PR_CAPBSET_DROP, capability)
    program = cover(binascii.a2b_base64(spec["seccomp"])) if spec["seccomp"] else b""
    if program and not spec["no_new_privs"]:
        _filter(spec, program)
    with stage("setting the user"):
        if user.uid:
            sys.prctl(sys.PR_SET_KEEPCAPS, 1)
        _set_user(user)
    with stage("capabilities"):
        caps = spec["capabilities"]
        if user.uid and spec["named_user"]:  # by the engine, which as Docker gives them to root only
            caps = {"effective": 0, "permitted": 0, "inheritable": 0, "ambient": ()}
        sys.capset(caps["effective"], caps["permitted"], caps["inheritable"])
        if user.uid:
            sys.prctl(sys.PR_SET_KEEPCAPS, 0)
        for capability in caps["ambient"]:
            sys.prctl(sys.PR_CAP_AMBIENT, sys.PR_CAP_AMBIENT_RAISE, capability)
    if spec["no_new_privs"]:
        with stage("no_new_privs"):
            sys.prctl(sys.PR_SET_NO_NEW_PRIVS, 1)
        if program:
            _filter(spec, program)


def _filter(spec: dict[str, Any], program: bytes) -> None:
    with stage("seccomp"):
        listener_fd = sys.seccomp_filter(program, spec["seccomp_flags"])
        if spec["seccomp_listener"]:
            notify.hand_over(spec["seccomp_listener"], listener_fd)
