"""Scow's figures, paired in one run with what this host has of docker, podman, crun and runc: ``make bench`` or

    python -m tests.benchmarks.bench [run,exec,...] [--root DIR] [--alone] [-e NAME=COMMAND]... [-n RUNS] [--json FILE]

Scow's own engine and the peers (`tests.benchmarks.peers`) are started on temporary roots. ``--root`` takes the peers
from another root file system, ``-e`` adds an engine that runs already (COMMAND stands before ``run``; it must hold an
image called ``busybox``). Runs are interleaved A B A B, so that a noisy machine falls on all; the ratios count.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path

from tests.benchmarks import peers
from tests.benchmarks.measure import ROWS, Api, Engine, pss_kib, report, rounds, told
from tests.benchmarks.runtimes import Runtimes
from tests.benchmarks.zygote_starts import ZygoteStarts
from tests.daemon import DOCKER, Daemon, busybox_tar

SCOW = str(Path(sys.executable).with_name("scow"))


def bench_run(daemon: Daemon, engines: list[Engine], options: argparse.Namespace) -> None:
    """run --rm true on the default bridge and without network"""
    for label, extra in (("run --rm (bridge)", ()), ("run --rm --network none", ("--network", "none"))):
        command = ("run", "--rm", *extra, "busybox", "true")
        rounds(label, engines, options.n, partial(Engine.seconds, words=command), "ms", 1e3)


def bench_exec(daemon: Daemon, engines: list[Engine], options: argparse.Namespace) -> None:
    """exec true in a running container"""
    for engine in engines:
        engine(*engine.remove, "bex", check=False)
        engine("run", "-d", "--name", "bex", "busybox", "sleep", "3000")
    rounds("exec true", engines, options.n, lambda e: e.seconds(("exec", "bex", "true")), "ms", 1e3)
    api, values = Api(daemon.socket), []
    for _ in range(options.n * 2):
        time.sleep(0.05)
        begun = time.perf_counter()
        made = api.call("POST", "/containers/bex/exec", {"Cmd": ["true"]})
        assert isinstance(made, dict)
        api.call("POST", f"/exec/{made['Id']}/start", {"Detach": True})
        while (told := api.call("GET", f"/exec/{made['Id']}/json")) and told["Running"]:  # type: ignore[index]
            time.sleep(0.0002)
        values.append((time.perf_counter() - begun) * 1e3)
    report("API exec create+start to its end", "scow", values, "ms")
    for engine in engines:
        engine(*engine.remove, "bex")


def bench_runtime(daemon: Daemon, engines: list[Engine], options: argparse.Namespace) -> None:
    """runtimes alone: a start at the zygote, crun and runc, the C floor; in a tight loop, and with 50 ms of rest"""
    runtimes, starts = Runtimes(daemon.root / "bundles"), ZygoteStarts(daemon.root / "starts")
    try:
        for rest_s in (0.0, 0.05):
            values: dict[str, list[float]] = {name: [] for name in ("scow", *runtimes.names)}
            for number in range(options.n * 2):
                for name in list(values)[:: 1 if number % 2 else -1]:
                    time.sleep(rest_s)
                    values[name].append(1e3 * (starts.seconds() if name == "scow" else runtimes.seconds(name)))
            told(f"runtime: run true, {rest_s * 1e3:.0f} ms of rest", values, "ms")
    finally:
        starts.close()
        runtimes.close()


def bench_parallel(daemon: Daemon, engines: list[Engine], options: argparse.Namespace) -> None:
    """50 x run -d by 8 clients"""
    names = [f"bpar{n}" for n in range(50)]

    def start(engine: Engine) -> float:
        engine(*engine.remove, *names, check=False)
        with ThreadPoolExecutor(8) as clients:
            begun = time.perf_counter()
            list(clients.map(lambda name: engine("run", "-d", "--name", name, "busybox", "sleep", "3000"), names))
            took = time.perf_counter() - begun
        engine(*engine.remove, *names)
        return took

    rounds("50 x run -d by 8 clients", engines, options.reps, start, "s", 1)


def bench_many(daemon: Daemon, engines: list[Engine], options: argparse.Namespace) -> None:
    """50 x run -d one after another, PSS per idle container, rm -f of all"""
    names = [f"bmany{n}" for n in range(50)]

    def start(engine: Engine) -> float:
        engine(*engine.remove, *names, check=False)
        before = pss_kib(str(daemon.root)) if engine.name == "scow" else 0
        begun = time.perf_counter()
        for name in names:
            engine("run", "-d", "--name", name, "busybox", "sleep", "3000")
        took = time.perf_counter() - begun
        if engine.name == "scow":
            time.sleep(1)
            grown = pss_kib(str(daemon.root)) - before
            report("PSS per idle container", "scow", [grown / 50], "KiB")
        return took

    def both(engine: Engine) -> float:
        took = start(engine)
        removed.setdefault(engine.name, []).append(engine.seconds((*engine.remove, *names)))
        return took

    removed: dict[str, list[float]] = {}
    rounds("50 x run -d", engines, options.reps, both, "s", 1)
    told("rm -f of 50 running", removed, "s")


def bench_api(daemon: Daemon, engines: list[Engine], options: argparse.Namespace) -> None:
    """create + start + wait + remove over the API, bridge network; the C floor, crun and runc; 50 ms of rest between"""
    api = Api(daemon.socket)

    def cycle() -> float:
        begun = time.perf_counter()
        made = api.call("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"]})
        assert isinstance(made, dict)
        api.call("POST", f"/containers/{made['Id']}/start")
        api.call("POST", f"/containers/{made['Id']}/wait")
        api.call("DELETE", f"/containers/{made['Id']}")
        return time.perf_counter() - begun

    runtimes = Runtimes(daemon.root / "runtimes")
    try:
        values: dict[str, list[float]] = {name: [] for name in ("scow", *runtimes.names)}
        for _ in range(options.n * 2):
            for name, got in values.items():
                time.sleep(0.05)
                got.append(1e3 * (cycle() if name == "scow" else runtimes.seconds(name)))
        told("API create+start+wait+remove", values, "ms")
    finally:
        runtimes.close()


def bench_userns(daemon: Daemon, engines: list[Engine], options: argparse.Namespace) -> None:
    """start + wait over the API in the host's user namespace and in one of the container's own; a small image and one
    of 10,000 files"""
    layer = BytesIO(busybox_tar())
    with tarfile.open(fileobj=layer, mode="a") as tar:
        for number in range(10_000):
            tar.addfile(tarfile.TarInfo(f"many/{number % 100}/{number}"))
    daemon.docker("import", "-c", "ENV PATH=/bin", "-", "files", input=layer.getvalue())
    api = Api(daemon.socket)

    def cycle(image: str, userns: str) -> float:
        body = {"Image": image, "Cmd": ["true"], "HostConfig": {"UsernsMode": userns, "NetworkMode": "none"}}
        made = api.call("POST", "/containers/create", body)
        assert isinstance(made, dict)
        begun = time.perf_counter()
        api.call("POST", f"/containers/{made['Id']}/start")
        api.call("POST", f"/containers/{made['Id']}/wait")
        took = time.perf_counter() - begun
        api.call("DELETE", f"/containers/{made['Id']}")
        return took * 1e3

    for image in ("busybox", "files"):
        values: dict[str, list[float]] = {"auto": [], "host": []}
        for _ in range(options.n * 2):
            for userns, got in values.items():
                time.sleep(0.05)
                got.append(cycle(image, userns))
        for userns, got in values.items():
            report(f"start of {image}, --userns {userns}", "scow", got, "ms")


def bench_logs(daemon: Daemon, engines: list[Engine], options: argparse.Namespace) -> None:
    """output of 100-byte lines: detached into the log, and the logs command"""
    with _lines(options.log_mib, 100) as source:

        def detached(engine: Engine) -> float:
            engine(*engine.remove, "blog", check=False)
            begun = time.perf_counter()
            engine(
                "run",
                "-d",
                "--name",
                "blog",
                "--log-opt",
                "max-size=4g",
                "-v",
                f"{source}:/in:ro",
                "busybox",
                "cat",
                "/in",
            )
            engine("wait", "blog")
            return float(options.log_mib / (time.perf_counter() - begun))

        def logs(engine: Engine) -> float:
            os.sync()  # what `detached` wrote is not written back on the time of its readers
            begun = time.perf_counter()
            with subprocess.Popen([*engine.argv, "logs", "blog"], stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                got = 0
                while chunk := os.read(process.stdout.fileno(), 1 << 20):
                    got += len(chunk)
            if got < options.log_mib << 20:
                raise RuntimeError(f"{engine.name}: {got} bytes of log came back")
            return float(options.log_mib / (time.perf_counter() - begun))

        rounds("detached output, 100-byte lines", engines, options.reps, detached, "MiB/s", 1)
        rounds("logs", engines, options.reps, logs, "MiB/s", 1)
    for engine in engines:
        engine(*engine.remove, "blog")


@contextlib.contextmanager
def _lines(mib: int, width: int) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        block = (b"x" * (width - 1) + b"\n") * ((1 << 20) // width)
        written = 0
        while written < mib << 20:
            written += file.write(block[: (mib << 20) - written])
        file.flush()
        yield file.name


def bench_start(daemon: Daemon, engines: list[Engine], options: argparse.Namespace) -> None:
    """daemon start to the first _ping, and the memory of daemon and zygote then"""
    starts, memory = [], []
    for _ in range(options.reps + 2):
        daemon.stop()
        begun = time.perf_counter()
        daemon.start()
        starts.append(time.perf_counter() - begun)
        daemon.api("GET", "/info")
        time.sleep(1)
        memory.append(pss_kib(str(daemon.root)) / 1024)
    report("daemon start to _ping", "scow", starts, "s")
    report("PSS of scowd and zygote", "scow", memory, "MiB")


def bench_cli(daemon: Daemon, engines: list[Engine], options: argparse.Namespace) -> None:
    """scow --help and scow ps"""
    scow = Engine("scow-cli", [SCOW, "-H", f"unix://{daemon.socket}"])
    for words in (("--help",), ("ps",)):
        rounds(f"scow {' '.join(words)}", [scow], options.n, partial(Engine.seconds, words=words), "ms", 1e3)


BENCHES = {name.removeprefix("bench_"): fn for name, fn in list(globals().items()) if name.startswith("bench_")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benches", nargs="?", default=",".join(BENCHES), help=", ".join(BENCHES))
    parser.add_argument("--root", default="/", help="where the peers are installed: another root file system")
    parser.add_argument("--alone", action="store_true", help="no peers are started")
    parser.add_argument("-e", "--engine", action="append", default=[], help="a peer that runs already: NAME=COMMAND")
    parser.add_argument("-n", type=int, default=20, help="rounds of the quick ones")
    parser.add_argument("--reps", type=int, default=3, help="rounds of the slow ones")
    parser.add_argument("--log-mib", type=int, default=256)
    parser.add_argument("--json", help="append the rows to this file")
    options = parser.parse_args()
    if DOCKER is None or os.geteuid() != 0:
        parser.error("needs root and the docker CLI")
    folder = Path(tempfile.mkdtemp(prefix="scow-bench-"))
    daemon = Daemon(folder / "scow", debug=False).start()
    try:
        daemon.import_busybox()
        found = {name: shlex.split(command) for name, _, command in (text.partition("=") for text in options.engine)}
        with contextlib.ExitStack() as stack:
            installed = {} if options.alone else stack.enter_context(peers.running(folder, options.root))
            commands = {"scow": [DOCKER, "-H", f"unix://{daemon.socket}"], **installed, **found}
            engines = [Engine(name, argv) for name, argv in commands.items()]
            print("| benchmark | engine | median | min | max | n | unit |\n|---|---|---|---|---|---|---|")
            for name in options.benches.split(","):
                BENCHES[name](daemon, engines, options)
    finally:
        daemon.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        with open(options.json, "a") as file:
            file.writelines(json.dumps(row) + "\n" for row in ROWS)


if __name__ == "__main__":
    main()
