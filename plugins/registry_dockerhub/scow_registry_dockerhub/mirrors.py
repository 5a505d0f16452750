"""In which order the places that may have something are asked: what failed there lately is remembered for a while."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scow_registry_dockerhub.endpoints import Endpoint

REST_S = 60.0


class Mirrors:
    """What is known of mirrors. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._resting: dict[str, float] = {}  # mirrors that failed, and until when they are not asked
        self._delivered: dict[tuple[str, str], float] = {}  # mirror and blob, and until when that counts

    def order(self, endpoints: Iterable[Endpoint], digest: str = "") -> list[Endpoint]:
        """*endpoints*, of which the registry is the last, in the order to ask them for the blob *digest*: without the
        mirrors that rest. One that sent this blob lately comes last: who asks again from the start got wrong bytes."""
        now = time.monotonic()
        with self._lock:
            awake = [at for at in endpoints if not at.mirror or self._resting.get(at.netloc, 0.0) <= now]
            return sorted(awake, key=lambda at: at.mirror and self._delivered.get((at.netloc, digest), 0.0) > now)

    def failed(self, mirror: Endpoint) -> None:
        """*mirror* is not asked for a while: an image has many blobs."""
        with self._lock:
            self._resting[mirror.netloc] = time.monotonic() + REST_S

    def delivered(self, mirror: Endpoint, digest: str) -> None:
        """*mirror* sent the blob *digest* from its start on."""
        now = time.monotonic()
        with self._lock:
            self._delivered = {key: until for key, until in self._delivered.items() if until > now}
            self._delivered[mirror.netloc, digest] = now + REST_S
