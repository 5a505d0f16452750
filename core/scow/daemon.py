"""``scowd``: the daemon. It listens first and opens the engine then, so that the first ``_ping`` is answered early.

SIGTERM and SIGINT end it and leave containers running; as PID 1 it reaps orphans.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scow import __version__
from scow.config import Config, load
from scow.errors import ScowError
from scow.lock import DataRootLock

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("scowd")

SWITCH_INTERVAL_S = 0.0005  # a thread that unpacks a layer held up commits for 16-37 ms at Python's 5 ms; 1 ms so


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of ``scowd``; the exit code is 0, or 1 when the daemon could not start."""
    options = _parse(arguments)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        config = load(options.config, os.environ, _flags(options))
        logging.basicConfig(
            level=logging.DEBUG if config.debug else logging.INFO,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )
        if os.geteuid() != 0:
            raise ScowError("scowd needs root", hint="start it as root, or with sudo")
        lock = DataRootLock.acquire(config.data_root)
        try:
            asyncio.run(_serve(config))
        finally:
            lock.close()
    except ScowError as error:
        sys.stderr.write(f"scowd: {error}\n" + (f"  hint: {error.hint}\n" if error.hint else ""))
        raise SystemExit(1) from None


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("scowd", description="The daemon of the Scow container engine.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (default /etc/scow/config.yaml)")
    parser.add_argument("-H", "--host", action="append", dest="hosts", metavar="URL", help="unix:///path or tcp://…")
    parser.add_argument("--data-root", metavar="DIR")
    parser.add_argument("--run-root", metavar="DIR")
    parser.add_argument("-D", "--debug", action="store_const", const=True)
    parser.add_argument("--version", action="version", version=f"scowd {__version__}")
    return parser.parse_args(arguments)


def _flags(options: argparse.Namespace) -> dict[str, object]:
    names = ("data_root", "run_root", "hosts", "debug")
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


async def _serve(config: Config) -> None:
    from scow.api.scow_v1 import ROUTES
    from scow.api.server import serve
    from scow.engine.engine import Engine

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if os.getpid() == 1:
        loop.add_signal_handler(signal.SIGCHLD, _reap)
    engine = Engine(config)
    runners = await serve(engine, config.hosts, ROUTES)
    log.info("scowd %s listens on %s", __version__, ", ".join(config.hosts))
    opening = asyncio.ensure_future(engine.open())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            opening.result()
            gc.collect()
            gc.freeze()  # what lives as long as the daemon is not scanned again
            log.info("ready: %d containers, %d repairs", len(engine.containers.records()), len(engine.repaired))
        await stopping
        log.info("stopping; containers run on")
    finally:
        opening.cancel()
        for runner in runners:
            await runner.cleanup()
        await engine.close()


def _reap() -> None:
    """As PID 1: orphans are waited for. Children of our own are the zygote's, and known by its socket."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


if __name__ == "__main__":
    main()
