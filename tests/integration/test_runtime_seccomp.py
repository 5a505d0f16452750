"""SCMP_ACT_NOTIFY with a seccomp agent, and filters that hold in real processes."""

from __future__ import annotations

import array
import fcntl
import json
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scow.testing.runtime import BUSYBOX, Lab
from scow.types import ContainerConfig
from scow_runtime_native import seccomp

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists(BUSYBOX), reason=f"needs {BUSYBOX} (Debian: busybox-static)"),
    pytest.mark.skipif(not seccomp.library_version(), reason="libseccomp.so.2 is not installed"),
]
# linux/seccomp.h: struct seccomp_notif and seccomp_notif_resp
RECEIVE, SEND = 0xC0502100, 0xC0182101
RECEIVED = struct.Struct("=QIIiIQ6Q")
ANSWER = struct.Struct("=QqiI")


class Agent:
    """Listens, keeps what it was sent, and answers each call with the errno 28 (ENOSPC), in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: dict[str, Any] = {}
        self.closed = False
        self.calls: list[int] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener, self._listener.accept()[0] as connection:
            data, ancillary, _flags, _address = connection.recvmsg(65536, socket.CMSG_SPACE(4))
            self.said = json.loads(data)
            self.closed = connection.recv(1) == b""
        fds = array.array("i")
        fds.frombytes(ancillary[0][2][:4])
        try:
            while self._answer(fds[0]):
                continue
        finally:
            os.close(fds[0])

    def _answer(self, fd: int) -> bool:
        """Whether there may be another call; none is there when the last process with the filter is gone."""
        call = bytearray(RECEIVED.size)
        try:
            fcntl.ioctl(fd, RECEIVE, call)
            id, _pid, _flags, number, *_ = RECEIVED.unpack(call)
            self.calls.append(number)
            fcntl.ioctl(fd, SEND, bytearray(ANSWER.pack(id, 0, -28, 0)))
        except OSError:
            return False
        return True

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    yield Agent(tmp_path / "agent")


def profile(agent: Agent, **more: Any) -> Callable[[dict[str, Any]], None]:
    rules = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]
    made = {
        "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules, "listenerPath": str(agent.path),
        "listenerMetadata": "for the agent", **more,
    }  # fmt: skip

    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["seccomp"] = made
        spec["annotations"] = {"org.example": "yes"}

    return change


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_the_agent_gets_the_descriptor_with_the_state_and_decides(
    lab: Lab, agent: Agent, no_new_privileges: bool
) -> None:
    def change(spec: dict[str, Any]) -> None:
        profile(agent, flags=["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])(spec)
        spec["process"]["noNewPrivileges"] = no_new_privileges

    running = lab.make("sh", "-c", "mkdir /x 2>&1; echo $?", config=ContainerConfig(user="web"), change=change)
    assert running.create() == {"ready": True} and running.start() is None
    code, output = running.wait()
    assert code == 0 and "No space left on device" in output, output
    agent.join()
    assert agent.closed and len(agent.calls) == 1
    assert agent.said == {
        "ociVersion": "1.2.0",
        "fds": ["seccompFd"],
        "pid": running.pid,
        "metadata": "for the agent",
        "state": {
            "ociVersion": "1.2.0",
            "id": running.id,
            "status": "creating",
            "pid": running.pid,
            "bundle": str(lab.directory / running.id[:12]),
            "annotations": {"org.example": "yes"},
        },
    }


def test_an_exec_has_an_agent_of_its_own(lab: Lab, agent: Agent, tmp_path: Path) -> None:
    running = lab.up(change=profile(agent))
    agent.path.unlink()
    second = Agent(agent.path)
    result = running.exec("sh", "-c", "mkdir /x 2>&1; exit 3")
    assert result["code"] == 3 and "No space left" in result["output"]
    second.join()
    assert second.said["state"]["status"] == "running" and second.said["state"]["pid"] == running.pid
    assert second.said["pid"] not in (0, 1, running.pid)


def test_an_agent_that_is_not_there_is_named(lab: Lab, agent: Agent) -> None:
    agent.path.unlink()
    failure = lab.refused("true", change=profile(agent))
    assert failure["stage"] == "seccomp"
    assert failure["error"] == f"cannot connect to the seccomp agent at {agent.path}: no such file or directory"


@pytest.mark.parametrize(("action", "number"), [("KILL_PROCESS", signal.SIGSYS), ("TRAP", signal.SIGSYS)])
def test_a_filter_that_kills_kills(lab: Lab, action: str, number: int) -> None:
    def change(spec: dict[str, Any]) -> None:
        rules = [{"names": ["mkdir", "mkdirat"], "action": f"SCMP_ACT_{action}"}]
        spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}

    assert lab.sh("mkdir /x || echo $?", change=change).split()[-1] == str(128 + number)


def test_a_filter_compares_arguments(lab: Lab) -> None:
    """kill(0, SIGUSR1) is refused with ENOSPC; other signals are not."""

    def change(spec: dict[str, Any]) -> None:
        args = [{"index": 1, "op": "SCMP_CMP_EQ", "value": int(signal.SIGUSR1)}]
        rules = [{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28, "args": args}]
        spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}

    script = "sleep 60 & p=$!; kill -USR1 $p 2>&1 || kill -CONT $p && echo still there; kill $p"
    assert lab.sh(script, change=change).endswith("No space left on device\nstill there\n")
