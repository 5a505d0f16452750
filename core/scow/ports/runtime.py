"""Runtimes: from an OCI bundle to processes.

A runtime has two halves. The driver object lives in scowd and makes *plans* (JSON values) and cgroups. Its *child
module* lives in the zygote and so in every monitor: it is imported once, before the heap is frozen, uses only the
standard library, ``scow.linux`` and its own package's modules that do the same, and turns a plan into a process by
fork. Nothing is imported after a fork.

The child module offers (checked by the kit)::

    def create(plan: Plan, stdio: tuple[int, int, int], tty: bool) -> Spawned
        # in the monitor: clone the container's init into its namespaces and cgroup and return at once; the child sets
        # up its root meanwhile and then waits on Spawned.start_fd
    def start_exec(plan: Plan, init_pid: int, stdio: tuple[int, int, int], tty: bool) -> Spawned
        # in the monitor: a further process in the container of *init_pid*, child of the monitor; it waits as well

    def oom_killed(plan: Plan) -> bool        # optional, in the monitor: whether the kernel killed for want of memory
    def kept(plan: Plan) -> Plan              # optional: what the started monitor keeps of it for oom_killed
    def prepare(hints: Collection[str]) -> None   # optional, in a spare monitor: what the first create needs may be
                                              # made; the last containers were "" or had a user namespace, "userns"
    def discard() -> None                     # with it: what was prepared is gone, the container is another runtime's
    def rehearse() -> None                    # optional, in the zygote: see scow.monitor.rehearsal

    class Spawned(NamedTuple):
        pid: int          # as the monitor's PID namespace counts it
        start_fd: int     # write end of a pipe: one byte lets the process execve; closing it unwritten ends it
        status_fd: int    # read end: one JSON line {"ready": true} when set up; later EOF after a successful execve,
                          # or one JSON line {"error": …, "stage": …, "errno": …, "kind": "not_found|cannot_run|setup"}
        birth: Birth | None   # optional: pid() is the child of the monitor that goes on where *pid* ends, 0 for none.
                              # It holds once *pid* has ended, or the status pipe; close() is called then. So a
                              # helper can do with the host's rights what no process in the container may be seen with

A process with a terminal (*tty*: *stdio* are three times the slave of one that the monitor made on the host) may make
one in the container's own devpts instead, so that its name is a file there. It puts the slave in place of its stdio,
makes it its controlling terminal, says ``{"ready": true, "console_fd": n}`` where *n* is its descriptor of the master,
and keeps that open until its start byte comes: the monitor takes a duplicate by pidfd_getfd(2), which needs
CAP_SYS_PTRACE, gives it the window size, and closes the host's. ``start_fd`` is written after that.

A runtime that leaves the OCI hooks of the runtime's namespaces to the monitor has two more members in the init's plan:
``hooks``, a list by kind of what `scow.linux.oci_hooks` runs, and ``state``, what every state of the container says.
The monitor runs ``poststart`` before it tells that the container runs, and ``poststop`` before it tells that it ended.
For ``prestart`` and ``createRuntime`` the init says ``{"hooks": "createRuntime"}`` and reads ``start_fd``: a byte lets
it go on, its end ends it; only then does the start byte follow. A plan without ``hooks`` costs nothing.

A child module with ``INDIRECT = True`` has another program (runc, for one) make its processes. Its ``Spawned.pid`` is
then a *maker*: a process of its own code that runs the program and speaks for what that makes. The monitor is the
subreaper, prctl(2), of all that they orphan. The maker says ``{"ready": true, "pid": n}`` when the process *n* is set
up and has become the monitor's child by the end of the program that made it; from then on *n* is the process, while
``start_fd``, ``status_fd`` and ``console_fd`` stay the maker's: it starts *n* when the byte comes, kills it when
``start_fd`` is closed unwritten, and ends. A further process (``start_exec``) may run already when it is named, where
the program knows no creation apart from the start. What is written to *stdio* before ``ready`` is the maker's program
speaking, and is read after it or, where it does not come, thrown away. The client of ``create`` is answered when *n* is
known, so that nobody sees the maker's pid. Its plans have no ``hooks``: the program runs them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scow.ports import Mount

Plan: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What ``docker info`` and ``version`` tell of a runtime."""

    version: str
    cgroup_version: str  # "1", "2" or "hybrid"
    cgroup_driver: str  # "cgroupfs" or "systemd"
    security_options: tuple[str, ...] = ()
    features: Mapping[str, Any] = field(default_factory=dict)
    """``user_namespaces``: it makes containers with a user namespace of their own from specs that have one, and takes
    the option ``idmap`` in the recipes of a root (`scow.ports.Mount`) and in bind mounts."""
    path: str = ""  # of the program that makes its containers, where that is one


@runtime_checkable
class Runtime(Protocol):
    """Runs OCI bundles (runtime-spec 1.2). *id* is the container id everywhere."""

    child_module: str

    def check(self) -> None:
        """Raise `DriverUnusable` where this host cannot serve the runtime."""

    def info(self) -> RuntimeInfo:
        """Versions and features of the runtime on this host."""

    def create(self, id: str, spec: Mapping[str, Any], root: Sequence[Mount], bundle: Path) -> Plan:
        """The container's cgroup exists with its limits, and the plan by which the child module makes its init.

        *spec* is the OCI runtime configuration, *root* how to mount its root filesystem, *bundle* the bundle's folder
        (its ``rootfs`` is the mount point). Raises `InvalidArgument` for a spec that cannot be run, and leaves no
        cgroup then.
        """

    def exec(self, id: str, spec: Mapping[str, Any], process: Mapping[str, Any]) -> Plan:
        """The plan for one more process (an OCI ``process`` object) in the running container of *spec*."""

    def processes(self, id: str) -> list[int]:
        """The host PIDs of the container's processes, from its cgroup; empty where there is none."""

    def signal_all(self, id: str, signal: int) -> None:
        """Every process of the container's cgroup got *signal* (``cgroup.kill`` where the kernel has it)."""

    def pause(self, id: str) -> None:
        """Every process of the container is frozen."""

    def resume(self, id: str) -> None:
        """Every process of the container runs again."""

    def update(self, id: str, resources: Mapping[str, Any]) -> None:
        """The OCI ``linux.resources`` given hold for the live container; those absent stay."""

    def oom_killed(self, id: str) -> bool:
        """Whether the kernel killed a process of the container for want of memory. False without a cgroup."""

    def stats(self, id: str) -> dict[str, Any]:
        """Docker's ``cpu_stats``, ``memory_stats``, ``pids_stats`` and ``blkio_stats`` as of now. Raises `NotFound`."""

    def delete(self, id: str) -> None:
        """The container's cgroup is gone (its processes are killed first); no error where there is none."""

    def list(self) -> list[str]:
        """The ids of all containers that have a cgroup of this engine."""

    def close(self) -> None:
        """Nothing of the driver runs any more in this process."""
