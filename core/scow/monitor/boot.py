"""How the zygote begins: first what it uses of the standard library, then, side by side in fresh memory, what monitors
run (see `scow.monitor.heap`; measured: 60 kB less a monitor)."""

from __future__ import annotations

import importlib

from scow.monitor import heap

_STANDARD = (
    "base64",
    "contextlib",
    "ctypes",
    "fcntl",
    "json",
    "resource",
    "select",
    "signal",
    "socket",
    "struct",
    "termios",
    "typing",
)


def main() -> None:
    """The zygote process: see `scow.monitor.zygote.main`."""
    for name in _STANDARD:
        importlib.import_module(name)
    kept = heap.fill_free_slots()
    importlib.import_module("scow.monitor.zygote").main()
    del kept
