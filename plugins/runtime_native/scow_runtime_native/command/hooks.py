"""OCI hooks that the command runs itself, in its own namespaces; those of the container are its init's (the package's
`scow_runtime_native.hooks`). Which there are is asked of the configuration at the time of create."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scow_runtime_native.child import Spawned
    from scow_runtime_native.command.store import Container


def create_runtime(plan: dict[str, Any], spawned: Spawned) -> None:
    """The ``prestart`` and ``createRuntime`` hooks have run, and the init goes on. Raises `HookFailed`."""
    from scow.linux import oci_hooks

    for kind in ("prestart", "createRuntime"):
        state = oci_hooks.state(plan["state"], kind, spawned.pid)
        oci_hooks.run(kind, plan["hooks"].get(kind, ()), state)
    os.write(spawned.start_fd, b"\n")


def poststart(container: Container) -> None:
    """The ``poststart`` hooks have run. Raises `HookFailed`."""
    from scow.linux import oci_hooks

    hooks, base = _of(container)
    oci_hooks.run("poststart", hooks.get("poststart", ()), oci_hooks.state(base, "poststart", container.pid))


def poststop(container: Container) -> None:
    """The ``poststop`` hooks have run; what goes wrong with one is said on stderr."""
    from scow.linux import oci_hooks

    hooks, base = _of(container)
    state = oci_hooks.state(base, "poststop", 0)
    for warning in oci_hooks.run_all("poststop", hooks.get("poststop", ()), state):
        sys.stderr.write(f"scow-runtime: warning: {warning}\n")


def _of(container: Container) -> tuple[dict[str, Any], dict[str, Any]]:
    """The hooks of *container*, and what every state of it says."""
    from scow_runtime_native.plan_hooks import hook_plan, state_base

    spec = container.config()
    return hook_plan(spec), state_base(container.id, spec, container.record["bundle"])
