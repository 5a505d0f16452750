"""The HostConfig of a create request from the flags: limits, namespaces, security, names, logging."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from scow.cli import mounts, sizes
from scow.errors import InvalidArgument

Flags = Mapping[str, Any]
OWN_OPTIONS = {"net_rate": "net-rate"}  # by the flag's name
_SYSCTLS = frozenset(
    f"kernel.{name}" for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)
_DEVICE_RULE = re.compile(r"[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}")


def host_config(flags: Flags, binds: list[str], port_bindings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but the network mode, without what was not asked for; raises `InvalidArgument`."""
    security, paths = security_options(flags["security_opt"])
    policy = restart_policy(flags["restart"])
    if flags["rm"] and policy["Name"] not in ("", "no"):
        raise InvalidArgument("conflicting options: cannot specify both --restart and --rm")
    mapped = [bind for text in flags["mount"] if (bind := mounts.idmapped_bind(text))]
    config: dict[str, Any] = {
        **resources(flags),
        **_devices(flags),
        **_names(flags),
        **paths,
        "Binds": [*binds, *mapped],
        "Mounts": [mounts.mount(text) for text in flags["mount"] if not mounts.idmapped_bind(text)],
        "Tmpfs": mounts.tmpfs(flags["tmpfs"]),
        "VolumesFrom": list(flags["volumes_from"]),
        "VolumeDriver": flags["volume_driver"],
        "PortBindings": port_bindings,
        "PublishAllPorts": flags["publish_all"],
        "ContainerIDFile": flags["cidfile"],
        "AutoRemove": flags["rm"],
        "RestartPolicy": policy,
        "LogConfig": _logging(flags),
        "CapAdd": capabilities(flags["cap_add"]),
        "CapDrop": capabilities(flags["cap_drop"]),
        "SecurityOpt": security,
        "Privileged": flags["privileged"],
        "ReadonlyRootfs": flags["read_only"],
        "Annotations": {**sizes.pairs(flags["annotation"]), **_own_options(flags)},
        "Sysctls": _sysctls(flags["sysctl"]),
        "StorageOpt": sizes.pairs(flags["storage_opt"]),
        "ShmSize": sizes.size(flags["shm_size"]) if flags["shm_size"] else 0,
        "Runtime": flags["runtime"],
        "Isolation": flags["isolation"],
        "Init": flags["init"] or None,
    }
    keep = ("MaskedPaths", "ReadonlyPaths")  # an empty list says something there
    return {key: value for key, value in config.items() if value or key in keep}


def _own_options(flags: Flags) -> dict[str, str]:
    """The flags that docker's command line does not have, as the annotations that stand for them."""
    return {f"scow.{name}": flags[key] for key, name in OWN_OPTIONS.items() if flags[key] is not None}


def resources(flags: Flags) -> dict[str, Any]:
    """The limits, also those of ``update``."""
    return {
        "CpuShares": flags["cpu_shares"],
        "CpuPeriod": flags["cpu_period"],
        "CpuQuota": flags["cpu_quota"],
        "CpuRealtimePeriod": flags["cpu_rt_period"],
        "CpuRealtimeRuntime": flags["cpu_rt_runtime"],
        "CpusetCpus": flags["cpuset_cpus"],
        "CpusetMems": flags["cpuset_mems"],
        "NanoCpus": sizes.nano_cpus(flags["cpus"]) if flags["cpus"] else None,
        "Memory": sizes.size(flags["memory"]) if flags["memory"] else None,
        "MemoryReservation": sizes.size(flags["memory_reservation"]) if flags["memory_reservation"] else None,
        "MemorySwap": sizes.size_or_unlimited(flags["memory_swap"]) if flags["memory_swap"] else None,
        "PidsLimit": flags["pids_limit"],
        "BlkioWeight": flags["blkio_weight"],
        **disk_limits(flags),
    }


def disk_limits(flags: Flags) -> dict[str, Any]:
    """``--device-read-bps`` and its like, by the API's names; absent where they are not given."""
    result: dict[str, Any] = {"BlkioWeightDevice": [sizes.weight(text) for text in flags["blkio_weight_device"]]}
    for key, flag, in_bytes in (
        ("BlkioDeviceReadBps", "device_read_bps", True),
        ("BlkioDeviceWriteBps", "device_write_bps", True),
        ("BlkioDeviceReadIOps", "device_read_iops", False),
        ("BlkioDeviceWriteIOps", "device_write_iops", False),
    ):
        result[key] = [sizes.rate(text, in_bytes=in_bytes) for text in flags[flag]]
    return {key: value for key, value in result.items() if value}


def _devices(flags: Flags) -> dict[str, Any]:
    requests = [mounts.gpus(flags["gpus"])] if flags["gpus"] else []
    cdi = [text for text in flags["device"] if mounts.is_cdi_name(text)]
    if cdi:
        requests.append({"Driver": "cdi", "DeviceIDs": cdi})
    swappiness = flags["memory_swappiness"]
    if swappiness is not None and not -1 <= swappiness <= 100:
        raise InvalidArgument(f"invalid value: {swappiness}; valid memory swappiness range is 0-100")
    result = {
        "Devices": [mounts.device(text) for text in flags["device"] if text not in cdi],
        "DeviceRequests": requests,
        "DeviceCgroupRules": [_device_rule(text) for text in flags["device_cgroup_rule"]],
        "Ulimits": sorted((sizes.ulimit(text) for text in flags["ulimit"]), key=lambda limit: str(limit["Name"])),
        "OomKillDisable": flags["oom_kill_disable"],
        "OomScoreAdj": flags["oom_score_adj"],
    }
    if swappiness is not None and swappiness >= 0:
        result["MemorySwappiness"] = swappiness
    return result


def _names(flags: Flags) -> dict[str, Any]:
    """Namespaces, DNS and hosts."""
    if flags["pid"] and not (flags["pid"] in ("host", "private") or flags["pid"].startswith("container:")):
        raise InvalidArgument(f"--pid: invalid PID mode {flags['pid']!r}", hint="use host or container:NAME")
    for name, known in (("uts", ("host",)), ("userns", ("host", "auto"))):
        if flags[name] not in (None, "", *known):
            raise InvalidArgument(f"--{name}: invalid mode {flags[name]!r}", hint=f"use {' or '.join(known)}")
    if flags["cgroupns"] not in (None, "", "host", "private"):
        raise InvalidArgument(f"--cgroupns: invalid CGROUP mode {flags['cgroupns']!r}", hint="use host or private")
    return {
        "PidMode": flags["pid"],
        "UTSMode": flags["uts"],
        "UsernsMode": flags["userns"],
        "CgroupnsMode": flags["cgroupns"],
        "IpcMode": flags["ipc"],
        "CgroupParent": flags["cgroup_parent"],
        "GroupAdd": list(flags["group_add"]),
        "Dns": [_address(text, "--dns") for text in flags["dns"]],
        "DnsSearch": list(flags["dns_search"]),
        "DnsOptions": [*flags["dns_option"], *flags["dns_opt"]],
        "ExtraHosts": [extra_host(text) for text in flags["add_host"]],
        "Links": list(flags["link"]),
    }


def _logging(flags: Flags) -> dict[str, Any]:
    driver, options = flags["log_driver"] or "", sizes.pairs(flags["log_opt"])
    if driver == "none" and options:
        raise InvalidArgument("invalid logging opts for driver none")
    return {"Type": driver, "Config": options} if driver or options else {}


def restart_policy(text: str | None) -> dict[str, Any]:
    """``on-failure:3`` as the API's RestartPolicy; raises `InvalidArgument`."""
    name, colon, count = (text or "").partition(":")
    if colon and not name:
        raise InvalidArgument(f"invalid restart policy {text!r}: no policy provided before colon")
    if count and not count.isdecimal():
        raise InvalidArgument(f"invalid restart policy {text!r}: maximum retry count must be an integer")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def capabilities(names: Iterable[str]) -> list[str]:
    """Docker's spelling: ``CAP_NET_ADMIN``, ``ALL``, each once, sorted."""
    upper = {name.strip().upper() for name in names}
    return sorted(name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}" for name in upper)


def security_options(values: Iterable[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The options with a seccomp profile's file inlined, and the paths that ``systempaths=unconfined`` frees."""
    result: list[str] = []
    paths: dict[str, list[str]] = {}
    for text in values:
        key, separator, value = text.partition("=")
        if not separator and key != "no-new-privileges":
            key, separator, value = text.partition(":")
        if key != "no-new-privileges" and not value:
            raise InvalidArgument(f"invalid --security-opt: {text!r}", hint="use KEY=VALUE")
        if text == "systempaths=unconfined":
            paths = {"MaskedPaths": [], "ReadonlyPaths": []}
        elif key == "seccomp" and value not in ("builtin", "unconfined"):
            result.append(f"seccomp={_profile(value)}")
        else:
            result.append(text)
    return result, paths


def _profile(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return json.dumps(json.load(file), separators=(",", ":"), ensure_ascii=False)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidArgument(f"opening seccomp profile ({path}) failed: {reason}") from error
    except ValueError as error:
        raise InvalidArgument(f"compacting json for seccomp profile ({path}) failed: {error}") from error


def extra_host(text: str) -> str:
    """``name:ip``, ``name=ip`` or ``name:host-gateway`` in the API's form."""
    name, separator, address = text.partition("=") if "=" in text else text.partition(":")
    if not separator or not name:
        raise InvalidArgument(f"bad format for add-host: {text!r}", hint="use NAME:IP")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if address != "host-gateway":
        _address(address, "--add-host")
    return f"{name}:{address}"


def _address(text: str, flag: str) -> str:
    import ipaddress

    try:
        ipaddress.ip_address(text.strip())
    except ValueError as error:
        raise InvalidArgument(f"invalid IP address for {flag}: {text!r}") from error
    return text.strip()


def _sysctls(values: Iterable[str]) -> dict[str, str]:
    result = sizes.pairs(list(values))
    for key in result:
        if key not in _SYSCTLS and not key.startswith(("net.", "fs.mqueue.")):
            raise InvalidArgument(
                f"sysctl {key!r} is not allowed", hint="use net.*, fs.mqueue.* or kernel.shm*, msg*, sem"
            )
    return result


def _device_rule(text: str) -> str:
    if not _DEVICE_RULE.fullmatch(text):
        raise InvalidArgument(f"invalid device cgroup format {text!r}", hint="use 'c 1:3 rwm'")
    return text
