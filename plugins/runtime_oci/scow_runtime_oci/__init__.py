"""The runtime `oci`: containers by a runc-compatible program (runc, crun, …), under Scow's own monitor.

Importing this package imports nothing else: the zygote needs only `scow_runtime_oci.child`, which is standard library
and ``scow.linux`` throughout. The driver's modules are loaded when `OciRuntime` is asked for (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scow_runtime_oci.driver import OciRuntime

__all__ = ["OciRuntime"]


def __getattr__(name: str) -> object:
    if name == "OciRuntime":
        from scow_runtime_oci.driver import OciRuntime

        return OciRuntime
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
