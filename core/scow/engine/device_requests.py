"""``--device vendor.com/class=name`` and ``--gpus``: which CDI devices a request means.

Docker has a driver for each kind of device request; Scow has one, CDI (`scow.engine.cdi`), which serves requests for a
``gpu`` too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scow.engine import cdi, cdi_edits
from scow.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scow.types import DeviceRequest

GPU_CAPABILITIES = frozenset(
    {"gpu", "nvidia", "compute", "compat32", "graphics", "utility", "video", "display", "ngx"}
)  # those that a driver of nvidia's has in Docker
NVIDIA = "nvidia.com/gpu"


def check(requests: Sequence[DeviceRequest], directories: Sequence[str]) -> None:
    """What *requests* ask for is described in *directories*. Raises what `inject` would."""
    if requests:
        registry = cdi.load(directories)
        cdi_edits.check(registry, _names(requests, registry))


def inject(spec: dict[str, Any], requests: Sequence[DeviceRequest], directories: Sequence[str]) -> None:
    """The container of *spec* (an OCI configuration, changed) has what *requests* ask for.

    Raises `Unsupported` for a driver that there is not, `InvalidArgument` for a device that no spec file describes and
    for a request that makes no sense; in Docker's words.
    """
    if requests:
        registry = cdi.load(directories)
        cdi_edits.inject(spec, registry, _names(requests, registry))


def _names(requests: Sequence[DeviceRequest], registry: cdi.Registry) -> list[str]:
    """The qualified names, each once."""
    names: list[str] = []
    for request in requests:
        names += _cdi_names(request) if request.driver == "cdi" else _gpu_names(request, registry)
    return list(dict.fromkeys(names))


def _cdi_names(request: DeviceRequest) -> list[str]:
    if request.count:
        raise InvalidArgument("CDI device injection failed: unexpected count in CDI device request")
    if request.options:
        raise InvalidArgument("CDI device injection failed: unexpected options in CDI device request")
    return list(request.device_ids)


def _gpu_names(request: DeviceRequest, registry: cdi.Registry) -> list[str]:
    kind = _gpu_kind(request, registry)
    if request.count and request.device_ids:
        raise InvalidArgument("cannot set both Count and DeviceIDs on device request")
    ids = [id for id in request.device_ids if id]
    if not ids and request.count >= 0:
        ids = [str(number) for number in range(request.count)]
    if not ids or ids == ["all"]:
        if f"{kind}=all" in registry.devices:
            return [f"{kind}=all"]
        return [name for name in registry.devices if name.startswith(f"{kind}=")]
    return [id if cdi.is_qualified(id) else f"{kind}={id}" for id in ids]


def _gpu_kind(request: DeviceRequest, registry: cdi.Registry) -> str:
    """The kind of device that serves *request*: nvidia's, else the only one of the class ``gpu``."""
    fits = any("gpu" in names and set(names) <= GPU_CAPABILITIES for names in request.capabilities)
    kinds = [kind for kind in registry.kinds() if kind.endswith("/gpu")]
    if fits and request.driver in ("", "nvidia") and NVIDIA in kinds:
        return NVIDIA
    if fits and request.driver == "" and len(kinds) == 1:
        return kinds[0]
    wanted = " ".join("[" + " ".join(names) + "]" for names in request.capabilities)  # as Go prints it
    hint = "--gpus needs a CDI spec file of its vendor (nvidia-ctk cdi generate), or use --device for the nodes"
    raise Unsupported(
        f'could not select device driver "{request.driver}" with capabilities: [{wanted}]',
        hint="; ".join([hint, *registry.problems]),
    )
