"""SCMP_ACT_NOTIFY: the filter's descriptor goes to a seccomp agent (config-linux.md, "The Container Process State").

The agent's socket is a path of the host, so it is connected before the root is entered; from the moment at which the
filter holds, nothing but one sendmsg(2) happens until the agent has the descriptor.
"""

from __future__ import annotations

import _socket
import os
import struct
from typing import Any

from scow.plain_json import encode_json
from scow_runtime_native.failure import StageError, describe

_FD = struct.Struct("i")


def connect(listener: dict[str, Any], init_pid: int) -> None:
    """*listener* (of the plan) holds a connection to the agent and what will be said on it. *init_pid* is the
    container's init, as the runtime counts, or 0 where that is the caller. Needs the host's /proc."""
    own = int(os.readlink("/proc/self"))
    status = "running" if init_pid else "creating"
    message = {
        "ociVersion": listener["state"].get("ociVersion", ""),
        "fds": ["seccompFd"],
        "pid": own,
        "metadata": listener["metadata"],
        "state": {**listener["state"], "status": status, "pid": init_pid or own},
    }
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)  # close-on-exec, as Python makes them
    try:
        connection.connect(listener["path"])
    except OSError as error:
        connection.close()
        raise StageError(
            f"cannot connect to the seccomp agent at {listener['path']}: {describe(error)}",
            stage="seccomp",
            errno=error.errno or 0,
        ) from error
    listener.update(connection=connection, message=encode_json(message))


def hand_over(listener: dict[str, Any], fd: int) -> None:
    """The agent has *fd*, and the caller has it no more."""
    connection: _socket.socket = listener["connection"]
    connection.sendmsg([listener["message"]], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, _FD.pack(fd))])
    connection.close()
    os.close(fd)
