"""One function a command: flags and arguments into calls. Each answers the exit code."""

from __future__ import annotations

import json
from typing import Any

from scow.errors import Unsupported

Values = dict[str, Any]


def create(root: str, values: Values, arguments: list[str]) -> int:
    """``create``."""
    from scow_runtime_native.command import lifecycle

    lifecycle.create(root, arguments[0], _wishes(values))
    return 0


def run(root: str, values: Values, arguments: list[str]) -> int:
    """``run``."""
    from scow_runtime_native.command import foreground, lifecycle

    if not values["no_subreaper"] and not values["detach"]:
        foreground.become_subreaper()
    return lifecycle.run(root, arguments[0], _wishes(values), keep=values["keep"])


def _wishes(values: Values) -> Any:
    from scow_runtime_native.command import lifecycle

    if values["no_pivot"]:
        raise Unsupported("--no-pivot: scow-runtime always changes the root by pivot_root(2)")
    return lifecycle.Wishes(
        bundle=values["bundle"],
        pid_file=values["pid_file"],
        console_socket=values["console_socket"],
        preserve_fds=values["preserve_fds"],
        new_keyring=not values["no_new_keyring"],
        detach=values.get("detach", False),
    )


def start(root: str, values: Values, arguments: list[str]) -> int:
    """``start``."""
    from scow_runtime_native.command import lifecycle

    lifecycle.start(root, arguments[0])
    return 0


def exec(root: str, values: Values, arguments: list[str]) -> int:
    """``exec``."""
    from scow_runtime_native.command import execs

    return execs.run(root, arguments[0], values, arguments[1:])


def state(root: str, values: Values, arguments: list[str]) -> int:
    """``state``."""
    from scow_runtime_native.command import store

    print(json.dumps(store.find(root, arguments[0]).state(), indent=2))  # noqa: T201
    return 0


def kill(root: str, values: Values, arguments: list[str]) -> int:
    """``kill``."""
    from scow_runtime_native.command import lifecycle, signals

    number = signals.number(arguments[1] if len(arguments) > 1 else "TERM")
    lifecycle.kill(root, arguments[0], number, everything=values["all"])
    return 0


def delete(root: str, values: Values, arguments: list[str]) -> int:
    """``delete``."""
    from scow_runtime_native.command import lifecycle

    lifecycle.delete(root, arguments[0], force=values["force"])
    return 0
