"""The API over a `FakeEngine`, served from a thread: for tests of clients that block (the docker CLI, docker-py)."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from scow.api.scow_v1 import ROUTES
from scow.api.server import serve
from scow.testing.fakes_engine import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

T = TypeVar("T")


class FakeDaemon:
    """Within ``with`` the API is served at *host*; `run` runs a coroutine in the daemon's event loop."""

    def __init__(self, directory: Path) -> None:
        self.host = f"unix://{directory}/scow.sock"
        self._directory = directory
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> FakeDaemon:
        self._thread.start()
        self.engine = self.run(self._open())
        return self

    async def _open(self) -> FakeEngine:
        engine = FakeEngine(self._directory)
        self._runners = await serve(engine.typed, [self.host], ROUTES)
        return engine

    async def _close(self) -> None:
        await asyncio.sleep(0.005)  # connections that are being accepted become the server's
        for runner in self._runners:
            await runner.cleanup()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await asyncio.sleep(0.005)  # transports close in the next turns of the loop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What *coroutine* answers."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def __exit__(self, *exc: object) -> None:
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
