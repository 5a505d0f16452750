"""``update``: limits and restart policy of a container, changed while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from scow.engine import spec
from scow.engine.restart_policy import check_policy
from scow.errors import Conflict
from scow.ports import RUNTIME
from scow.types import Resources

if TYPE_CHECKING:
    from scow.engine.containers import Containers
    from scow.engine.live import Live
    from scow.types import RestartPolicy


async def update(containers: Containers, live: Live, resources: Resources, policy: RestartPolicy | None) -> list[str]:
    """The values given (those that differ from "no limit") replace the container's; answers warnings.

    Everything is checked before anything changes; the kernel is told before the record is stored.
    """
    async with live.lock:
        record = live.record
        if record.state.status in ("removing", "dead"):
            raise Conflict(f"container {record.id} is being removed")
        empty = Resources()
        given = {
            name: getattr(resources, name)
            for name in Resources.__struct_fields__
            if getattr(resources, name) != getattr(empty, name)
        }
        if policy is not None and policy.name:
            given["restart_policy"] = policy
        host = msgspec.structs.replace(record.host_config, **given)
        check_policy(host)
        warnings: list[str] = spec.validate(record.config, host)
        if record.state.running and set(given) - {"restart_policy"}:
            limits = {key: value for key, value in spec.resources(host).items() if key != "devices"}
            await containers.drivers.call(RUNTIME, record.runtime, "update", lambda d: d.update(record.id, limits))
        await containers.save(live, msgspec.structs.replace(record, host_config=host))
    containers.tell(live, "update")
    return warnings
