"""Every hook of Scow, and the markers to implement them.

A plugin module or a driver object implements a hook by a function of the same name under `hookimpl`. Events are told
to everybody and cannot be wrapped; contributions collect what each plugin answers; the first answer that is not None
wins where it says *firstresult*. Order: as plugins are registered, last first (pluggy's rule).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scow.ports.registry import Credentials

hookspec = pluggy.HookspecMarker("scow")
hookimpl = pluggy.HookimplMarker("scow")


# -------------------------------------------------------------------------
# events: what happened
# -------------------------------------------------------------------------


@hookspec
def scow_event(type: str, action: str, actor_id: str, attributes: Mapping[str, str], time_ns: int) -> None:
    """Something happened, as ``scow events`` shows it: *type* ``container``, *action* ``start``, … Told after it was
    stored; on a worker thread.

    ::

        @hookimpl
        def scow_event(type, action, actor_id):
            print(type, action, actor_id)
    """


# -------------------------------------------------------------------------
# contributions: what plugins add
# -------------------------------------------------------------------------


@hookspec(firstresult=True)
def scow_registry_credentials(host: str) -> Credentials | None:
    """The credentials for registry *host*, where this plugin knows them.

    ::

        @hookimpl
        def scow_registry_credentials(host):
            if host == "registry.example.com":
                return Credentials("reader", token())
    """


@hookspec
def scow_spec(container_id: str, spec: dict[str, Any], annotations: Mapping[str, str]) -> None:
    """May change the OCI runtime *spec* of a container in place before it is created.

    ::

        @hookimpl
        def scow_spec(spec):
            spec["process"]["env"].append("TZ=UTC")
    """
