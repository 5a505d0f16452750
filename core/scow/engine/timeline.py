"""What happened while a container was made and started: the steps, who did them, and how long they took."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class Timeline:
    """The steps of one container in the order in which they ended; kept in memory while the container is known."""

    steps: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str, driver: str, detail: str = "") -> Iterator[None]:
        """Times the block and adds it as step *name*, done by *driver*; a block that raises is added as failed."""
        start = time.perf_counter()
        try:
            yield
        except BaseException as error:
            self.add(name, driver, f"failed: {error}", start)
            raise
        self.add(name, driver, detail, start)

    def add(self, name: str, driver: str, detail: str, started: float, ended: float | None = None) -> None:
        """Adds a step that began at *started* (`time.perf_counter`) and ended at *ended*, or ends now."""
        ms = round(((time.perf_counter() if ended is None else ended) - started) * 1000, 3)
        self.steps.append({"step": name, "driver": driver, "detail": detail, "ms": ms})
