"""One function a command: flags and arguments into calls. Each answers the exit code."""

from __future__ import annotations

import sys
from typing import Any

from scow.errors import InvalidArgument, Unsupported

Values = dict[str, Any]
Arguments = list[str]


def create(root: str, values: Values, arguments: Arguments) -> int:
    """``create``."""
    from scow_runtime_native.command import lifecycle

    lifecycle.create(root, arguments[0], _wishes(values))
    return 0


def run(root: str, values: Values, arguments: Arguments) -> int:
    """``run``."""
    from scow_runtime_native.command import foreground, lifecycle

    if not values["no_subreaper"] and not values["detach"]:
        foreground.become_subreaper()
    return lifecycle.run(root, arguments[0], _wishes(values), keep=values["keep"])


def _json(value: Any, indent: int | None = None) -> str:
    import json  # here: what makes processes does without

    return json.dumps(value, indent=indent)


def _show(text: str) -> int:
    sys.stdout.write(text + "\n")
    return 0


def _wishes(values: Values) -> Any:
    from scow_runtime_native.command import lifecycle

    if values["no_pivot"]:
        raise Unsupported("--no-pivot: scow-runtime always changes the root by pivot_root(2)")
    _refuse_descriptors(values)
    return lifecycle.Wishes(
        bundle=values["bundle"],
        pid_file=values["pid_file"],
        console_socket=values["console_socket"],
        new_keyring=not values["no_new_keyring"],
        detach=values.get("detach", False),
    )


def _refuse_descriptors(values: Values) -> None:
    if values["preserve_fds"]:
        raise Unsupported("--preserve-fds: scow-runtime gives a process no descriptors but its stdio")


def start(root: str, values: Values, arguments: Arguments) -> int:
    """``start``."""
    from scow_runtime_native.command import lifecycle

    lifecycle.start(root, arguments[0])
    return 0


def exec(root: str, values: Values, arguments: Arguments) -> int:
    """``exec``."""
    from scow_runtime_native.command import execs

    _refuse_descriptors(values)
    return execs.run(root, arguments[0], values, arguments[1:])


def state(root: str, values: Values, arguments: Arguments) -> int:
    """``state``."""
    from scow_runtime_native.command import store

    return _show(_json(store.find(root, arguments[0]).state(), indent=2))


def kill(root: str, values: Values, arguments: Arguments) -> int:
    """``kill``."""
    from scow_runtime_native.command import lifecycle, signals

    number = signals.number(arguments[1] if len(arguments) > 1 else "TERM")
    lifecycle.kill(root, arguments[0], number, everything=values["all"])
    return 0


def delete(root: str, values: Values, arguments: Arguments) -> int:
    """``delete``."""
    from scow_runtime_native.command import lifecycle

    lifecycle.delete(root, arguments[0], force=values["force"])
    return 0


def list(root: str, values: Values, arguments: Arguments) -> int:
    """``list``."""
    from scow_runtime_native.command import reports, store

    if values["quiet"]:
        return _show("\n".join(store.all_ids(root))) if store.all_ids(root) else 0
    states = reports.states(root)
    if _format(values) == "json":
        return _show(_json(states))
    return _show(reports.table(states))


def ps(root: str, values: Values, arguments: Arguments) -> int:
    """``ps``."""
    from scow_runtime_native.command import reports, store

    pids = reports.processes(root, store.find(root, arguments[0]))
    if _format(values) == "json":
        return _show(_json(pids))
    return _show(reports.process_table(pids, arguments[1:] or ["-ef"]))


def _format(values: Values) -> str:
    word = str(values["format"])
    if word not in ("table", "json"):
        raise InvalidArgument(f"--format {word!r}: it is table or json")
    return word


def pause(root: str, values: Values, arguments: Arguments) -> int:
    """``pause``."""
    from scow_runtime_native.command import lifecycle

    lifecycle.pause(root, arguments[0])
    return 0


def resume(root: str, values: Values, arguments: Arguments) -> int:
    """``resume``."""
    from scow_runtime_native.command import lifecycle

    lifecycle.resume(root, arguments[0])
    return 0


def update(root: str, values: Values, arguments: Arguments) -> int:
    """``update``."""
    from scow_runtime_native.command import limits

    limits.update(root, arguments[0], values)
    return 0


def events(root: str, values: Values, arguments: Arguments) -> int:
    """``events``."""
    from scow_runtime_native.command import events as stream

    if values["stats"]:
        return _show(_json(stream.statistics(root, arguments[0])))
    stream.follow(root, arguments[0], stream.seconds(values["interval"]))
    return 0


def spec(root: str, values: Values, arguments: Arguments) -> int:
    """``spec``."""
    from scow_runtime_native.command import template

    if values["rootless"]:
        raise Unsupported("spec --rootless: scow-runtime needs root")
    template.write(values["bundle"])
    return 0


def features(root: str, values: Values, arguments: Arguments) -> int:
    """``features``."""
    from scow_runtime_native.command import features as document

    return _show(_json(document.document(), indent=2))


def checkpoint(root: str, values: Values, arguments: Arguments) -> int:
    """``checkpoint``."""
    raise Unsupported("scow-runtime has no checkpoints", hint="use runc or crun with criu")


def restore(root: str, values: Values, arguments: Arguments) -> int:
    """``restore``."""
    raise Unsupported("scow-runtime has no checkpoints", hint="use runc or crun with criu")
