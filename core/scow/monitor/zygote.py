"""The zygote: an interpreter with everything imported, that forks a monitor for whoever asks.

scowd runs it as ``scow.monitor.zygote.main()`` with the arguments: descriptor of a ``SOCK_SEQPACKET`` socket to scowd,
run root, names of the runtimes' child modules. It says ``{"event": "ready", "pid", "modules"}``, then serves
``{"op": "spawn", "seq", "id"}`` (beside it one end of a stream socketpair, the monitor's first control connection) with
``{"seq", "ok": {"pid", "start_ticks"}}``, and reports ``{"event": "monitor_exit", "pid", "status"}`` of each monitor
that ends. It ends when its socket to scowd does; monitors live on.

Single-threaded, standard library only. Its heap is frozen and its collector off, so that a fork shares it; after the
imports it cannot import any more (`forbid_imports`): the package on disk may be another version by then.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import sys
from types import FrameType
from typing import Any

from scow.linux import syscalls
from scow.monitor import monitor
from scow.monitor.protocol import Message, listen, receive_packet, send_packet, socket_name, start_ticks
from scow.monitor.rehearsal import rehearse

CAUGHT = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def no_action(_signum: int, _frame: FrameType | None) -> None:
    """A handler that does nothing. Unlike an ignored signal, a handled one is at its default again after execve."""


def forbid_imports() -> None:
    """An import of what is not imported yet fails, in this process and in all that it forks."""
    sys.meta_path.clear()
    sys.path.clear()
    sys.path_hooks.clear()


class Zygote:
    """Serves one scowd through *sock*; monitors' sockets go to ``<run root>/m``."""

    def __init__(self, sock: socket.socket, run_root: str) -> None:
        self._sock = sock
        self._sock_fd = sock.fileno()
        self._directory = f"{run_root}/m"
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        self._directory_fd = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def rehearse(self, modules: list[Any]) -> None:
        """See `scow.monitor.rehearsal`; a child module may have a function ``rehearse()`` of its own."""
        rehearse(self._directory, self._directory_fd, [m.rehearse for m in modules if hasattr(m, "rehearse")])

    def serve(self) -> None:
        """Returns when scowd is gone."""
        signal.signal(signal.SIGCHLD, no_action)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        send_packet(self._sock, {"event": "ready", "pid": os.getpid(), "modules": sorted(sys.modules)})
        while True:
            for fd, _events in poll.poll():
                if fd == self._wake_read:
                    self._reap()
                elif not self._request():
                    return

    def _request(self) -> bool:
        message, fd = receive_packet(self._sock)
        if message is None:
            return False
        try:
            if message.get("op") != "spawn" or fd is None:
                raise ValueError(f"unknown request {message.get('op')!r}")
            pid = self._spawn(str(message["id"]), fd)
            reply: Message = {"seq": message.get("seq"), "ok": {"pid": pid, "start_ticks": start_ticks(pid)}}
        except (OSError, KeyError, ValueError) as error:
            code = error.errno if isinstance(error, OSError) else 0
            reply = {"seq": message.get("seq"), "error": {"message": str(error), "kind": "setup", "errno": code}}
        finally:
            if fd is not None:
                os.close(fd)
        send_packet(self._sock, reply)
        return True

    def _spawn(self, container_id: str, control_fd: int) -> int:
        name = socket_name(container_id)
        listener = listen(self._directory_fd, name)
        with listener:
            pid = os.fork()
            if not pid:
                self._become_monitor(container_id, name, listener, control_fd)
        return pid

    def _become_monitor(self, container_id: str, name: str, listener: socket.socket, control_fd: int) -> None:
        """In the child; never returns."""
        status = 1
        try:
            # As few Python objects as possible: SIGCHLD keeps its empty handler (to name SIG_DFL writes to 40 pages
            # of enum's), and descriptors are closed as numbers.
            os.setsid()
            signal.set_wakeup_fd(-1)
            for fd in (self._sock_fd, self._wake_read, self._wake_write, self._directory_fd):
                os.close(fd)
            monitor.run(container_id, self._directory, name, listener, control_fd)
            status = 0
        except BaseException:  # noqa: BLE001  (the last line of a process: nothing may run on as the zygote)
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

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
            send_packet(self._sock, {"event": "monitor_exit", "pid": pid, "status": os.waitstatus_to_exitcode(status)})


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


def freeze() -> None:
    """What is on the heap now is shared by all monitors, and never looked at by their collectors."""
    forbid_imports()
    gc.collect()
    gc.disable()
    gc.freeze()


def main() -> None:
    """The zygote process: ``SOCKET_FD RUN_ROOT MODULE…``."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(sock.fileno(), False)
    modules = prepare(sys.argv[3:])
    zygote = Zygote(sock, sys.argv[2])
    zygote.rehearse(modules)
    freeze()
    try:
        zygote.serve()
    except (BrokenPipeError, ConnectionResetError):
        pass  # scowd is gone
    os._exit(0)
