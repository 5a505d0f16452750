"""features and --version: what this runtime can (features.md and features-linux.md of runtime-spec 1.2)."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from scow.linux import capabilities, mount_options
from scow.linux.oci_hooks import KINDS
from scow_runtime_native import seccomp

OCI_MIN, OCI_MAX = "1.0.0", "1.2.0"
NAMESPACES = ("cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts")
_ACTIONS = ("ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "NOTIFY", "TRACE", "TRAP")
_OPERATORS = ("EQ", "GE", "GT", "LE", "LT", "MASKED_EQ", "NE")
_ARCHITECTURES = (
    "AARCH64", "ARM", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32", "PPC", "PPC64", "PPC64LE",
    "RISCV64", "S390", "S390X", "X32", "X86", "X86_64",
)  # fmt: skip
_FLAGS = ("LOG", "SPEC_ALLOW", "TSYNC", "WAIT_KILLABLE_RECV")


def _prefixed(prefix: str, words: tuple[str, ...]) -> list[str]:
    return [prefix + word for word in words]


def document() -> dict[str, Any]:
    """The features structure."""
    flags = _prefixed("SECCOMP_FILTER_FLAG_", _FLAGS)
    return {
        "ociVersionMin": OCI_MIN,
        "ociVersionMax": OCI_MAX,
        "hooks": list(KINDS),
        "mountOptions": sorted(mount_options.known()),
        "linux": {
            "namespaces": list(NAMESPACES),
            "capabilities": list(capabilities.CAPABILITIES),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
            "seccomp": {
                "enabled": bool(seccomp.library_version()),
                "actions": _prefixed("SCMP_ACT_", _ACTIONS),
                "operators": _prefixed("SCMP_CMP_", _OPERATORS),
                "archs": _prefixed("SCMP_ARCH_", _ARCHITECTURES),
                "knownFlags": flags,
                "supportedFlags": flags,
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "annotations": {
            "org.opencontainers.runc.checkpoint.enabled": "false",
            "scow.runtime.version": version("scow-runtime-native"),
            "scow.libseccomp.version": seccomp.library_version(),
        },
    }


def version_text() -> str:
    """What ``--version`` prints, in the form of runc's."""
    lines = [f"scow-runtime version {version('scow-runtime-native')}", f"spec: {OCI_MAX}"]
    if found := seccomp.library_version():
        lines.append(f"libseccomp: {found}")
    return "\n".join(lines) + "\n"
