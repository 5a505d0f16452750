"""Version 1 and 2 side by side, as systemd's hybrid layout has them: each controller is bound to one of the two.

Nearly all are version 1's there, so a container's group is version 1's business. Only one with a limit that version 2
holds (``hugepageLimits``, ``rdma`` or ``blockIO`` where those controllers are not bound to version 1, and ``unified``)
gets a group in the unified hierarchy too and joins it: the others would pay for a group, a migration and a removal that
give them nothing.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument
from scow_runtime_native import limits_v2
from scow_runtime_native.cgroups_v1 import CgroupsV1
from scow_runtime_native.cgroups_v2 import CgroupsV2

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scow.linux.hierarchies import Hierarchies
    from scow_runtime_native.limits import Setting

_SECTIONS = {  # of linux.resources: the controller in version 1 and in version 2
    "memory": ("memory", "memory"),
    "cpu": ("cpu", "cpu"),
    "pids": ("pids", "pids"),
    "blockIO": ("blkio", "io"),
    "hugepageLimits": ("hugetlb", "hugetlb"),
    "rdma": ("rdma", "rdma"),
}


class CgroupsHybrid(CgroupsV1):
    """Implements `scow_runtime_native.cgroup_manager.Manager` over both versions of *hierarchies*."""

    def __init__(self, hierarchies: Hierarchies, top: str = "scow") -> None:
        super().__init__(hierarchies, top)
        self._hierarchies = hierarchies
        self._unified = hierarchies.v2 or ""
        self._second = CgroupsV2(hierarchies)

    def create(self, path: str, resources: Mapping[str, Any]) -> None:
        """See the protocol."""
        second = self._split(resources)[1]
        if second:
            self._second.create(path, {})
        try:
            super().create(path, resources)
        except BaseException:
            if second:
                self._second.delete(path)
            raise

    def join_record(self, path: str, resources: Mapping[str, Any]) -> dict[str, Any]:
        """See the protocol."""
        record = super().join_record(path, resources)
        if self._split(resources)[1]:
            record["tasks"].append(f"{self._unified}/{path}/cgroup.procs")
            record["hierarchies"].append([os.path.basename(self._unified), f"{self._unified}/{path}"])
        return record

    def update(self, path: str, resources: Mapping[str, Any]) -> None:
        """See the protocol."""
        second = self._split(resources)[1]
        if second and not os.path.isdir(f"{self._unified}/{path}"):
            raise InvalidArgument(
                f"cannot set {', '.join(second)} of a running container that was started without such a limit: it is "
                "not in the unified cgroup hierarchy, which holds them on this host"
            )
        super().update(path, resources)

    def delete(self, path: str) -> None:
        """See the protocol."""
        super().delete(path)
        self._second.delete(path)

    def tidy(self, path: str) -> None:
        """See the protocol."""
        super().tidy(path)
        self._second.tidy(path)

    def children(self, path: str) -> list[str]:
        """See the protocol."""
        return sorted({*super().children(path), *self._second.children(path)})

    def _split(self, resources: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What version 1 limits, and what version 2 does. Raises `InvalidArgument` for a unified limit of version 1."""
        v1, v2 = self._hierarchies.v1, self._hierarchies.v2_controllers
        unified = resources.get("unified") or {}
        for file in unified:
            controller = file.partition(".")[0]
            if controller in v1 or (controller == "io" and "blkio" in v1):
                raise InvalidArgument(
                    f"cannot set {file}: on this host the {controller} controller is bound to cgroup version 1",
                    hint="use the limit's own key in linux.resources",
                )
        second = {
            section: resources[section]
            for section, (old, new) in _SECTIONS.items()
            if resources.get(section) and old not in v1 and new in v2
        }
        if unified:
            second["unified"] = unified
        return {key: value for key, value in resources.items() if key not in second and key != "unified"}, second

    def _folder(self, controller: str, path: str) -> str:
        if controller not in self._mounts and controller in {"cgroup", *self._hierarchies.v2_controllers}:
            return f"{self._unified}/{path}"
        return super()._folder(controller, path)

    def _settings(self, path: str, resources: Mapping[str, Any], *, live: bool) -> Iterator[Setting]:
        first, second = self._split(resources)
        directory = f"{self._unified}/{path}"
        return itertools.chain(
            super()._settings(path, first, live=live),
            limits_v2.settings(second, directory, self._hierarchies.v2_controllers, live=live),
        )
