"""create, start, run, kill and delete."""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from scow.errors import Conflict, InvalidArgument, NotFound, Unavailable
from scow.linux import signals
from scow_runtime_native.command import bundle as bundles
from scow_runtime_native.command import hooks, spawn, store
from scow_runtime_native.command.store import START_FIFO, STATUS_FIFO, Container

if TYPE_CHECKING:
    from collections.abc import Iterator

_KILL_TIMEOUT_MS = 10_000


class Wishes(NamedTuple):
    """How create and run make a container, from their flags."""

    bundle: str = "."
    pid_file: str = ""
    console_socket: str = ""
    new_keyring: bool = True
    detach: bool = False


class Init(NamedTuple):
    """The init of a container, set up and waiting; *master* is of its terminal, -1 where this process has none."""

    pid: int
    start_fd: int
    reports: spawn.Reports
    master: int


def create(root: str, id: str, wishes: Wishes) -> None:
    """The container *id* is created; its init waits for `start`, and has outlived this process by then."""
    with _made(root, id, wishes, here=False) as (_, init):
        init.reports.close()
        os.close(init.start_fd)


def run(root: str, id: str, wishes: Wishes, *, keep: bool) -> int:
    """The container *id* runs; where it is not detached, it has ended and is gone but for *keep*: its exit code."""
    with _made(root, id, wishes, here=True) as (container, init):
        os.write(init.start_fd, b"\n")
        os.close(init.start_fd)
        init.reports.wait_executed()
        init.reports.close()
        if container.record["hooks"]:
            hooks.poststart(container)
    if wishes.detach:
        return 0
    from scow_runtime_native.command import foreground

    code = foreground.wait(init.pid, init.master)
    if not keep:
        with store.locked(container):
            _destroy(root, container)
    return code


@contextlib.contextmanager
def _made(root: str, id: str, wishes: Wishes, *, here: bool) -> Iterator[tuple[Container, Init]]:
    """The container *id*, created, while nobody else may touch it. Nothing is left of it after an exception, the
    block's too. *here*: this process starts it; otherwise another, through the fifos of its folder."""
    bundle = os.path.realpath(wishes.bundle)
    spec, text = bundles.load(bundle)
    _check_terminal(bool(spec["process"].get("terminal")), wishes, here=here)
    with store.claimed(root, id) as container:
        try:
            container.record = _record(id, spec, bundle)
            with _cgroup_plan(root, container, spec, text, bundle) as plan:
                plan.update(rootfs=container.record["rootfs"], new_keyring=wishes.new_keyring)
                plan["process"].update(
                    look_up=not here,  # so that create fails where the program is not there
                    waits_inside=plan["join_pid"] is not None,
                )
                init = _spawn(container, plan, spec["process"], wishes, here)
                try:
                    yield container, init
                except BaseException:
                    spawn.kill(init.pid)
                    raise
        except BaseException:
            if container.record.get("hooks"):
                hooks.poststop(container)
            container.forget()
            raise


def _record(id: str, spec: dict[str, Any], bundle: str) -> dict[str, Any]:
    return {
        "id": id,
        "pid": 0,
        "ociVersion": spec["ociVersion"],
        "bundle": bundle,
        "rootfs": bundles.rootfs(spec, bundle),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "annotations": spec.get("annotations") or {},
        "owner": "root",
    }


@contextlib.contextmanager
def _cgroup_plan(
    root: str, container: Container, spec: dict[str, Any], text: bytes, bundle: str
) -> Iterator[dict[str, Any]]:
    """The plan of *container*, whose cgroup exists, and goes when the block raises. The disk knows of it before."""
    from scow_runtime_native.command.runtime import Driver, with_cgroup

    driver, spec = Driver(root, container), with_cgroup(spec, container.id)
    if strangers := driver.strangers(container.id, spec):
        raise Conflict(
            f"the cgroup of container {container.id!r} is not empty: it has {len(strangers)} processes",
            hint="another container has the same linux.cgroupsPath",
        )
    container.keep_config(text)
    container.save()
    plan = driver.create_in(bundle, container.id, spec)
    try:
        container.record.update(cgroup=plan["cgroup"], hooks=bool(plan["hooks"]))
        yield plan
    except BaseException:
        driver.delete(container.id)
        raise


def _spawn(container: Container, plan: dict[str, Any], process: dict[str, Any], wishes: Wishes, here: bool) -> Init:
    from scow_runtime_native import child

    terminal = spawn.Terminal(process.get("consoleSize")) if process.get("terminal") else None
    ends = None if here else _fifo_ends(container)
    stdio = terminal.stdio() if terminal else (0, 1, 2)
    spawned = spawn.guarded(lambda: child.create(plan, stdio, terminal is not None, ends))
    reports = spawn.Reports(spawned.status_fd)
    try:
        if here and not wishes.detach:
            import scow_runtime_native.command.foreground  # noqa: F401  (while the init sets itself up)
        console_fd = reports.wait_ready(lambda: hooks.create_runtime(plan, spawned))
        spawned = spawn.inside(spawned)
        master = terminal.ready(spawned.pid, console_fd) if terminal else -1
        if wishes.console_socket:
            spawn.send_terminal(master, wishes.console_socket)
            master = -1
        container.record.update(pid=spawned.pid, start_ticks=store.start_ticks(spawned.pid))
        container.save()
        if wishes.pid_file:
            store.replace_file(wishes.pid_file, str(spawned.pid).encode(), 0o644)
    except BaseException:
        spawn.reap(spawned)
        raise
    return Init(spawned.pid, spawned.start_fd, reports, master)


def _fifo_ends(container: Container) -> tuple[int, int, int, int]:
    """The ends of the start and the status pipe, as fifos that another command can open. The init holds both ends of
    the first, so that it waits on when this process has ended."""
    for name in (START_FIFO, STATUS_FIFO):
        os.mkfifo(container.path(name), 0o600)
    start, status = container.path(START_FIFO), container.path(STATUS_FIFO)
    start_read = os.open(start, os.O_RDWR | os.O_CLOEXEC)
    start_write = os.open(start, os.O_WRONLY | os.O_CLOEXEC)
    status_read = os.open(status, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status_write = os.open(status, os.O_WRONLY | os.O_CLOEXEC)
    os.set_blocking(status_read, True)
    return start_read, start_write, status_read, status_write


def _check_terminal(tty: bool, wishes: Wishes, *, here: bool) -> None:
    detached = wishes.detach or not here
    if tty and detached and not wishes.console_socket:
        raise InvalidArgument(
            "cannot allocate tty if scow-runtime will detach without setting console socket",
            hint="name a socket with --console-socket, or set process.terminal to false",
        )
    if wishes.console_socket and not (tty and detached):
        raise InvalidArgument("cannot use console socket if scow-runtime will not detach or allocate tty")


def start(root: str, id: str) -> None:
    """The created container *id* runs its program. Raises why it does not; the container is stopped then."""
    with store.locked(store.find(root, id)) as container:
        status = container.status()
        if status == "stopped":
            raise Conflict(f"cannot start a container that has stopped: {id!r}")
        if status != "created":
            raise Conflict(f"cannot start an already running container: {id!r} is {status}")
        status_read = os.open(container.path(STATUS_FIFO), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(status_read, True)
        reports = spawn.Reports(status_read)
        _write_start(container)
        try:
            reports.wait_executed()
        finally:
            for name in (START_FIFO, STATUS_FIFO):
                os.unlink(container.path(name))
        if container.record.get("hooks"):
            try:
                hooks.poststart(container)
            except BaseException:
                _end(root, container)
                raise


def _write_start(container: Container) -> None:
    try:
        fd = os.open(container.path(START_FIFO), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(f"the init of container {container.id!r} is gone") from error
    try:
        os.write(fd, b"\n")
    finally:
        os.close(fd)


def kill(root: str, id: str, signum: int, *, everything: bool) -> None:
    """The init of container *id*, or with *everything* each of its processes, got the signal."""
    container = store.find(root, id)
    if everything:
        from scow_runtime_native.command.runtime import Driver

        Driver(root, container).signal_all(id, signum)
        return
    status = container.status()
    if status in ("stopped", "creating"):
        raise Conflict(f"container not running: {id!r} is {status}")
    _signal(container, signum)
    if signum == signals.SIGKILL and status == "paused":
        _thaw(root, container)


def _signal(container: Container, signum: int) -> int:
    """The init got the signal: its pidfd, or -1 where it is gone."""
    from scow.linux import syscalls

    try:
        pidfd = os.pidfd_open(container.pid)
    except ProcessLookupError:
        return -1
    if not container.alive():
        os.close(pidfd)
        return -1
    with contextlib.suppress(ProcessLookupError):
        syscalls.pidfd_send_signal(pidfd, signum)
    return pidfd


def _thaw(root: str, container: Container) -> None:
    """A frozen process of cgroup version 1 dies when it is thawed, not before."""
    from scow_runtime_native.command.runtime import Driver

    with contextlib.suppress(NotFound):
        Driver(root, container).resume(container.id)


def pause(root: str, id: str) -> None:
    """Every process of container *id* is frozen."""
    from scow_runtime_native.command.runtime import Driver

    with store.locked(store.find(root, id)) as container:
        status = container.status()
        if status not in ("running", "created"):
            raise Conflict(f"container not running: {id!r} is {status}")
        Driver(root, container).pause(id)


def resume(root: str, id: str) -> None:
    """Every process of the paused container *id* runs again."""
    from scow_runtime_native.command.runtime import Driver

    with store.locked(store.find(root, id)) as container:
        status = container.status()
        if status != "paused":
            raise Conflict(f"container not paused: {id!r} is {status}")
        Driver(root, container).resume(id)


def delete(root: str, id: str, *, force: bool) -> None:
    """Container *id* is gone, and all that it had. Raises `Conflict` where it runs; *force* kills it, and takes one
    that does not exist for deleted."""
    try:
        container = store.find(root, id, damaged=force)
        with store.locked(container, damaged=force):
            status = container.status()
            if status not in ("created", "stopped") and not force:
                raise Conflict(f"cannot delete container {id} that is not stopped: {status}")
            if status != "stopped":
                _end(root, container)
            _destroy(root, container)
    except NotFound:
        if not force:
            raise


def _end(root: str, container: Container) -> None:
    pidfd = _signal(container, signals.SIGKILL)
    if pidfd < 0:
        return
    if container.frozen():
        _thaw(root, container)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(_KILL_TIMEOUT_MS):
        raise Unavailable(f"the init {container.pid} of container {container.id!r} does not die")


def _destroy(root: str, container: Container) -> None:
    """The cgroup, with the processes that are left in it, and the folder are gone."""
    from scow_runtime_native.command.runtime import Driver

    Driver(root, container).delete(container.id)
    if container.record.get("hooks"):
        hooks.poststop(container)
    container.forget()
