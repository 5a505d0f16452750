"""Work that no caller waits for: deleting what was thrown away, and making empty directories ahead of their use."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from scow.linux.trees import remove_at

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


class Trash:
    """A folder whose entries are deleted by a thread of its own; *refill* is called there before each round."""

    def __init__(self, folder: str, refill: Callable[[], None]) -> None:
        self.folder = folder
        self._refill = refill
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()

    def wake(self) -> None:
        """The thread looks at the folder soon."""
        with self._start_lock:
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="scow-storage-trash", daemon=True)
                self._thread.start()
        self._wake.set()

    def close(self) -> None:
        """The thread has ended; what it had no time for is deleted at the next start."""
        with self._start_lock:
            self._closing = True
            thread, self._thread = self._thread, None
        self._wake.set()
        if thread is not None:
            thread.join()

    def empty(self) -> None:
        """Everything in the folder is gone, but for what could not be deleted (which is logged)."""
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in os.listdir(fd):
                if self._closing:
                    return
                try:
                    remove_at(fd, os.fsencode(name))
                except OSError as error:
                    log.warning("cannot delete %s/%s: %s", self.folder, name, error)
        finally:
            os.close(fd)

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait()
            self._wake.clear()
            try:
                self._refill()
                self.empty()
            except OSError as error:
                log.warning("storage housekeeping in %s: %s", self.folder, error)
