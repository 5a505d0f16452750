"""Manifests that were read lately: whether one is still the same is asked by ``HEAD``, which Docker Hub does not count
as a pull."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scow.ports.registry import Manifest
    from scow_registry_dockerhub.endpoints import Endpoint

_MOST = 64
_LARGEST_BYTES = 1 << 16


class KnownManifests:
    """The last few manifests, by the place and name that they were read at. Thread-safe; at most 4 MiB."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[str, str], Manifest] = OrderedDict()

    def get(self, endpoint: Endpoint, target: str) -> Manifest | None:
        """What *target* of *endpoint* was the last time."""
        with self._lock:
            found = self._held.get((endpoint.netloc, target))
            if found is not None:
                self._held.move_to_end((endpoint.netloc, target))
            return found

    def put(self, endpoint: Endpoint, target: str, manifest: Manifest) -> None:
        """*target* of *endpoint* is *manifest*."""
        with self._lock:
            self._held.pop((endpoint.netloc, target), None)
            if len(manifest.data) <= _LARGEST_BYTES:
                self._held[endpoint.netloc, target] = manifest
            while len(self._held) > _MOST:
                self._held.popitem(last=False)
