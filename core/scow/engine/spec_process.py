"""The ``process`` object of the runtime spec: of a container's init and of an exec."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from scow.engine import spec_defaults as defaults
from scow.engine.spec_security import all_capabilities
from scow.linux.capabilities import NUMBERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from scow.engine.model import Container
    from scow.engine.spec_security import Security
    from scow.types import ExecRequest, HostConfig


def process(container: Container, caps: tuple[str, ...], security: Security) -> dict[str, Any]:
    """The init of *container*, with the capabilities *caps*."""
    config, host = container.config, container.host_config
    made: dict[str, Any] = {
        "terminal": config.tty,
        "user": {"uid": 0, "gid": 0, "username": config.user or "0", "groups": list(host.group_add)},
        "args": [container.path, *container.args],
        "env": environment(container),
        "cwd": config.working_dir or "/",
        "capabilities": capability_sets(caps),
        "noNewPrivileges": security.no_new_privileges,
        "rlimits": rlimits(host),
        "oomScoreAdj": host.oom_score_adj,
    }
    if security.apparmor:
        made["apparmorProfile"] = security.apparmor
    return made


def exec_process(container: Container, request: ExecRequest, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A further process in *container*, whose running spec is *spec*: its own command, environment on top of the
    container's, user and working directory; all capabilities when privileged, else the container's."""
    base = spec["process"]
    made: dict[str, Any] = copy.copy(dict(base))
    user = dict(base["user"])
    if request.user:
        user["username"] = request.user
        user["groups"] = []
    env = [item for item in base["env"] if not item.startswith("TERM=")] if not request.tty else list(base["env"])
    if request.tty and not any(item.startswith("TERM=") for item in env):
        env.append("TERM=xterm")
    made.update(
        terminal=request.tty,
        user=user,
        args=list(request.cmd),
        env=merge_environment(env, request.env),
        cwd=request.working_dir or base["cwd"],
    )
    if request.privileged:
        made["capabilities"] = capability_sets(all_capabilities())
    return made


def environment(container: Container) -> list[str]:
    """PATH, HOSTNAME, TERM with a terminal, then the user's, which may replace them."""
    config = container.config
    hostname = config.hostname or container.id[:12]
    own = [f"PATH={defaults.PATH}", f"HOSTNAME={hostname}"]
    if config.tty:
        own.append("TERM=xterm")
    return merge_environment(own, config.env)


def merge_environment(first: Iterable[str], second: Iterable[str]) -> list[str]:
    """*first*, changed by *second*: ``NAME=value`` sets, ``NAME`` alone takes away."""
    merged = {item.partition("=")[0]: item for item in first}
    for item in second:
        name, equals, _ = item.partition("=")
        if equals:
            merged[name] = item
        else:
            merged.pop(name, None)
    return list(merged.values())


def capability_sets(caps: Iterable[str]) -> dict[str, list[str]]:
    """The five sets of a container: nothing is inheritable (CVE-2022-24769) or ambient, as in Docker."""
    ordered = sorted(caps, key=NUMBERS.__getitem__)
    return {
        "bounding": ordered,
        "effective": ordered,
        "permitted": ordered,
        "inheritable": [],
        "ambient": [],
    }


def rlimits(host: HostConfig) -> list[dict[str, Any]]:
    """``--ulimit`` in the spec's words; -1 is unlimited."""
    infinity = (1 << 64) - 1
    return [
        {
            "type": f"RLIMIT_{limit.name.upper()}",
            "soft": infinity if limit.soft < 0 else limit.soft,
            "hard": infinity if limit.hard < 0 else limit.hard,
        }
        for limit in host.ulimits
    ]
