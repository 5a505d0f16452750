"""The entry: global flags, the choice of the command, and how errors are told.

Exit codes as runc's: that of the container's process for ``run`` and ``exec``, else 0; 1 after an error, 255 where an
exec failed. The error goes to stderr in one line, and to ``--log``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from scow.errors import InvalidArgument, ScowError, Unsupported
from scow_runtime_native.command.grammar import COMMANDS, GLOBAL

_FAILED = 1
_EXEC_FAILED = 255
_MAKERS = frozenset({"create", "run", "exec"})  # of processes


def main(words: list[str] | None = None) -> int:
    """The command line *words*, that of this process by default; answers the exit code."""
    words = sys.argv[1:] if words is None else words
    options: dict[str, Any] = {"log": "", "log_format": "text", "debug": False}
    name = ""
    try:
        options, rest = GLOBAL.parse(words)
        if options["version"]:
            from scow_runtime_native.command.features import version_text

            print(version_text(), end="")  # noqa: T201
            return 0
        if options["help"] or not rest or rest[0] == "help":
            print(_overview(), end="")  # noqa: T201
            return 0
        name = rest[0]
        return _command(words, options, name, rest[1:])
    except (ScowError, OSError) as error:
        return _tell(error, options, name)
    except (
        TypeError,
        KeyError,
        AttributeError,
        ValueError,
    ) as error:  # a value of config.json is not what it should be
        shown = f"{type(error).__name__}: {error}"
        return _tell(InvalidArgument(f"the configuration is not valid: {shown}"), options, name, error)


def _command(words: list[str], options: dict[str, Any], name: str, rest: list[str]) -> int:
    grammar = COMMANDS.get(name)
    if grammar is None:
        raise InvalidArgument(f"unknown command {name!r}", hint="scow-runtime --help lists the commands")
    values, arguments = grammar.parse(rest)
    if values["help"]:
        print(grammar.text(), end="")  # noqa: T201
        return 0
    _refuse(options)
    if name in _MAKERS:
        from scow_runtime_native.command import sealed

        sealed.ensure(words)
    from scow_runtime_native.command import commands

    function = getattr(commands, name)
    code: int = function(os.path.abspath(options["root"]), values, arguments)
    sys.stdout.flush()
    return code


def _refuse(options: dict[str, Any]) -> None:
    if options["log_format"] not in ("text", "json"):
        raise InvalidArgument(f"--log-format {options['log_format']!r}: it is text or json")
    if options["systemd_cgroup"]:
        raise Unsupported(
            "--systemd-cgroup: the cgroup driver of scow-runtime is cgroupfs",
            hint="configure the cgroup manager cgroupfs in the engine",
        )
    if options["rootless"] not in ("auto", "false"):
        raise Unsupported(f"--rootless {options['rootless']}: scow-runtime needs root")


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = "".join(f"  {name.ljust(width)}{grammar.help}\n" for name, grammar in COMMANDS.items())
    return f"{GLOBAL.text()}\ncommands (scow-runtime <command> --help shows more):\n\n{lines}"


def _tell(error: Exception, options: dict[str, Any], name: str, cause: Exception | None = None) -> int:
    """The error is on stderr and in the log: the exit code for it."""
    message = str(error) or type(error).__name__
    hint = getattr(error, "hint", None)
    if name in _MAKERS:
        message = f"{name} failed: {message}"
    if hint:
        message += f" ({hint})"
    if options["log"]:
        try:
            _append(options["log"], options["log_format"], message)
        except OSError as failed:
            message += f"; and cannot write to the log {options['log']}: {os.strerror(failed.errno or 0).lower()}"
    print(f"scow-runtime: {message}", file=sys.stderr)  # noqa: T201
    if options["debug"]:
        import traceback

        traceback.print_exception(cause or error)
    return _EXEC_FAILED if name == "exec" else _FAILED


def _append(path: str, format: str, message: str) -> None:
    """One line, as logrus writes it: containerd and podman parse that."""
    import json
    import time

    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if format == "json":
        line = json.dumps({"level": "error", "msg": message, "time": stamp})
    else:
        line = f"time={json.dumps(stamp)} level=error msg={json.dumps(message)}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, line.encode() + b"\n")
    finally:
        os.close(fd)
