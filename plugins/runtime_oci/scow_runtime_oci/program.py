"""The runtime program: how it is called, where, and why it failed. For scowd and the zygote: standard library only.

The grammar is runc's (runc(8)): global options before the command, ``--log FILE --log-format json`` among them.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from scow.linux import syscalls as sys

if TYPE_CHECKING:
    from collections.abc import Sequence

NOT_FOUND = "not_found"  # exit code 127
CANNOT_RUN = "cannot_run"  # exit code 126
SETUP = "setup"
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
UNIFIED = "/sys/fs/cgroup/unified"

_LOG_LIMIT_BYTES = 1 << 20
_ABSENT = re.compile(r"executable file .*not found|exec: .*no such file or directory", re.IGNORECASE)
_REFUSED = re.compile(r"exec: .*(permission denied|is a directory|format error)", re.IGNORECASE)
_DIRECTORY = re.compile(r"chdir|working directory", re.IGNORECASE)
_CRUN_ABSENT = re.compile(r"executable file `(.*)` not found in \$PATH.*")
_CRUN_REFUSED = re.compile(r"open executable: (.*)")
_HYBRID = "hybrid mode not supported"


class Cause(NamedTuple):
    """Why the program failed, in its own words, and what that means for an exit code."""

    message: str
    kind: str


def argv(command: Sequence[str], log: str, *words: str) -> list[str]:
    """*command* (the program and its global options) with *words*, writing its log to the file *log*."""
    return [*command, "--log", log, "--log-format", "json", *words]


def hide_unified() -> None:
    """The caller's mount namespace is private, and cgroup version 2 is not mounted beside version 1 in it."""
    sys.mount(None, "/", None, sys.MS_REC | sys.MS_SLAVE)
    if os.path.ismount(UNIFIED):
        sys.umount(UNIFIED, sys.MNT_DETACH)


def cause(log: str, status: int) -> Cause:
    """The last error in the program's *log*, or how it ended (*status*: exit code, negative a signal)."""
    message = _in_dockers_words(_last_error(_read(log)))
    if not message:
        how = f"it ended with exit code {status}" if status >= 0 else f"it was killed by signal {-status}"
        return Cause(how, SETUP)
    if _HYBRID in message:
        return Cause(f"{message} (it runs beside cgroup version 1 with the option hide_unified: true)", SETUP)
    if _DIRECTORY.search(message) or _REFUSED.search(message):
        return Cause(message, CANNOT_RUN)
    return Cause(message, NOT_FOUND if _ABSENT.search(message) else SETUP)


def _in_dockers_words(message: str) -> str:
    """Docker's clients read the cause of a failed start from runc's words; crun has others."""
    message = _CRUN_ABSENT.sub(r'exec: "\1": executable file not found in $PATH', message)
    refused = _CRUN_REFUSED.search(message)
    if not refused:
        return message
    reason = refused[1].lower()
    return f"exec: {reason}" if "permission denied" in reason else f"exec: permission denied ({reason})"


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_LIMIT_BYTES))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _last_error(log: str) -> str:
    """The message of the last line of level error or worse; runc logs warnings too, some programs no level at all."""
    for line in reversed(log.splitlines()):
        entry = _entry(line)
        if entry.get("level", "error") in ("error", "fatal", "panic") and entry.get("msg"):
            message = str(entry["msg"]).strip()
            return str(_entry(message).get("msg") or message)  # crun hands on whole lines of its child
    return ""


def _entry(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}
