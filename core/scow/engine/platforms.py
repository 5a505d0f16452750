"""Which image of an index fits a platform (containerd's rules, platforms/compare.go)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scow.errors import NotFound
from scow.oci import Platform

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scow.oci import Descriptor
    from scow.types import ImageConfig

_ARM = ("v8", "v7", "v6", "v5")
_DEFAULT_VARIANTS = {"arm64": "v8", "arm": "v7", "amd64": "v1"}


def acceptable(wanted: Platform) -> list[Platform]:
    """What runs where *wanted* runs, best first: ``arm/v7`` runs v6, ``amd64`` runs 386."""
    wanted = normal(wanted)
    found = [wanted]
    if wanted.architecture == "arm" and wanted.variant in _ARM:
        found += [Platform(wanted.os, "arm", variant) for variant in _ARM[_ARM.index(wanted.variant) + 1 :]]
    elif wanted.architecture == "amd64":
        level = int(wanted.variant[1:]) if wanted.variant[1:].isdigit() else 1
        found += [Platform(wanted.os, "amd64", f"v{lower}") for lower in range(level - 1, 0, -1)]
        found.append(Platform(wanted.os, "386"))
    elif wanted.architecture == "arm64":
        found += [Platform(wanted.os, "arm", variant) for variant in _ARM]
    return found


def fits(config: ImageConfig, wanted: Platform) -> bool:
    """Whether an image with *config* runs where *wanted* runs."""
    return normal(Platform(config.os or "linux", config.architecture, config.variant)) in acceptable(wanted)


def normal(platform: Platform) -> Platform:
    """*platform* with the variant that its absence stands for."""
    variant = platform.variant or _DEFAULT_VARIANTS.get(platform.architecture, "")
    return Platform(platform.os, platform.architecture, variant)


def check_fits(config: ImageConfig, wanted: Platform, ref: str) -> None:
    """Raises `NotFound` where the image *ref* of *config* is not for *wanted*."""
    actual = Platform(config.os or "linux", config.architecture, config.variant)
    if normal(actual) != normal(wanted):
        raise NotFound(
            f"image with reference {ref} was found but does not match the specified platform: "
            f"wanted {wanted}, actual: {actual}"
        )


def choose(members: Iterable[Descriptor], wanted: Platform) -> Descriptor:
    """The member of an index to use for *wanted*. Raises `NotFound` with Docker's words."""
    offered = [member for member in members if member.platform is not None and not _is_attestation(member)]
    for platform in acceptable(wanted):
        for member in offered:
            if member.platform is not None and normal(member.platform) == platform:
                return member
    there = ", ".join(sorted({str(member.platform) for member in offered})) or "none"
    raise NotFound(f"no matching manifest for {wanted} in the manifest list entries", hint=f"it has: {there}")


def _is_attestation(member: Descriptor) -> bool:
    return "vnd.docker.reference.type" in member.annotations
