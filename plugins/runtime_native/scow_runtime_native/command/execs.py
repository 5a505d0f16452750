"""exec: a further process in a running container."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any

from scow.errors import Conflict, InvalidArgument
from scow_runtime_native.command import bundle as bundles
from scow_runtime_native.command import spawn, store

if TYPE_CHECKING:
    from scow_runtime_native.command.store import Container


def run(root: str, id: str, values: dict[str, Any], words: list[str]) -> int:
    """The process runs in container *id*; its exit code, when it has ended, or 0 where it is detached. *values* are
    the command's flags, *words* the program and its arguments."""
    container = store.find(root, id)
    status = container.status()
    if status in ("stopped", "creating"):
        raise Conflict(f"cannot exec in a {status} container: {id!r}")
    if status == "paused" and not values["ignore_paused"]:
        raise Conflict(f"cannot exec in a paused container: {id!r}", hint="use --ignore-paused, or resume it")
    spec = container.config()
    process = bundles.for_linux(process_of(spec["process"], values, words))
    tty, detach, console = bool(process.get("terminal")), values["detach"], values["console_socket"]
    if tty and detach and not console:
        raise InvalidArgument("cannot allocate tty if scow-runtime will detach without setting console socket")
    if console and not (tty and detach):
        raise InvalidArgument("cannot use console socket if scow-runtime will not detach or allocate tty")
    pid, master = _spawn(root, container, spec, process, values)
    if detach:
        return 0
    from scow_runtime_native.command import foreground

    return foreground.wait(pid, master)


def _spawn(
    root: str, container: Container, spec: dict[str, Any], process: dict[str, Any], values: dict[str, Any]
) -> tuple[int, int]:
    from scow_runtime_native import child
    from scow_runtime_native.command.runtime import Driver

    plan = Driver(root, container).exec(container.id, spec, process)
    if values["cgroup"]:
        plan["cgroup"] = below(plan["cgroup"], values["cgroup"])
    terminal = spawn.Terminal(process.get("consoleSize")) if process.get("terminal") else None
    stdio = terminal.stdio() if terminal else (0, 1, 2)
    spawned = spawn.guarded(lambda: child.start_exec(plan, container.pid, stdio, terminal is not None))
    reports = spawn.Reports(spawned.status_fd)
    try:
        console_fd = reports.wait_ready()
        master = terminal.ready(spawned.pid, console_fd) if terminal else -1
        if values["console_socket"]:
            spawn.send_terminal(master, values["console_socket"])
            master = -1
        os.write(spawned.start_fd, b"\n")
        os.close(spawned.start_fd)
        reports.wait_executed()
        spawned = spawn.inside(spawned)
        if values["pid_file"]:
            store.replace_file(values["pid_file"], str(spawned.pid).encode(), 0o644)
    except BaseException:
        spawn.reap(spawned)
        raise
    reports.close()
    return spawned.pid, master


def process_of(base: dict[str, Any], values: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """The OCI process to run: that of the file, with the container's capabilities where it names none, or the
    container's own with what the flags say."""
    if values["process"]:
        with open(values["process"], "rb") as file:
            process = bundles.parse(file.read(), values["process"])
        if not process.get("cwd"):
            raise InvalidArgument(f"{values['process']} has no cwd")
        return {"capabilities": base.get("capabilities"), **process}
    if not words:
        raise InvalidArgument("no command specified", hint="name a program, or a file with --process")
    process = copy.deepcopy(base)
    process["args"] = words
    process["terminal"] = values["tty"]
    process["env"] = [*(process.get("env") or ()), *values["env"]]
    if values["cwd"]:
        process["cwd"] = values["cwd"]
    if values["user"]:
        process["user"] = _user(values["user"], process.get("user") or {})
    if values["additional_gids"]:
        user = process.setdefault("user", {})
        user["additionalGids"] = [*(user.get("additionalGids") or ()), *map(_id, values["additional_gids"])]
    if values["no_new_privs"]:
        process["noNewPrivileges"] = True
    if values["apparmor"]:
        process["apparmorProfile"] = values["apparmor"]
    if values["process_label"]:
        process["selinuxLabel"] = values["process_label"]
    if values["cap"]:
        _add_capabilities(process, values["cap"])
    return process


def _user(text: str, base: dict[str, Any]) -> dict[str, Any]:
    uid, colon, gid = text.partition(":")
    return {**base, "uid": _id(uid), "gid": _id(gid) if colon else base.get("gid", 0)}


def _id(text: str) -> int:
    if not text.isdigit():
        raise InvalidArgument(f"user and group are numbers, {text!r} is none")
    return int(text)


def _add_capabilities(process: dict[str, Any], names: list[str]) -> None:
    """As runc: into all sets but the inheritable and, for root, the ambient one."""
    has = process["capabilities"] = process.get("capabilities") or {}
    sets = ["bounding", "effective", "permitted"]
    if (process.get("user") or {}).get("uid", 0):
        sets.append("ambient")
        sets.append("inheritable")
    for kind in sets:
        has[kind] = list(dict.fromkeys([*(has.get(kind) or ()), *names]))


def below(cgroup: dict[str, Any], asked: str) -> dict[str, Any]:
    """The join record *cgroup* for the group *asked* (``[controllers:]path``) below the container's."""
    controllers, colon, path = asked.partition(":")
    if not colon:
        controllers, path = "", asked
    path = os.path.normpath("/" + path).strip("/")
    if not path:
        return cgroup
    if cgroup.get("version") == 2:
        if controllers:
            raise InvalidArgument(f"--cgroup {asked!r}: cgroup version 2 has no controllers of their own")
        return _existing({**cgroup, "directory": f"{cgroup['directory']}/{path}", "join": False}, asked)
    wanted = set(controllers.split(",")) if controllers else None
    tasks = []
    for entry in cgroup["tasks"]:
        folder = os.path.dirname(entry)
        hierarchy = next(name for name, place in cgroup["hierarchies"] if place == folder)
        inside = wanted is None or wanted & set(hierarchy.split(","))
        tasks.append(f"{folder}/{path}/tasks" if inside else entry)
    return _existing({**cgroup, "tasks": tasks}, asked)


def _existing(cgroup: dict[str, Any], asked: str) -> dict[str, Any]:
    folders = [cgroup["directory"]] if "directory" in cgroup else [os.path.dirname(path) for path in cgroup["tasks"]]
    for folder in folders:
        if not os.path.isdir(folder):
            raise InvalidArgument(f"--cgroup {asked!r}: there is no {folder}")
    return cgroup
