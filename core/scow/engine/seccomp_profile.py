"""The default seccomp profile: what moby's ``profiles/seccomp/default.json`` (v28) allows, as a table of our own.

`resolve` turns a profile in Docker's format, with conditions on capabilities, architecture and kernel, into the OCI
``linux.seccomp`` object of one container. The default profile is resolved once per capability set.
"""

from __future__ import annotations

import functools
import platform
from typing import TYPE_CHECKING, Any

from scow.engine.seccomp_syscalls import ALWAYS
from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ALLOW = "SCMP_ACT_ALLOW"
_EPERM = 1
_ENOSYS = 38
_NAMESPACE_FLAGS = 0x7E020000  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID and NET
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)  # Linux, 32-bit, UNAME26, both, and asking which
_SOCKETS_BELOW = 12
_SOCKETS = (13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 44, 45)
"""Address families from 12 on that may be used; not ALG (38), VSOCK (40) and the obsolete ones."""

_BY_CAPABILITY: dict[str, tuple[str, ...]] = {
    "CAP_DAC_READ_SEARCH": ("open_by_handle_at",),
    "CAP_SYS_ADMIN": (
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie",
        "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount", "mount_setattr", "move_mount",
        "open_tree", "perf_event_open", "quotactl", "quotactl_fd", "setdomainname", "sethostname", "setns", "syslog",
        "umount", "umount2", "unshare",
    ),
    "CAP_SYS_BOOT": ("reboot",),
    "CAP_SYS_CHROOT": ("chroot",),
    "CAP_SYS_MODULE": ("delete_module", "finit_module", "init_module"),
    "CAP_SYS_PACCT": ("acct",),
    "CAP_SYS_PTRACE": (
        "kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace",
    ),
    "CAP_SYS_RAWIO": ("ioperm", "iopl"),
    "CAP_SYS_TIME": ("clock_settime", "clock_settime64", "settimeofday", "stime"),
    "CAP_SYS_TTY_CONFIG": ("vhangup",),
    "CAP_SYS_NICE": ("get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"),
    "CAP_SYSLOG": ("syslog",),
    "CAP_BPF": ("bpf",),
    "CAP_PERFMON": ("perf_event_open",),
}  # fmt: skip
_BY_ARCHITECTURE: dict[str, tuple[str, ...]] = {
    "amd64": ("arch_prctl", "modify_ldt"),
    "arm64": (
        "arm_fadvise64_64", "arm_sync_file_range", "breakpoint", "cacheflush", "set_tls", "sync_file_range2",
    ),
    "ppc64le": ("swapcontext", "sync_file_range2"),
    "riscv64": ("riscv_flush_icache",),
    "s390x": ("s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr"),
}  # fmt: skip
_ARCHITECTURES = {
    "amd64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "arm64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    "riscv64": ["SCMP_ARCH_RISCV64"],
    "ppc64le": ["SCMP_ARCH_PPC64LE"],
    "s390x": ["SCMP_ARCH_S390X", "SCMP_ARCH_S390"],
}
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def host_architecture() -> str:
    """The host's architecture in Docker's words."""
    machine = platform.machine()
    return _MACHINES.get(machine, machine)


def _rule(names: Iterable[str], *args: dict[str, Any]) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": list(names), "action": _ALLOW}
    if args:
        rule["args"] = list(args)
    return rule


def _argument(index: int, op: str, value: int, value_two: int = 0) -> dict[str, Any]:
    return {"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": value_two}


@functools.lru_cache(maxsize=64)
def default_profile(capabilities: frozenset[str], architecture: str = "") -> dict[str, Any]:
    """The OCI object for a container with these *capabilities* (``CAP_…``); shared, not to be changed."""
    architecture = architecture or host_architecture()
    allowed = list(ALWAYS)
    allowed += _BY_ARCHITECTURE.get(architecture, ())
    for capability, names in _BY_CAPABILITY.items():
        if capability in capabilities:
            allowed += names
    rules = [_rule(sorted(set(allowed)))]
    rules.append(_rule(["socket"], _argument(0, "LT", _SOCKETS_BELOW)))
    rules += [_rule(["socket"], _argument(0, "EQ", family)) for family in _SOCKETS]
    rules += [_rule(["personality"], _argument(0, "EQ", value)) for value in _PERSONALITIES]
    if "CAP_SYS_ADMIN" not in capabilities:
        flags_index = 1 if architecture == "s390x" else 0
        rules.append(_rule(["clone"], _argument(flags_index, "MASKED_EQ", _NAMESPACE_FLAGS)))
        # glibc falls back to clone, whose flags a filter can see, only for ENOSYS
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _EPERM,
        "architectures": _ARCHITECTURES.get(architecture, []),
        "syscalls": rules,
    }


def resolve(profile: Mapping[str, Any], capabilities: frozenset[str]) -> dict[str, Any]:
    """A profile in Docker's format for a container with *capabilities*. Raises `InvalidArgument`."""
    if not isinstance(profile.get("defaultAction"), str):
        raise InvalidArgument("seccomp profile: defaultAction is missing")
    architecture = host_architecture()
    if profile.get("architectures") and profile.get("archMap"):
        raise InvalidArgument("seccomp profile: use either 'architectures' or 'archMap'")
    architectures = list(profile.get("architectures") or ())
    native = _ARCHITECTURES.get(architecture, [""])[0]
    for entry in profile.get("archMap") or ():
        if entry.get("architecture") == native:
            architectures = [native, *(entry.get("subArchitectures") or ())]
    rules = []
    for rule in profile.get("syscalls") or ():
        names = list(rule.get("names") or ())
        if rule.get("name"):
            if names:
                raise InvalidArgument("seccomp profile: use either 'name' or 'names'")
            names = [rule["name"]]
        if not _applies(rule, capabilities, architecture):
            continue
        kept = {key: rule[key] for key in ("action", "errnoRet", "args") if rule.get(key) is not None}
        rules.append({"names": names, **kept})
    keys = ("defaultAction", "defaultErrnoRet", "flags")
    made = {key: profile[key] for key in keys if profile.get(key) is not None}
    return {**made, "architectures": architectures, "syscalls": rules}


def _applies(rule: Mapping[str, Any], capabilities: frozenset[str], architecture: str) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if includes.get("arches") and architecture not in includes["arches"]:
        return False
    if architecture in (excludes.get("arches") or ()):
        return False
    if not capabilities.issuperset(includes.get("caps") or ()):
        return False
    if capabilities.intersection(excludes.get("caps") or ()):
        return False
    if includes.get("minKernel") and _kernel() < _version(includes["minKernel"]):
        return False
    return not (excludes.get("minKernel") and _kernel() >= _version(excludes["minKernel"]))


@functools.cache
def _kernel() -> tuple[int, ...]:
    return _version(platform.release().split("-")[0])


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
