"""The zygote: an interpreter with everything imported, that forks a monitor for whoever asks.

scowd runs it through `scow.monitor.boot` with the arguments: descriptor of a ``SOCK_SEQPACKET`` socket to scowd,
descriptors of scowd's mount namespace and root where it starts in another one (see `go_home`), run root, names of the
runtimes' child modules. It says ``{"event": "ready", "pid", "modules"}``, then serves
``{"op": "spawn", "seq", "id"}`` (beside it one end of a stream socketpair, the monitor's first control connection) with
``{"seq", "ok": {"pid", "start_ticks"}}``, and reports ``{"event": "monitor_exit", "pid", "status"}`` of each monitor
that ends. It ends when its socket to scowd does; monitors live on. The next monitor is forked before it is asked for:
a spare child reads the request and answers it.

Single-threaded, standard library only. Its heap is frozen and its collector off, so that a fork shares it; after the
imports it cannot import any more (`forbid_imports`): the package on disk may be another version by then.
"""

from __future__ import annotations

import _socket
import gc
import importlib
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

from scow.linux import syscalls
from scow.monitor import heap, monitor, rehearsal, requests
from scow.monitor.protocol import (
    MAX_REQUEST,
    listen,
    receive_raw,
    send_packet,
    socket_name,
    start_ticks,
)
from scow.plain_json import decode_json, encode_json

CAUGHT = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
)

_REST_MS = 40.0  # how long after a fork the next spare is made, when the start is over that the fork was for
_REST_AFTER_AN_END_MS = 1.0
_LONGEST_REST_MS = 10_000.0


def no_action(_signum: int, _frame: FrameType | None) -> None:
    """A handler that does nothing. Unlike an ignored signal, a handled one is at its default again after execve."""


def forbid_imports() -> None:
    """An import of what is not imported yet fails, in this process and in all that it forks."""
    sys.meta_path.clear()
    sys.path.clear()
    sys.path_hooks.clear()


class Zygote:
    """Serves one scowd through *sock*; monitors' sockets go to ``<run root>/m``."""

    def __init__(self, sock: _socket.socket, run_root: str, modules: Sequence[Any] = ()) -> None:
        self._sock = sock
        self._modules = modules
        self._sock_fd = sock.fileno()
        self._directory = f"{run_root}/m"
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        self._directory_fd = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._requests: dict[int, bytes] = {}  # what was asked for, by the pid of the child that answers it
        self._wake_read, self._wake_write = os.pipe()
        self._taken_read, self._taken_write = os.pipe()  # the spare child says here what it was asked for
        self._life_read, self._life_write = os.pipe()  # ends with this process
        for fd in (self._wake_read, self._wake_write, self._taken_read):
            os.set_blocking(fd, False)
        self._spare = 0
        self._last = b"", b""  # the last two requests: the next is like one of them
        self._rest_ms = _REST_MS
        self._poll = select.poll()

    def serve(self) -> None:
        """Returns when scowd is gone."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._poll.register(self._wake_read, select.POLLIN)
        self._poll.register(self._taken_read, select.POLLIN)
        send_packet(self._sock, {"event": "ready", "pid": os.getpid(), "modules": sorted(sys.modules)})
        while True:
            # With a spare nothing is read here, a hang-up is told all the same. Without, one is made in a quiet moment.
            self._poll.register(self._sock_fd, 0 if self._spare else select.POLLIN)
            ready = self._poll.poll(None if self._spare else self._rest_ms)
            for fd, events in ready:
                if fd == self._wake_read:
                    self._reap()
                elif fd == self._taken_read:
                    self._taken()
                elif events & select.POLLIN and not self._spare:
                    if not self._request():
                        return
                elif events & select.POLLHUP:
                    return
            if not ready:
                self._make_spare()

    def _make_spare(self) -> None:
        """A child waits for the next request: then a monitor need not wait for the fork."""
        try:
            self._spare = os.fork()
        except OSError:
            return  # the next request meets the same and is told so
        if not self._spare:
            self._be_child(self.live)

    def _be_child(self, live: Callable[..., None], *arguments: Any) -> NoReturn:
        """In the child, a session of its own: it does *live*, and ends."""
        status = 1
        try:
            os.setsid()
            os.dup2(self._life_read, self._life_write, inheritable=False)  # closed, and its number stays ours
            live(*arguments)
            status = 0
        except BaseException:  # noqa: BLE001  (the last line of a process: nothing may run on as the zygote)
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    def live(self) -> None:
        """A spare's whole life: it ends with scowd and with the zygote, unless it has become a monitor."""
        requests.prepare(self._modules, {_hint(request) for request in self._last})
        poll = select.poll()
        poll.register(self._sock_fd, select.POLLIN)
        poll.register(self._life_read, 0)
        poll.poll()
        poll.unregister(self._sock_fd)
        if not poll.poll(0):  # the zygote lives
            try:
                request, fd = receive_raw(self._sock, MAX_REQUEST)
            except ConnectionResetError:
                return  # scowd is gone, with something of ours unread
            if request:
                os.write(self._taken_write, request)
                self._become_monitor(request, fd)

    def _taken(self) -> None:
        """The spare is a monitor now."""
        try:
            request = os.read(self._taken_read, MAX_REQUEST)
        except BlockingIOError:
            return
        self._last = self._last[1], request
        if self._spare:
            self._requests[self._spare] = request
        self._spare, self._rest_ms = 0, _REST_MS

    def _request(self) -> bool:
        """One request is on its way in a child. Nothing but the fork happens here: what this process writes to between
        two forks is a page that the monitors do not share, as what they write to themselves."""
        data, fd = receive_raw(self._sock, MAX_REQUEST)
        if not data:
            return False
        try:
            pid = os.fork()
        except OSError as error:
            self._refuse(data, str(error), error.errno or 0)
        else:
            if not pid:
                self._be_child(self._become_monitor, data, fd)
            self._requests[pid] = data
            self._last = self._last[1], data
        if fd is not None:
            os.close(fd)
        return True

    def _refuse(self, request: bytes, message: str, errno: int = 0) -> None:
        """The request is answered with an error. No harm where it has been answered: scowd takes the first answer."""
        seq = decode_json(request.decode()).get("seq")
        error = {"message": message, "kind": "setup", "errno": errno}
        os.write(self._sock_fd, encode_json({"seq": seq, "error": error}))

    def _become_monitor(self, request: bytes, control_fd: int | None) -> None:
        """What was asked for is answered, and done: returns when the monitor has nothing left to do."""
        # As few Python objects as possible: SIGCHLD keeps its empty handler (to name SIG_DFL writes to 40 pages of
        # enum's), and descriptors are closed as numbers.
        signal.set_wakeup_fd(-1)
        try:
            message = decode_json(request.decode())
            if message.get("op") != "spawn" or control_fd is None:
                raise ValueError(f"unknown request {message.get('op')!r}")
            container_id: str = message["id"]
            name = socket_name(container_id)
            listener = listen(self._directory_fd, name)
            ok = {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())}
            os.write(self._sock_fd, encode_json({"seq": message["seq"], "ok": ok}))
        except BaseException as error:
            self._refuse(request, str(error), getattr(error, "errno", None) or 0)
            raise
        for fd in (
            self._sock_fd,
            self._directory_fd,
            self._wake_read,
            self._wake_write,
            self._taken_read,
            self._taken_write,
            self._life_read,
            self._life_write,
        ):
            os.close(fd)
        monitor.run(container_id, self._directory, name, listener, control_fd)

    def _reap(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self._spare:
                self._taken()
            if pid == self._spare:  # killed, and nobody had asked
                self._spare, self._rest_ms = 0, min(self._rest_ms * 2, _LONGEST_REST_MS)
                continue
            code = os.waitstatus_to_exitcode(status)
            request = self._requests.pop(pid, b"")
            if code and request:
                self._refuse(request, f"the monitor ended with status {code}")
            send_packet(self._sock, {"event": "monitor_exit", "pid": pid, "status": code})
            self._rest_ms = min(self._rest_ms, _REST_AFTER_AN_END_MS)


def _hint(request: bytes) -> str:
    """What the request said of its container; ``""`` where there was none yet."""
    return str(decode_json(request.decode()).get("hint", "")) if request else ""


def prepare(names: list[str]) -> list[Any]:
    """The child modules *names* are imported and answered; signals and process attributes are set."""
    syscalls.reset_signal_handlers()  # what our own parent ignored (make: signal 32) is not for containers
    modules = [importlib.import_module(name) for name in names]
    for signum in CAUGHT:
        signal.signal(signum, no_action)
    # In the zygote and its monitors no signal interrupts anything; children set the mask back before execve.
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals() - {signal.SIGCHLD})
    os.umask(0o022)
    os.chdir("/")
    syscalls.set_name(b"scow-zygote")
    # neither readable nor traceable by a container's root of the same uid; execve sets it back, prctl(2)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    return modules


def freeze() -> list[object]:
    """What is on the heap now is shared by all monitors, and never looked at by their collectors. The answer is kept as
    long as monitors are forked."""
    forbid_imports()
    gc.collect()
    gc.disable()
    kept = heap.fill_free_slots()
    gc.freeze()
    return kept


def go_home(namespace_fd: int, root_fd: int) -> None:
    """The mounts are scowd's. Those that were ours alone are read-only for ever, and with them all that is mapped from
    them, in this process and in those that it forks: a container that gets hold of such a file cannot write to it."""
    syscalls.mount_setattr(syscalls.AT_FDCWD, "/", syscalls.AT_RECURSIVE, syscalls.MOUNT_ATTR_RDONLY)
    syscalls.setns(namespace_fd, syscalls.CLONE_NEWNS)
    os.fchdir(root_fd)
    os.chroot(".")
    os.close(namespace_fd)
    os.close(root_fd)


def main() -> None:
    """The zygote process: ``SOCKET_FD [NAMESPACE_FD,ROOT_FD] RUN_ROOT MODULE…``."""
    sock = _socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(sock.fileno(), False)
    modules, run_root = prepare(sys.argv[4:]), sys.argv[3]
    if sys.argv[2]:
        go_home(*map(int, sys.argv[2].split(",")))
    rehearsal.rehearse(Zygote, run_root, [module.rehearse for module in modules if hasattr(module, "rehearse")])
    syscalls.set_name(b"scow-zygote")
    zygote = Zygote(sock, run_root, modules)
    kept = freeze()
    try:
        zygote.serve()
    except (BrokenPipeError, ConnectionResetError):
        pass  # scowd is gone
    del kept
    os._exit(0)
