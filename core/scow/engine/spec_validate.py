"""Checks of a create or update request, in Docker's words, before anything is made."""

from __future__ import annotations

import os
import posixpath
import re
from typing import TYPE_CHECKING

from scow.engine import host_limits
from scow.engine.resource_checks import check_resources
from scow.engine.spec_resources import parse_device_rule, resources
from scow.engine.spec_security import normalize, parse_options, parse_profile
from scow.errors import InvalidArgument, Unsupported
from scow.options import USERNS_MODES

if TYPE_CHECKING:
    from scow.engine.host_limits import HostLimits
    from scow.types import ContainerConfig, HostConfig

_IPC_SYSCTLS = frozenset(
    {"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
     "kernel.shmmni", "kernel.shm_rmid_forced"}
)  # fmt: skip
_HOSTNAME = re.compile(r"^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$")
_MAX_HOSTNAME = 64  # of the kernel


def validate(
    config: ContainerConfig, host: HostConfig, limits: HostLimits | None = None, *, update: bool = False
) -> list[str]:
    """The request can be run as it is; answers warnings. Raises `InvalidArgument` or `Unsupported` where it cannot.

    Limits that are not among those of the host (*limits*) are taken out of *host*, with Docker's warning.
    """
    _check_config(config)
    _check_modes(config, host)
    _check_security(host)
    _check_sysctls(host)
    for device in host.devices:
        _check_permissions(device.cgroup_permissions)
    for rule in host.device_cgroup_rules:
        parse_device_rule(rule)
    resources(host)  # a device that is not there is refused now, not at start
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidArgument(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if host.shm_size < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    return check_resources(host, limits or host_limits.of_host(), update=update) + _other_warnings(config, host)


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
        ("userns", host.userns_mode, USERNS_MODES),
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
