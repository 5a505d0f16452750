"""Security labels of the host's security module: AppArmor profiles and SELinux contexts. In scowd, before the fork.

*root* stands for ``/`` of the host, for tests.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNLABELLED = frozenset({"proc", "sysfs", "cgroup", "cgroup2", "mqueue"})  # have a context of their own, as in runc


def has_apparmor(root: str = "/") -> bool:
    """Whether AppArmor is switched on."""
    try:
        with open(os.path.join(root, "sys/module/apparmor/parameters/enabled"), encoding="ascii") as file:
            return file.read().startswith("Y")
    except OSError:
        return False


def has_selinux(root: str = "/") -> bool:
    """Whether SELinux has a policy loaded."""
    return os.path.exists(os.path.join(root, "sys/fs/selinux/enforce"))


def process_labels(process: Mapping[str, Any], root: str = "/") -> list[list[str]]:
    """Which file of /proc/self/attr gets which text before execve. Raises `InvalidArgument` where the host has not what
    the spec asks for: the container would run without the confinement that was meant."""
    found = []
    profile, context = process.get("apparmorProfile") or "", process.get("selinuxLabel") or ""
    if profile:
        if not has_apparmor(root):
            raise InvalidArgument(f"AppArmor profile {profile!r}: this host has no AppArmor")
        own = "apparmor/exec" if os.path.isdir(os.path.join(root, "proc/self/attr/apparmor")) else "exec"
        found.append([own, f"exec {profile}"])
    if context:
        if not has_selinux(root):
            raise InvalidArgument(f"SELinux label {context!r}: this host has no SELinux")
        found.append(["exec", context])
    return found


def mount_label(linux: Mapping[str, Any], root: str = "/") -> str:
    """The SELinux context of the container's own filesystems, ``""`` for none. Raises as `process_labels`."""
    label = str(linux.get("mountLabel") or "")
    if label and not has_selinux(root):
        raise InvalidArgument(f"mount label {label!r}: this host has no SELinux")
    return label


def mount_data(label: str, fstype: str) -> tuple[str, ...]:
    """The mount option that gives a filesystem of *fstype* the context *label*."""
    return (f'context="{label}"',) if label and fstype not in _UNLABELLED else ()
