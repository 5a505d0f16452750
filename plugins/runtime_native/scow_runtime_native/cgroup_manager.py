"""Control groups: one manager for each version, over the `scow.linux.hierarchies` that the host has mounted.

Roots are parameters: the managers work in any folder, so that tests give them trees of plain files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


class Manager(Protocol):
    """The cgroups of one engine. *path* is relative to the roots, ``scow/<engine>/<id>``."""

    def create(self, path: str, resources: Mapping[str, Any]) -> None:
        """The group exists with its limits. Raises `InvalidArgument` for a limit that is refused, and `Conflict` for a
        group that others use; what was made is gone then."""

    def join_record(self, path: str, resources: Mapping[str, Any]) -> dict[str, Any]:
        """How a process joins the group with these limits: the plan's ``cgroup``. Asks nothing of the host."""

    def processes(self, path: str) -> list[int]:
        """The PIDs in the group and below it; empty where there is none."""

    def signal_all(self, path: str, signum: int) -> None:
        """Every process in the group and below it got *signum*."""

    def freeze(self, path: str, frozen: bool) -> None:
        """The group is frozen, or not, when this returns."""

    def update(self, path: str, resources: Mapping[str, Any]) -> None:
        """The limits given hold; the others stay. Raises `InvalidArgument` for one that is refused: all stay then."""

    def oom_kills(self, path: str) -> int:
        """How many processes the kernel killed for want of memory; 0 where there is no group."""

    def stats(self, path: str) -> dict[str, Any]:
        """Docker's statistics. Raises `NotFound`."""

    def delete(self, path: str) -> None:
        """No process and no group is left at *path*."""

    def tidy(self, path: str) -> None:
        """*path* and the groups above it are gone as far as they are empty."""

    def children(self, path: str) -> list[str]:
        """The names of the groups directly below *path*."""
