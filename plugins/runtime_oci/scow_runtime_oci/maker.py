"""The maker of one process: a short-lived child of the monitor that runs the runtime program and speaks for it.

Runs with stdio as descriptors 0 to 2, the start pipe as 3 and the status pipe as 4. The root is mounted in a mount
namespace of the maker's own, in which the program makes its container: nothing of it is seen on the host, and what the
container does not keep ends with the maker. Standard library and ``scow.linux`` only; nothing is imported here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import termios
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from scow.errors import ScowError
from scow.linux import mounts, users
from scow.linux import syscalls as sys
from scow_runtime_oci import elsewhere, program
from scow_runtime_oci.console import Console

if TYPE_CHECKING:
    from collections.abc import Sequence

START_FD = 3
STATUS_FD = 4


class Recipe(NamedTuple):
    """`scow.ports.Mount`, without importing it."""

    type: str
    source: str
    target: str
    options: Sequence[str]


class Failed(ScowError):
    """The runtime program failed; *kind* decides the exit code that the client sees."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


def make_init(plan: dict[str, Any], tty: bool) -> NoReturn:
    """The container's init is made, named, and started when the byte comes."""
    os.chdir(plan["bundle"])
    sys.unshare(sys.CLONE_NEWNS)
    _own_namespace(plan)
    root = [Recipe(*recipe) for recipe in plan["root"]]
    if all(mount.target for mount in root):
        root.insert(0, Recipe("bind", plan["rootfs"], "", ("rbind",)))
    mounts.mount_all(root, plan["rootfs"])
    _complete(plan)
    words = ["create", "--bundle", plan["bundle"], "--pid-file", plan["pid_file"]]
    pidfd, master = _make(plan, tty, words, [plan["id"]])
    _await_start(pidfd)
    if master >= 0:
        os.close(master)
    log = f"{plan['log']}.start"
    try:
        _run(plan["command"], log, ["start", plan["id"]], _null(), until_cancelled=False)
    except BaseException:
        _kill(pidfd)
        raise
    os._exit(0)


def make_exec(plan: dict[str, Any], init_pid: int, tty: bool) -> NoReturn:
    """A further process is made, running, and named; what runs is killed where the start byte does not come."""
    os.chdir(plan["bundle"])
    if plan["hide_unified"]:
        sys.unshare(sys.CLONE_NEWNS)
        program.hide_unified()
    unique = f"{plan['bundle']}/exec-{os.getpid()}"
    plan = {**plan, "pid_file": f"{unique}.pid", "log": f"{unique}.log"}
    root_fd = os.open(f"/proc/{init_pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    process = identified(plan["process"], root_fd)
    os.close(root_fd)
    if tty:
        process["consoleSize"] = _window(0)
    file = f"{unique}.json"
    _write(file, process)
    words = ["exec", "--detach", "--process", file, "--pid-file", plan["pid_file"]]
    try:
        pidfd, master = _make(plan, tty, words, [plan["id"]])
    finally:
        os.unlink(file)
    _await_start(pidfd)
    os._exit(0)


def _window(fd: int) -> dict[str, int]:
    """The size of the terminal *fd*, which the monitor made: the program gives it to the one that it makes, in which
    the process runs before the monitor has it (ioctl_tty(2))."""
    rows, columns, _x, _y = struct.unpack("4H", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
    return {"height": rows, "width": columns}


def identified(process: dict[str, Any], root_fd: int) -> dict[str, Any]:
    """The OCI *process* with numbers for its user, looked up below *root_fd*: ``user.username`` and ``user.groups`` are
    Scow's own, and any program would take ``uid`` 0 for them. HOME is the user's unless the environment has one."""
    asked = process.get("user") or {}
    wanted = asked.get("username") or f"{asked.get('uid', 0)}:{asked.get('gid', 0)}"
    groups = [*asked.get("groups", ()), *map(str, asked.get("additionalGids", ()))]
    user = users.resolve(root_fd, wanted, groups)
    env = [item for item in process.get("env") or () if item != "HOME="]
    if not any(item.startswith("HOME=") for item in env):
        env.append(f"HOME={user.home}")
    numbers: dict[str, Any] = {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups}
    if "umask" in asked:
        numbers["umask"] = asked["umask"]
    return {**process, "user": numbers, "env": env}


def _own_namespace(plan: dict[str, Any]) -> None:
    """What is mounted from here on is seen by no other namespace. Where volumes share their mounts with the host, only
    the mount that the root is in stops doing so: the others must stay peers of the host's (as runc has it)."""
    if plan["private"]:
        sys.mount(None, plan["private"], None, sys.MS_PRIVATE)
        if plan["hide_unified"]:
            raise ScowError("volumes with shared mounts cannot be had together with the option hide_unified")
        return
    sys.mount(None, "/", None, sys.MS_REC | sys.MS_SLAVE)
    if plan["hide_unified"]:
        program.hide_unified()


def _complete(plan: dict[str, Any]) -> None:
    """The bundle's configuration knows the user's numbers, and the working directory exists."""
    file = f"{plan['bundle']}/config.json"
    with open(file, encoding="utf-8") as text:
        config = json.load(text)
    root_fd = os.open(plan["rootfs"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        config["process"] = identified(config["process"], root_fd)
        os.close(mounts.open_target(root_fd, config["process"]["cwd"].lstrip("/") or ".", directory=True))
    finally:
        os.close(root_fd)
    elsewhere.bring(config, plan["bundle"])
    _write(file, config)


def _write(path: str, value: dict[str, Any]) -> None:
    with open(path, "w", encoding="utf-8", opener=_private) as file:
        json.dump(value, file)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)  # it holds the environment


def _make(plan: dict[str, Any], tty: bool, words: list[str], rest: list[str]) -> tuple[int, int]:
    """The program made a process, which is named to the monitor: its pidfd, and its terminal's master or -1."""
    console = Console(f"console-{os.getpid()}") if tty else None
    try:
        terminal = ["--console-socket", console.path] if console else []
        _run(plan["command"], plan["log"], [*words, *terminal, *rest], _null() if tty else -1)
        master = console.receive() if console else -1
    finally:
        if console:
            console.close()
    with open(plan["pid_file"], encoding="utf-8") as file:
        pid = int(file.read())
    os.unlink(plan["pid_file"])
    pidfd = os.pidfd_open(pid)
    ready: dict[str, Any] = {"ready": True, "pid": pid}
    if master >= 0:
        ready["console_fd"] = master
    os.write(STATUS_FD, json.dumps(ready).encode() + b"\n")
    return pidfd, master


def _null() -> int:
    return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)


def _run(command: list[str], log: str, words: list[str], stdio: int, *, until_cancelled: bool = True) -> None:
    """The program ran with *words* and succeeded; its standard streams are *stdio*, the maker's own for -1. With
    *until_cancelled* it is killed when the start pipe is closed unwritten meanwhile."""
    actions = [(os.POSIX_SPAWN_DUP2, stdio, number) for number in range(3)] if stdio >= 0 else []
    arguments = program.argv(command, log, *words)
    pid = os.posix_spawn(arguments[0], arguments, program.ENVIRONMENT, file_actions=actions)
    pidfd = os.pidfd_open(pid)
    if until_cancelled and _cancelled_before(pidfd):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(pidfd)
    if status:
        why = program.cause(log, status)
        what = f"{os.path.basename(command[0])} {words[0]} failed: "
        raise Failed(what + why.message.removeprefix(what), why.kind)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(log)


def _cancelled_before(pidfd: int) -> bool:
    """Waits until the process of *pidfd* ends (False) or the start pipe is closed: whether without its byte."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(START_FD, 0)
    closed = any(fd == START_FD for fd, _events in poll.poll())
    poll.modify(START_FD, select.POLLIN)
    return closed and not any(fd == START_FD and events & select.POLLIN for fd, events in poll.poll(0))


def _await_start(pidfd: int) -> None:
    """The process may start; the maker ends, after it, where it is not to."""
    if not os.read(START_FD, 1):
        _kill(pidfd)
        os._exit(0)


def _kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
