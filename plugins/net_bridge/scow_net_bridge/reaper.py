"""Host ends of veths whose endpoint was detached: they go with their network namespace; what stays is deleted here."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from scow.errors import SyscallError

from scow_net_bridge import bridges, rtnl

log = logging.getLogger(__name__)
_GRACE_S = 0.5  # a dead namespace is cleaned in well under this; deleting a veth costs 24 ms of the kernel's big lock


class Reaper:
    """Deletes interfaces half a second after it was given them, where they still exist. Safe for several threads."""

    def __init__(self) -> None:
        self._due: deque[tuple[float, str, int]] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, interface: str) -> None:
        """*interface* will be gone. No error where it is already."""
        index = bridges.find(interface)
        if not index:
            return
        with self._lock:
            self._due.append((time.monotonic() + _GRACE_S, interface, index))
            if self._thread is None:
                self._wake.clear()
                self._thread = threading.Thread(target=self._run, name="scow-veth-reaper", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """What is due later is deleted now; the thread has ended."""
        self._wake.set()
        thread = self._thread
        if thread is not None:
            thread.join(5)

    def _run(self) -> None:
        with rtnl.RouteSocket() as host:
            while True:
                with self._lock:
                    if not self._due:
                        self._thread = None
                        return
                    due, interface, index = self._due.popleft()
                self._wake.wait(max(0.0, due - time.monotonic()))
                if bridges.find(interface) == index:
                    self._delete(host, interface, index)

    def _delete(self, host: rtnl.RouteSocket, interface: str, index: int) -> None:
        try:
            bridges.delete(host, index)
        except SyscallError as exc:
            log.warning("interface %s could not be deleted: %s", interface, exc)
