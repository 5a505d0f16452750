"""The options of one instance, from the config file."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument
from scow_runtime_oci.program import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_COMMAND = "runc"
_INIT_PROGRAMS = ("docker-init", "tini-static", "catatonit")
_KNOWN = ("arguments", "command", "hide_unified", "init")


@dataclass(frozen=True, slots=True)
class Options:
    """*command*: the program, a name or a path; *arguments*: its global options; *hide_unified*: run it where cgroup
    version 2 is not mounted beside version 1; *init*: the program for ``--init``, ``""`` where there is none."""

    command: str
    arguments: tuple[str, ...]
    hide_unified: bool
    init: str


def parse(given: Mapping[str, Any]) -> Options:
    """Raises `InvalidArgument` naming the option."""
    unknown = sorted(set(given) - set(_KNOWN))
    if unknown:
        raise InvalidArgument(f"unknown option {unknown[0]!r}; valid options: {', '.join(_KNOWN)}")
    command, init = given.get("command", DEFAULT_COMMAND), given.get("init", "")
    arguments, hide = given.get("arguments", []), given.get("hide_unified", False)
    if not isinstance(command, str) or not command:
        raise InvalidArgument(f"option command: expected a name or a path, got {command!r}")
    if not isinstance(init, str):
        raise InvalidArgument(f"option init: expected a path, got {init!r}")
    if not isinstance(hide, bool):
        raise InvalidArgument(f"option hide_unified: expected true or false, got {hide!r}")
    if not isinstance(arguments, list) or not all(isinstance(word, str) for word in arguments):
        raise InvalidArgument(f"option arguments: expected a list of strings, got {arguments!r}")
    for word in arguments:
        name = word.partition("=")[0]
        if name in ("--root", "--log", "--log-format", "--systemd-cgroup"):
            raise InvalidArgument(f"option arguments: {name} is not for users: the engine places state, log and cgroup")
    return Options(command, tuple(arguments), hide, init or find(*_INIT_PROGRAMS))


def find(*names: str) -> str:
    """The path of the first of *names* that is a program: a path itself, or in scowd's PATH or the usual one."""
    places = os.pathsep.join((os.environ.get("PATH", ""), ENVIRONMENT["PATH"]))
    return next((path for name in names if (path := shutil.which(name, path=places))), "")
