"""The monitor: parent of one container's init. It outlives scowd, and the zygote that forked it.

Its life: *new* (attach is possible) → ``create`` → *created* → *ready* → ``start`` → *running* → the exit record →
the event ``exit`` → it ends, as soon as attached clients have taken the last output. A container that fails to start
ends it as well, after the event ``failed`` and without a record. Operations and events: see `scow.monitor.protocol` and
`Monitor.OPERATIONS`.
"""

from __future__ import annotations

import _socket
import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from scow.errors import ScowError
from scow.linux import syscalls
from scow.monitor import exit_record
from scow.monitor import loop as ev
from scow.monitor.control import Connection
from scow.monitor.execs import Exec, Execs
from scow.monitor.hooks import Hooks
from scow.monitor.process import Failure, Process
from scow.monitor.protocol import VERSION, Message, start_ticks
from scow.monitor.requests import Refused, answerer, child_module, discard_prepared, is_indirect, set_size
from scow.monitor.segments import SegmentWriter
from scow.monitor.strays import Strays
from scow.monitor.streams import Stdio

_EXECS_GRACE_S = 2.0  # a killed exec that does not go (uninterruptible sleep) must not hold the exit record back
_TRIM_AFTER_S = 1.0
CAPABILITIES = ["attach", "exec", "resize", "signal", "log-segments"]


class Monitor:
    """One container. *listener* is its listening socket, *name* in *run_directory*."""

    def __init__(self, container_id: str, run_directory: str, name: str, listener: _socket.socket) -> None:
        self.id = container_id
        self.loop = ev.Loop()
        self.status = "new"
        self.execs = Execs()
        self._socket_path = (run_directory, name)
        self._listener: Any = listener  # None when closed; Any for its _accept, which makes no socket object
        self._connections: list[Connection] = []
        self.stdio = Stdio(self.loop, once=False, scowd_lives=self._scowd_lives)
        self.stdio.on_left = self._maybe_end
        self.process = Process(self.loop, self.stdio, self)
        self._plan: dict[str, Any] = {}
        self._module = ""
        self._child: Any = None
        self._hooks: Hooks | None = None
        self._exit_record = ""
        self._record: dict[str, Any] | None = None
        self._failure: Failure | None = None
        self._answers: dict[str, Callable[[Failure | None], None]] = {}  # to create and start, given later
        self._strays: Strays | None = None
        self._ticks = start_ticks(os.getpid())
        self.loop.watch(listener.fileno(), ev.IN, self._accept)

    def add_control(self, fd: int) -> None:
        """The socket *fd* is one more control connection."""
        self._connections.append(Connection(self.loop, fd, self._handle, self._left))

    def serve(self) -> None:
        """Returns when the monitor has nothing left to do."""
        self.loop.run()

    def close(self) -> None:
        """Nothing of it is open any more."""
        for connection in self._connections[:]:
            connection.close()
        self.loop.close()

    # -- connections

    def _accept(self, _events: int) -> None:
        if self._listener:
            try:
                fd, _address = self._listener._accept()
            except BlockingIOError:
                return
            os.set_inheritable(fd, False)
            self.add_control(fd)

    def _left(self, connection: Connection) -> None:
        self._connections.remove(connection)
        if not self._connections:  # nobody is left who could start them
            self.execs.drop_unstarted()
        self._maybe_end()

    def _scowd_lives(self) -> bool:
        return bool(self._connections)

    def _broadcast(self, message: Message) -> None:
        for connection in self._connections[:]:
            connection.send(message)

    def _handle(self, connection: Connection, message: Message) -> None:
        operation = self.OPERATIONS.get(str(message.get("op")))
        seq = message.get("seq")
        if operation is None:
            connection.refuse(seq, f"unknown operation {message.get('op')!r}", "unsupported")
            return
        try:
            result = operation(self, connection, message)
        except Refused as error:
            connection.refuse(seq, error.message, error.kind)
        except OSError as error:  # SyscallError too
            connection.refuse(seq, str(error), "setup", error.errno or 0)
        except ScowError as error:
            connection.refuse(seq, error.message, "setup")
        except (KeyError, TypeError, ValueError) as error:
            connection.refuse(seq, f"malformed {message.get('op')}: {error!r}", "invalid")
        except Exception as error:  # noqa: BLE001  (a fault of a child module must not cost the connection)
            sys.excepthook(*sys.exc_info())
            connection.refuse(seq, f"{message.get('op')} failed: {error!r}", "setup")
        else:
            if result is not None:
                connection.answer(seq, result)

    # -- operations: each answers its result, or None when the answer comes later

    def _hello(self, _connection: Connection, _message: Message) -> Message:
        return {"version": VERSION, "capabilities": CAPABILITIES, **self._state(_connection, _message)}

    def _state(self, _connection: Connection, _message: Message) -> Message:
        return {
            "id": self.id,
            "monitor_pid": os.getpid(),
            "monitor_ticks": self._ticks,
            "status": self.status,
            "started": self.status in ("running", "ending", "exited"),
            "pid": self.process.pid,
            "start_ticks": self.process.start_ticks,
            "tty": self.stdio.tty,
            "exit": self._record,
            "failure": self._failure,
            "log_bytes_lost": self.stdio.log.lost if self.stdio.log else 0,
            "execs": self.execs.states(),
        }

    def _create(self, connection: Connection, message: Message) -> Message | None:
        if self.process.state != "new":
            raise Refused(f"container {self.id[:12]} is {self.process.state} already", "conflict")
        self._plan = message["plan"]
        self._module = message["module"]
        self._child = child_module(self._module)
        discard_prepared(self._child)
        self._exit_record = message.get("exit_record", "")
        if self._exit_record:
            exit_record.remove(self._exit_record)
        set_size(self.stdio, message.get("size"))
        self.stdio.once = bool(message.get("stdin_once"))
        tty = bool(message.get("tty"))
        if self._plan.get("hooks"):
            self._hooks = Hooks(self.loop, self.process, self, self._plan)
        indirect = is_indirect(self._child)
        if indirect:
            self._strays = Strays(self.loop, self._processes)
        self.process.spawn(
            lambda ends: self._child.create(self._plan, ends, tty), tty, bool(message.get("open_stdin")), indirect
        )
        log = message.get("log") or {}
        if log.get("max_files"):  # after the clone: the container's root is made meanwhile
            self.stdio.log = SegmentWriter(log["directory"], int(log["max_bytes"]), int(log["max_files"]))
        self.status = "created"
        if indirect:  # answered when it is known which process it is
            self._answers["create"] = answerer(connection, message.get("seq"), self.process.identity)
            return None
        return self.process.identity()

    def _start(self, connection: Connection, message: Message) -> None:
        if self._failure:
            raise Refused(self._failure["message"], self._failure["kind"])
        if self.status not in ("created", "ready") or "start" in self._answers:
            raise Refused(f"container {self.id[:12]} is {self.status}, it cannot be started", "conflict")
        self._answers["start"] = answerer(connection, message.get("seq"), self.process.identity)
        self.process.begin()

    def _cancel(self, _connection: Connection, _message: Message) -> Message:
        """The container is not started; the monitor ends."""
        if self.status == "running":
            raise Refused(f"container {self.id[:12]} is running", "conflict")
        if self.process.alive:
            self.process.cancel()
        else:
            self._finish_failed()
        return {}

    def _attach(self, connection: Connection, message: Message) -> None:
        stdio = self._stdio(message)
        connection.answer(message.get("seq"), {"tty": stdio.tty})
        fd, early = connection.detach()
        stdio.attach(fd, bool(message.get("stdin")), bool(message.get("stdout")), bool(message.get("stderr")), early)

    def _resize(self, _connection: Connection, message: Message) -> Message:
        self._stdio(message).resize(int(message["rows"]), int(message["cols"]))
        return {}

    def _signal(self, _connection: Connection, message: Message) -> Message:
        process = self._exec(message).process if message.get("exec_id") else self.process
        if not process.kill(int(message["signal"])):
            raise Refused("the process is not running", "not_running")
        return {}

    def _exec_create(self, _connection: Connection, message: Message) -> Message:
        exec_id = str(message["exec_id"])
        if self.status != "running":
            raise Refused(f"container {self.id[:12]} is not running", "not_running")
        if self.execs.state(exec_id):
            raise Refused(f"exec {exec_id[:12]} exists already", "conflict")
        child = child_module(message.get("module") or self._module)
        exec = Exec(self.loop, exec_id, message, self._scowd_lives, child, self.process.pid)
        set_size(exec.stdio, message.get("size"))
        exec.on_ended = self._exec_ended
        exec.prepare()
        self.execs.add(exec)
        return {}

    def _exec_start(self, connection: Connection, message: Message) -> None:
        exec = self._exec(message)
        if exec.begun:
            raise Refused(f"exec {exec.exec_id[:12]} has been started already", "conflict")
        if self.status != "running":
            raise Refused(f"container {self.id[:12]} is not running", "not_running")
        exec.start(answerer(connection, message.get("seq"), exec.process.identity))

    def _exec_state(self, _connection: Connection, message: Message) -> Message:
        state = self.execs.state(str(message["exec_id"]))
        if state is None:
            raise Refused(f"no such exec: {message['exec_id']}", "no_such")
        return state

    def _modules(self, _connection: Connection, _message: Message) -> Message:
        """What is imported: nothing more than before the fork, which a test compares."""
        return {"modules": sorted(sys.modules)}

    OPERATIONS: dict[str, Callable[[Monitor, Connection, Message], Message | None]] = {
        "hello": _hello,
        "state": _state,
        "create": _create,
        "start": _start,
        "cancel": _cancel,
        "attach": _attach,
        "resize": _resize,
        "signal": _signal,
        "exec_create": _exec_create,
        "exec_start": _exec_start,
        "exec_state": _exec_state,
        "modules": _modules,
    }

    def _exec(self, message: Message) -> Exec:
        exec = self.execs.get(str(message["exec_id"]))
        if exec is None:
            raise Refused(f"no such exec, or it ended: {message['exec_id']}", "no_such")
        return exec

    def _stdio(self, message: Message) -> Stdio:
        return self._exec(message).stdio if message.get("exec_id") else self.stdio

    def _processes(self) -> list[Process]:
        """Those of the container that are not reaped: its init and its execs."""
        return [process for process in (self.process, *(e.process for e in self.execs.running())) if process.alive]

    # -- what happens to the container (Observer of its process)

    def ready(self) -> None:
        """The container is set up."""
        self.status = "ready"
        self._answer("create", None)
        self._broadcast({"event": "ready"})

    def started(self) -> None:
        """The container runs."""
        self.status = "running"
        self._answer("start", None)
        self._broadcast({"event": "started"})
        keep = getattr(self._child, "kept", None)
        if keep:
            self._plan = keep(self._plan)
        self.loop.later(_TRIM_AFTER_S, syscalls.trim_heap)

    def failed(self, failure: Failure) -> None:
        """The container will not run."""
        self.status = "failed"
        self._failure = failure
        self._answer("create", failure)
        self._answer("start", failure)
        self._broadcast({"event": "failed", "error": failure})

    def ended(self, exit_code: int, signal_number: int) -> None:
        """The container's init is reaped."""
        if self.status == "failed":
            self._finish_failed()
            return
        self.status = "ending"
        self.execs.drop_unstarted()
        for exec in self.execs.running():  # without a PID namespace nobody else ends them
            exec.process.kill(signal.SIGKILL)
        if self.execs.running():
            self.loop.later(_EXECS_GRACE_S, self._finish)
        else:
            self._finish()

    def _exec_ended(self, exec: Exec) -> None:
        self.execs.retire(exec)
        self._broadcast({"event": "exec_exit", "exec_id": exec.exec_id, **exec.state()})
        if self.status == "ending" and not self.execs.running():
            self._finish()
        else:
            self.loop.later(1.0, collect)

    def _finish(self) -> None:
        """The output is drained, the record is written, everybody is told."""
        if self.status != "ending":
            return
        self.status = "exited"
        self.stdio.finish()
        record = exit_record.make(self.process.exit_code, self.process.signal, self._oom_killed())
        self._record = record
        if self._exit_record:
            try:
                exit_record.write(self._exit_record, record)
            except OSError as error:
                sys.stderr.write(f"exit record of {self.id[:12]}: {error}\n")
        self._stopped(self._announce)

    def _finish_failed(self) -> None:
        self.status = "failed"
        self.stdio.finish()
        self._stopped(self._leave)

    def _stopped(self, then: Callable[[], None]) -> None:
        if self._hooks:
            self._hooks.stop(then)
        else:
            then()

    def _announce(self) -> None:
        self._close_listener()
        self._broadcast({"event": "exit", **(self._record or {})})
        self._maybe_end()

    def _leave(self) -> None:
        self._close_listener()
        self._maybe_end()

    def _oom_killed(self) -> bool:
        ask = getattr(self._child, "oom_killed", None)
        try:
            return bool(ask and ask(self._plan))
        except OSError as error:
            sys.stderr.write(f"oom state of {self.id[:12]}: {error}\n")
            return False

    def _close_listener(self) -> None:
        """The address is free for the container's next run, before anybody knows that this one is over."""
        if self._listener:
            self.loop.unwatch(self._listener.fileno())
            self._listener.close()
            self._listener = None
            directory, name = self._socket_path
            try:
                os.unlink(f"{directory}/{name}")
            except FileNotFoundError:
                pass

    def _answer(self, operation: str, failure: Failure | None) -> None:
        answer = self._answers.pop(operation, None)
        if answer:
            answer(failure)

    def _maybe_end(self) -> None:
        """Ends where nothing is left to do: the run is over, and what was to be told is told."""
        if self.status == "new" and not self._connections and self.stdio.idle:
            self._finish_failed()  # whoever wanted this monitor died before it said what for
        over = self._listener is None and not self.process.alive and self.stdio.idle
        if over and all(connection.flushed for connection in self._connections):
            self.loop.stop()
        elif over:
            self.loop.later(0.05, self._maybe_end)


def collect() -> None:
    """The cycles of an ended exec are freed. Cheap: the inherited heap is frozen and not looked at."""
    gc.collect()


def run(container_id: str, run_directory: str, name: str, listener: _socket.socket, control: int) -> None:
    """The life of a monitor, in the process that the zygote forked for it."""
    syscalls.set_name(b"scow:" + container_id[:10].encode())
    monitor = Monitor(container_id, run_directory, name, listener)
    monitor.add_control(control)
    monitor.serve()
    monitor.close()
