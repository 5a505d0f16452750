"""OCI hooks in the container's own life: where its init lets those of the runtime run, and runs its own.

``prestart`` and ``createRuntime`` are the monitor's (`scow.monitor.hooks`): the init says that it waits, and goes on at
one byte of the start pipe. ``createContainer`` and ``startContainer`` are run by the init itself.
"""

from __future__ import annotations

import os
from typing import Any

from scow.linux import oci_hooks
from scow_runtime_native.failure import SETUP, StageError

_START_FD = 3
_STATUS_FD = 4


def before_pivot(plan: dict[str, Any], root_fd: int) -> None:
    """The hooks of `create` have run: the container is complete but for its root, which is still *root_fd*. Ends the
    process where the monitor does not let it go on."""
    hooks = plan["hooks"]
    if "createContainer" in hooks and plan["userns"] and plan["join_pid"] is not None:
        raise StageError(
            "no createContainer hooks with a user namespace and the PID namespace of another container, which could "
            "trace them",
            stage="",
        )
    if "prestart" in hooks or "createRuntime" in hooks:
        os.write(_STATUS_FD, b'{"hooks": "createRuntime"}\n')
        if not os.read(_START_FD, 1):
            os._exit(0)
    if "createContainer" in hooks:
        os.fchdir(root_fd)  # as runc
        _run("createContainer", hooks["createContainer"], plan["state"])


def before_execve(plan: dict[str, Any]) -> None:
    """The ``startContainer`` hooks have run, with the root, the user and the rights of the container."""
    _run("startContainer", plan["hooks"]["startContainer"], plan["state"])


def _run(kind: str, hooks: list[dict[str, Any]], base: dict[str, Any]) -> None:
    try:
        oci_hooks.run(kind, hooks, oci_hooks.state(base, kind, os.getpid()))
    except oci_hooks.HookFailed as error:
        raise StageError(error.message, stage="", kind=SETUP) from error
