"""``--cap-add``, ``--cap-drop``, ``--privileged`` and ``--security-opt`` of a container."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scow.engine import seccomp_profile
from scow.engine import spec_defaults as defaults
from scow.errors import InvalidArgument
from scow.linux import capabilities as linux_capabilities

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scow.types import HostConfig

_ALL = "ALL"


@dataclass(frozen=True, slots=True)
class SecurityOptions:
    """``--security-opt``, parsed; *seccomp* is ``""`` (the default), ``builtin``, ``unconfined`` or a profile."""

    no_new_privileges: bool = False
    seccomp: str = ""
    apparmor: str = ""
    labels: tuple[str, ...] = ()
    unconfined_paths: bool = False
    writable_cgroups: bool | None = None


@dataclass(frozen=True, slots=True)
class Security:
    """What the options mean for the spec. *seccomp* is an OCI object or None for no filter."""

    no_new_privileges: bool
    seccomp: dict[str, Any] | None
    apparmor: str
    writable_cgroups: bool
    masked_paths: list[str] = field(default_factory=list)
    readonly_paths: list[str] = field(default_factory=list)


def parse_options(options: Iterable[str]) -> SecurityOptions:
    """Raises `InvalidArgument` in Docker's words."""
    found: dict[str, Any] = {}
    labels: list[str] = []
    for option in options:
        if option == "no-new-privileges":
            found["no_new_privileges"] = True
            continue
        if option == "disable":
            labels.append(option)
            continue
        key, value = _split(option)
        if key == "label":
            labels.append(value)
        elif key == "seccomp":
            found["seccomp"] = value
        elif key == "apparmor":
            found["apparmor"] = value
        elif key in ("no-new-privileges", "writable-cgroups"):
            found[key.replace("-", "_")] = _boolean(key, value)
        elif key == "systempaths" and value == "unconfined":
            found["unconfined_paths"] = True
        else:
            raise InvalidArgument(f"invalid --security-opt 2: {option!r}")
    return SecurityOptions(labels=tuple(labels), **found)


def _split(option: str) -> tuple[str, str]:
    for separator in ("=", ":"):  # the colon is Docker's old form
        key, found, value = option.partition(separator)
        if found and "{" not in key:
            return key, value
    raise InvalidArgument(f"invalid --security-opt 1: {option!r}")


def _boolean(key: str, value: str) -> bool:
    if value.lower() in ("1", "t", "true"):
        return True
    if value.lower() in ("0", "f", "false"):
        return False
    raise InvalidArgument(f"invalid --security-opt 2: '{key}={value}'")


@functools.cache
def all_capabilities() -> tuple[str, ...]:
    """Every capability that this kernel knows and the engine itself may pass on."""
    return linux_capabilities.names(linux_capabilities.bounding())


def normalize(names: Iterable[str], option: str) -> list[str]:
    """Capability names as the kernel's headers have them (``net_admin`` → ``CAP_NET_ADMIN``), ``ALL`` as it is.

    Raises `InvalidArgument` that names *option* (``CapAdd``, ``CapDrop``)."""
    result = []
    for name in names:
        upper = name.upper()
        if upper not in (_ALL, "CAP_ALL"):
            upper = upper if upper.startswith("CAP_") else f"CAP_{upper}"
            if upper not in linux_capabilities.NUMBERS:
                raise InvalidArgument(f'invalid {option}: unknown capability: "{upper}"')
            result.append(upper)
        else:
            result.append(_ALL)
    return result


def capabilities(host: HostConfig) -> tuple[str, ...]:
    """The container's capabilities: Docker's rules for ``ALL`` on either side."""
    if host.privileged:
        return all_capabilities()
    add, drop = normalize(host.cap_add, "CapAdd"), normalize(host.cap_drop, "CapDrop")
    if _ALL in add:
        return tuple(name for name in all_capabilities() if name not in drop)
    if _ALL in drop:
        return tuple(dict.fromkeys(add))
    kept = [name for name in defaults.CAPABILITIES if name not in drop]
    return tuple(dict.fromkeys([*kept, *add]))


def check_rights(host: HostConfig) -> None:
    """Raises `InvalidArgument` for a capability of ``--cap-add`` that the engine itself lacks."""
    has = (*all_capabilities(), _ALL)
    missing = [name for name in normalize(host.cap_add, "CapAdd") if name not in has]
    if missing:
        raise InvalidArgument(
            f"cannot give {', '.join(missing)} to a container: the engine itself lacks it",
            hint="start scowd with that capability, or do not add it",
        )


def has_apparmor() -> bool:
    """Whether the host has AppArmor; profiles are ignored without, as by Docker, which the create warns of."""
    return os.path.isdir("/sys/module/apparmor")


def security(host: HostConfig, caps: tuple[str, ...]) -> Security:
    """What the security options of *host* mean for a container with the capabilities *caps*."""
    options = parse_options(host.security_opt)
    open_paths = host.privileged or options.unconfined_paths
    masked = [] if open_paths else list(defaults.masked_paths())
    readonly = [] if open_paths else list(defaults.READONLY_PATHS)
    return Security(
        no_new_privileges=options.no_new_privileges,
        seccomp=_seccomp(options.seccomp, host.privileged, frozenset(caps)),
        apparmor=options.apparmor if options.apparmor != "unconfined" and has_apparmor() else "",
        writable_cgroups=host.privileged if options.writable_cgroups is None else options.writable_cgroups,
        masked_paths=masked if host.masked_paths is None else list(host.masked_paths),
        readonly_paths=readonly if host.readonly_paths is None else list(host.readonly_paths),
    )


def _seccomp(option: str, privileged: bool, caps: frozenset[str]) -> dict[str, Any] | None:
    if option == "unconfined" or (privileged and not option):
        return None
    if option in ("", "builtin"):
        return seccomp_profile.default_profile(caps)
    return seccomp_profile.resolve(parse_profile(option), caps)


def parse_profile(text: str) -> dict[str, Any]:
    """A seccomp profile as the command line sends it: the file's content. Raises `InvalidArgument`."""
    try:
        profile = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidArgument(
            f"invalid --security-opt seccomp: not JSON: {error}", hint="expected unconfined, builtin or a profile"
        ) from error
    except RecursionError:
        raise InvalidArgument("invalid --security-opt seccomp: nested too deeply") from None
    if not isinstance(profile, dict):
        raise InvalidArgument("invalid --security-opt seccomp: a profile is a JSON object")
    return profile
