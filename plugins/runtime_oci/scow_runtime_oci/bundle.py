"""The engine's runtime spec as any program of the OCI runtime spec reads it: ``config.json``.

What is Scow's own in it (`scow.engine.spec`) is translated; users' names stay for the maker, who sees the root.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

INIT = "/sbin/docker-init"
"""Where ``--init`` has its program in the container, as in Docker."""

VERSION = "1.0.2"
"""Of the runtime spec, as told to the program: crun before 1.9 takes no other minor version, and none looks at it to
decide what it understands."""

_OWN_SCORE = "/proc/self/oom_score_adj"


def configuration(spec: Mapping[str, Any], rootfs: str, cgroup: str, init_program: str) -> dict[str, Any]:
    """*spec* for a container whose root is mounted at *rootfs* and whose cgroup is */cgroup*. *init_program* is the
    host's program for ``--init``, ``""`` where there is none. Raises `InvalidArgument` for what cannot be run."""
    annotations = {key: value for key, value in (spec.get("annotations") or {}).items() if key != "scow.init"}
    wants_init = "scow.init" in (spec.get("annotations") or {})
    mounts = [dict(mount) for mount in spec.get("mounts") or ()]
    made = process(spec["process"])
    if wants_init:
        if not init_program:
            raise InvalidArgument(
                "no program for --init was found: looked for docker-init, tini-static and catatonit",
                hint="install one, or name it by the runtime's option init",
            )
        mounts.append({"destination": INIT, "type": "bind", "source": init_program, "options": ["bind", "ro"]})
        made["args"] = [INIT, "--", *made["args"]]
    linux = {**(spec.get("linux") or {}), "cgroupsPath": cgroup}
    if linux.get("resources"):
        linux["resources"] = _limits(linux["resources"])
    propagation = linux.get("rootfsPropagation") or root_propagation(mounts)
    if propagation:
        linux["rootfsPropagation"] = propagation
    config = {
        **spec,
        "ociVersion": VERSION,
        "process": made,
        "mounts": mounts,
        "linux": linux,
        "annotations": annotations,
    }
    config["root"] = {**(spec.get("root") or {}), "path": rootfs}
    for name in ("hostname", "domainname"):
        if not config.get(name):
            config.pop(name, None)
    return config


def process(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The ``process`` object *asked*, without what this host cannot have anyhow. Raises `InvalidArgument`."""
    args = asked.get("args") or ()
    if not args or not args[0]:
        raise InvalidArgument("no command specified")
    cwd = asked.get("cwd") or "/"
    if not cwd.startswith("/"):
        raise InvalidArgument(f"the working directory {cwd!r} is invalid, it needs to be an absolute path")
    made = {**asked, "cwd": cwd}
    if made.get("oomScoreAdj") == 0 and _own_score() > 0:
        del made["oomScoreAdj"]  # nobody asked to lower it, which needs CAP_SYS_RESOURCE
    if made.get("apparmorProfile") and not os.path.isdir("/sys/module/apparmor"):
        del made["apparmorProfile"]
    return made


def _limits(resources: Mapping[str, Any]) -> dict[str, Any]:
    """*resources* of a new cgroup, where processes have no limit anyhow: crun 1.8 cannot write that there is none."""
    unlimited = (resources.get("pids") or {}).get("limit", 0) <= 0
    return {key: value for key, value in resources.items() if key != "pids" or not unlimited}


def root_propagation(mounts: list[dict[str, Any]]) -> str:
    """What the root must be for the propagation that *mounts* ask for, ``""`` where none does (as Docker has it)."""
    words = {word for mount in mounts for word in mount.get("options") or ()}
    if words & {"shared", "rshared"}:
        return "shared"
    return "rslave" if words & {"slave", "rslave"} else ""


def _own_score() -> int:
    with open(_OWN_SCORE, encoding="ascii") as file:
        return int(file.read())
