"""Starts without an engine: one native runtime and one zygote, from the request to the exit of the program."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from pathlib import Path

from scow.engine import spec
from scow.engine.zygote import Zygote
from scow.ports import DriverContext, Mount
from scow.ports.log import LogLimits
from scow.ports.storage import MOUNT_POINTS
from scow.testing.runtime import make_root, record
from scow_runtime_native.driver import NativeRuntime

_LIMITS = LogLimits(20_000_000, 5)


class ZygoteStarts:
    """`seconds` runs ``true`` once in a container with Docker's default namespaces, mounts, capabilities, seccomp and
    cgroups, and no network: from the request at the zygote on the plan and the cgroup are made, the monitor forked, the
    root mounted, the program executed and its exit told. The cgroup and the writable layer's folders are removed
    outside of the measured time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = make_root(folder / "lower")
        for name in MOUNT_POINTS:  # as the storage driver has them below every root
            path = self._root / name
            path.mkdir(exist_ok=True) if name.endswith("/") else path.touch()
        run_dir = folder / "run"
        run_dir.mkdir(parents=True)
        name = f"bench{secrets.token_hex(3)}"
        context = DriverContext("native", folder, run_dir, engine=name, settings={"cgroup_parent": f"scow-{name}"})
        self._runtime = NativeRuntime(context)
        self._runner = asyncio.Runner()
        self._zygote = self._runner.run(Zygote.start(run_dir, [self._runtime.child_module]))
        self._numbers = itertools.count()

    def seconds(self) -> float:
        """What one start took."""
        return self._runner.run(self._once(next(self._numbers)))

    async def _once(self, number: int) -> float:
        id = secrets.token_hex(32)
        bundle = self._folder / f"c{number}"
        for child in ("rootfs", "log", "upper", "work"):
            (bundle / child).mkdir(parents=True)
        for name in ("hosts", "hostname", "resolv.conf"):
            (bundle / name).touch()
        built = spec.build(record(id, ["true"]), directory=bundle)
        options = (f"lowerdir={self._root}", f"upperdir={bundle}/upper", f"workdir={bundle}/work")
        root = [Mount("overlay", "overlay", "", options)]
        begun = time.perf_counter()
        spawned = asyncio.ensure_future(self._zygote.spawn(id, bundle, self._runtime.child_module))
        await asyncio.sleep(0)  # it is asked for: plan and cgroup are made meanwhile
        plan = self._runtime.create(id, built, root, bundle)
        monitor = await spawned
        ended: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()
        monitor.on_exit = ended.set_result
        await monitor.create(
            plan, tty=False, open_stdin=False, stdin_once=False, log_directory=bundle / "log", limits=_LIMITS
        )
        await monitor.start()
        told = await ended
        took = time.perf_counter() - begun
        if told["exit_code"] != 0:
            raise RuntimeError(f"true ended with {told}")
        await monitor.closed
        await asyncio.to_thread(self._runtime.delete, id)
        return took

    def close(self) -> None:
        """The zygote is gone, and the engine's cgroup."""
        self._runner.run(self._zygote.close())
        self._runner.close()
        self._runtime.close()
