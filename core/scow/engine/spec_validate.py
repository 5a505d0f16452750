"""Checks of a create or update request, in Docker's words, before anything is made."""

from __future__ import annotations

import functools
import os
import posixpath
import re
from typing import TYPE_CHECKING

from scow.engine.spec_resources import device_rules, parse_device_rule
from scow.engine.spec_security import normalize, parse_options, parse_profile
from scow.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from scow.types import ContainerConfig, HostConfig, Resources

_MIN_MEMORY_BYTES = 6 << 20
_MIN_PERIOD_US, _MAX_PERIOD_US = 1000, 1_000_000
_NS_PER_CPU = 1_000_000_000
_RLIMITS = frozenset(
    {"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
     "rttime", "sigpending", "stack", "as"}
)  # fmt: skip
_IPC_SYSCTLS = frozenset(
    {"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
     "kernel.shmmni", "kernel.shm_rmid_forced"}
)  # fmt: skip
_HOSTNAME = re.compile(r"^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$")
_MAX_HOSTNAME = 64  # of the kernel


def validate(config: ContainerConfig, host: HostConfig) -> list[str]:
    """The request can be run as it is; answers warnings. Raises `InvalidArgument` or `Unsupported` where it cannot."""
    _check_config(config)
    _check_modes(config, host)
    _check_security(host)
    _check_sysctls(host)
    for device in host.devices:
        _check_permissions(device.cgroup_permissions)
    for rule in host.device_cgroup_rules:
        parse_device_rule(rule)
    device_rules(host)  # a device that is not there is refused now, not at start
    if host.device_requests:
        request = host.device_requests[0]
        wanted = " ".join("[" + " ".join(names) + "]" for names in request.capabilities)  # as Go prints it
        raise Unsupported(
            f'could not select device driver "{request.driver}" with capabilities: [{wanted}]',
            hint="use --device for the nodes that the program needs",
        )
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidArgument(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if host.shm_size < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    return check_resources(host) + _other_warnings(config, host)


def _check_config(config: ContainerConfig) -> None:
    if config.working_dir and not posixpath.isabs(config.working_dir):
        raise InvalidArgument(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )
    for item in config.env:
        if not item or item.startswith("="):
            raise InvalidArgument(f"invalid environment variable: {item}")
        if "\0" in item:
            raise InvalidArgument("invalid environment variable: it holds a NUL")
    for kind, name in (("hostname", config.hostname), ("domainname", config.domainname)):
        if name and (len(name) > _MAX_HOSTNAME or not _HOSTNAME.fullmatch(name)):
            raise InvalidArgument(f"invalid {kind} format: {name}")


def _check_modes(config: ContainerConfig, host: HostConfig) -> None:
    if host.storage_opt:
        names = ", ".join(host.storage_opt)
        raise Unsupported(f"storage options ({names}) are not supported by this version of scow")
    if host.isolation not in ("", "default"):
        raise InvalidArgument(f"invalid isolation '{host.isolation}' on linux")
    if host.links:
        raise Unsupported("links are not supported by this version of scow", hint="use --add-host name:address")
    for what, mode, known in (
        ("PID", host.pid_mode, ("", "host")),
        ("IPC", host.ipc_mode, ("", "host", "private", "shareable", "none")),
        ("UTS", host.uts_mode, ("", "host")),
        ("cgroup namespace", host.cgroupns_mode, ("", "host", "private")),
        ("userns", host.userns_mode, ("", "host", "auto")),
    ):
        other = what in ("PID", "IPC") and mode.startswith("container:") and len(mode) > len("container:")
        if mode not in known and not other:
            raise InvalidArgument(f"invalid {what} mode: {mode}")
    if host.uts_mode == "host" and config.hostname:
        raise InvalidArgument("conflicting options: hostname and the UTS mode")
    if host.network_mode == "container:":
        raise InvalidArgument("invalid network mode: container: needs a container")
    if host.network_mode.startswith("container:") and host.uts_mode == "host":
        return
    if host.privileged and host.userns_mode not in ("", "host"):
        raise InvalidArgument("privileged mode is incompatible with user namespaces")


def _check_security(host: HostConfig) -> None:
    normalize(host.cap_add, "CapAdd")
    normalize(host.cap_drop, "CapDrop")
    options = parse_options(host.security_opt)
    if options.seccomp not in ("", "builtin", "unconfined"):
        parse_profile(options.seccomp)


def _check_permissions(permissions: str) -> None:
    if set(permissions) - set("rwm") or len(set(permissions)) < len(permissions):
        raise InvalidArgument(f"invalid device mode: {permissions}", hint="use a combination of r, w and m")


def _check_sysctls(host: HostConfig) -> None:
    for name in host.sysctls:
        dotted = name.replace("/", ".")
        if ".." in dotted or dotted.startswith("."):
            raise InvalidArgument(f"invalid sysctl name: {name}")
        if dotted.startswith("net."):
            if host.network_mode == "host":
                raise InvalidArgument(f"sysctl '{name}' not allowed in host network namespace")
        elif dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
            if host.ipc_mode == "host":
                raise InvalidArgument(f"sysctl '{name}' not allowed in host IPC namespace")
        elif dotted == "kernel.domainname":
            if host.uts_mode == "host":
                raise InvalidArgument(f"sysctl '{name}' not allowed in host UTS namespace")
        elif dotted == "kernel.hostname":
            raise InvalidArgument(f"sysctl '{name}' conflicts with the hostname option")
        else:
            raise InvalidArgument(f'sysctl "{name}" is not in a separate kernel namespace')


def check_resources(host: Resources) -> list[str]:
    """The limits make sense, alone and together; answers warnings."""
    _check_memory(host)
    _check_cpu(host)
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    for weighted in host.blkio_weight_device:
        if not 10 <= weighted.weight <= 1000:
            raise InvalidArgument(f"Range of blkio weight is from 10 to 1000: {weighted.path}")
    for limit in host.ulimits:
        _check_ulimit(limit.name, limit.soft, limit.hard)
    return []


def _check_memory(host: Resources) -> None:
    if host.memory and host.memory < _MIN_MEMORY_BYTES:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if host.memory > 0 and 0 < host.memory_swap < host.memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if host.memory == 0 and host.memory_swap > 0:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if host.memory_reservation and host.memory_reservation < _MIN_MEMORY_BYTES:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if 0 < host.memory < host.memory_reservation:
        raise InvalidArgument("Minimum memory limit can not be less than memory reservation limit, see usage")
    swappiness = host.memory_swappiness
    if swappiness is not None and not -1 <= swappiness <= 100:
        raise InvalidArgument(f"Invalid value: {swappiness}, valid memory swappiness range is 0-100")


def _check_cpu(host: Resources) -> None:
    count = os.cpu_count() or 1
    if host.nano_cpus:
        if host.cpu_period or host.cpu_quota:
            other = "CPU Period" if host.cpu_period else "CPU Quota"
            raise InvalidArgument(f"Conflicting options: Nano CPUs and {other} cannot both be set")
        if not 0 < host.nano_cpus <= count * _NS_PER_CPU:
            raise InvalidArgument(f"range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available")
    if host.cpu_period and not _MIN_PERIOD_US <= host.cpu_period <= _MAX_PERIOD_US:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < host.cpu_quota < _MIN_PERIOD_US:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    for what, text, available in (
        ("CPUs", host.cpuset_cpus, _online("cpu")),
        ("memory nodes", host.cpuset_mems, _online("node")),
    ):
        wanted = parse_list(text)
        if available and wanted - available:
            raise InvalidArgument(
                f"Requested {what} are not available - requested {text}, available: {_ranges(available)}"
            )


def parse_list(text: str) -> frozenset[int]:
    """``0-3,7`` as numbers. Raises `InvalidArgument`."""
    numbers: set[int] = set()
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise InvalidArgument(f"Invalid value {text} for cpuset")
        numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


@functools.cache
def _online(what: str) -> frozenset[int]:
    try:
        with open(f"/sys/devices/system/{what}/online", encoding="ascii") as file:
            return parse_list(file.read().strip())
    except OSError:  # no such file (a kernel without NUMA): the cgroup will say what it takes
        return frozenset()


def _ranges(numbers: frozenset[int]) -> str:
    ordered = sorted(numbers)
    contiguous = ordered == list(range(ordered[0], ordered[-1] + 1))
    return f"{ordered[0]}-{ordered[-1]}" if contiguous and len(ordered) > 1 else ",".join(map(str, ordered))


def _check_ulimit(name: str, soft: int, hard: int) -> None:
    if name not in _RLIMITS:
        raise InvalidArgument(f"invalid ulimit type: {name}")
    if hard != -1 and (soft > hard or soft == -1):
        raise InvalidArgument(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")


def _other_warnings(config: ContainerConfig, host: HostConfig) -> list[str]:
    warnings = []
    if config.healthcheck is not None and config.healthcheck.test[:1] not in ([], ["NONE"]):
        warnings.append("The healthcheck is not run: this version of scow has none.")
    options = parse_options(host.security_opt)
    if options.apparmor not in ("", "unconfined") and not os.path.isdir("/sys/module/apparmor"):
        warnings.append(f"AppArmor profile {options.apparmor} is ignored: this host does not have AppArmor.")
    if any(label != "disable" for label in options.labels):
        warnings.append("SELinux labels are ignored.")
    if host.oom_kill_disable and not host.memory:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system "
            "running out of resources."
        )
    return warnings
