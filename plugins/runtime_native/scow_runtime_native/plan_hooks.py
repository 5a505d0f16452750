"""The ``hooks`` of a spec, checked, in the form that `scow.linux.oci_hooks` runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument
from scow.linux.oci_hooks import KINDS

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping


def hook_plan(spec: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The hooks of *spec* by kind; kinds without hooks are absent. Raises `InvalidArgument`."""
    given = spec.get("hooks") or {}
    unknown = sorted(set(given) - set(KINDS))
    if unknown:
        raise InvalidArgument(f"unknown kind of hook {unknown[0]!r}", hint=f"known: {', '.join(KINDS)}")
    # as runc: hooks in the container that have no environment of their own get its program's
    own = {"startContainer": list((spec.get("process") or {}).get("env") or ())}
    return {
        kind: [_hook(kind, number, hook, own.get(kind, [])) for number, hook in enumerate(given[kind])]
        for kind in KINDS
        if given.get(kind)
    }


def _hook(kind: str, number: int, hook: Mapping[str, Any], environment: list[str]) -> dict[str, Any]:
    path, timeout = str(hook.get("path") or ""), hook.get("timeout")
    if not path.startswith("/"):
        raise InvalidArgument(f"{kind} hook #{number}: the path {path!r} is not absolute")
    if timeout is not None and not timeout > 0:
        raise InvalidArgument(f"{kind} hook #{number} ({path}): the timeout {timeout} is not greater than zero")
    return {
        "path": path,
        "args": list(hook.get("args") or ()) or [path],
        "env": list(hook.get("env") or ()) or environment,
        "timeout": timeout or 0,
    }


def state_base(id: str, spec: Mapping[str, Any], bundle: str | os.PathLike[str]) -> dict[str, Any]:
    """What every state of the container says (runtime.md, "State")."""
    return {
        "ociVersion": str(spec.get("ociVersion", "1.2.0")),
        "id": id,
        "bundle": str(bundle),
        "annotations": dict(spec.get("annotations") or {}),
    }
