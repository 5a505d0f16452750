"""The native runtime: containers by clone(2), without a runtime binary.

Importing this package imports nothing else: the zygote needs only `scow_runtime_native.child`, which is standard
library and ``scow.linux`` throughout. The driver's modules are loaded when `NativeRuntime` is asked for (PEP 562).
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing takes as long as starting Python; type checkers take this for True
if TYPE_CHECKING:
    from scow_runtime_native.driver import NativeRuntime

__all__ = ["NativeRuntime"]


def __getattr__(name: str) -> object:
    if name == "NativeRuntime":
        from scow_runtime_native.driver import NativeRuntime

        return NativeRuntime
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
