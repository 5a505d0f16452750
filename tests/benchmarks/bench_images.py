"""Images: pull, push, and lists of many, paired in one run with docker and podman: ``make bench-images`` or

    python -m tests.benchmarks.bench_images [pull,push,...] [--on root,loop] [--images nginx-like,many-files]
        [--root DIR] [--alone] [--reps RUNS] [--keep DIR] [--json FILE]

Every engine has its state on the same file system: that of the temporary folder (``root``), and a fresh ext4 in a file,
mounted by loop (``loop``), which makes files far faster on some machines. The registry is Debian's, on loopback. The
images are made from a seed (`tests.benchmarks.sample_images`). Runs are interleaved; the page cache is dropped before.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.benchmarks import floors, peers
from tests.benchmarks.measure import ROWS, Api, Engine, report, rounds
from tests.benchmarks.sample_images import MANY_FILES, NGINX_LIKE, layers_of, write_layout
from tests.daemon import DOCKER, Daemon
from tests.registry import running_registry

SAMPLES = {sample.name: sample for sample in (NGINX_LIKE, MANY_FILES)}
_LOOP_BYTES = 24 << 30


@dataclass(frozen=True, slots=True)
class Bench:
    """What one file system's runs share: *layouts* are the images, *host* is the registry that has them."""

    place: str
    folder: Path
    scratch: Path
    daemon: Daemon
    engines: list[Engine]
    layouts: dict[str, Path]
    host: str
    reps: int

    def ref(self, image: str) -> str:
        return f"{self.host}/{image}:latest"


def bench_pull(bench: Bench) -> None:
    """pull, nothing there before; how much memory scowd takes for it"""
    for image in bench.layouts:
        peaks: list[float] = []
        one = partial(_pull, bench, bench.ref(image), peaks)
        rounds(f"pull {image} ({bench.place})", bench.engines, bench.reps, one, "s", 1)
        for engine in bench.engines:
            engine("rmi", "-f", bench.ref(image))
        if peaks:
            report(f"pull {image} ({bench.place}): peak of scowd above idle", "scow", peaks, "MiB")


def _pull(bench: Bench, ref: str, peaks: list[float], engine: Engine) -> float:
    engine("rmi", "-f", ref, check=False)
    _cold()
    idle = _reset_peak(bench.daemon.pid) if engine.name == "scow" else 0
    took = engine.seconds(("pull", "-q", *_insecure(engine), ref))
    if engine.name == "scow":
        peaks.append((_status_kib(bench.daemon.pid, "VmHWM") - idle) / 1024)
    return took


def bench_floor(bench: Bench) -> None:
    """the least that fetching, verifying and inflating costs, and scow's pull without its unpacking"""
    if tool := floors.missing():
        print(f"no floor: {tool} is not installed", flush=True)
        return
    for image, layout in bench.layouts.items():
        digests = [digest for digest, _ in layers_of(layout)]
        values: dict[str, list[float]] = {"floor": [], "scow": []}
        for _ in range(bench.reps):
            _cold()
            values["floor"].append(floors.floor_s(bench.host, image, digests, bench.folder))
            _cold()
            values["scow"].append(floors.download_s(bench.ref(image), bench.folder))
        for name, got in values.items():
            report(f"fetch, verify, inflate {image} ({bench.place})", name, got, "s")


def bench_push(bench: Bench) -> None:
    """push to an empty registry of what was pulled, and once more to a new tag there"""
    for image in bench.layouts:
        again: dict[str, list[float]] = {engine.name: [] for engine in bench.engines}
        for engine in bench.engines:
            engine("pull", "-q", *_insecure(engine), bench.ref(image))
        one = partial(_push, bench, bench.ref(image), again)
        rounds(f"push {image}, pulled ({bench.place})", bench.engines, bench.reps, one, "s", 1)
        for name, got in again.items():
            report(f"push {image}, pulled, again ({bench.place})", name, got, "s")
        for engine in bench.engines:
            engine("rmi", "-f", bench.ref(image))


def bench_build(bench: Bench) -> None:
    """push to an empty registry of what was loaded uncompressed, as what was built or committed here"""
    for image, layout in bench.layouts.items():
        archive = bench.scratch / f"{image}.tar"
        name = f"localhost/{image}:made"
        words = ["skopeo", "copy", "-q", f"oci:{layout}:latest", f"docker-archive:{archive}:{name}"]
        subprocess.run(words, check=True)
        again: dict[str, list[float]] = {engine.name: [] for engine in bench.engines}
        one = partial(_load_and_push, bench, archive, name, again)
        rounds(f"push {image}, loaded ({bench.place})", bench.engines, bench.reps, one, "s", 1)
        for engine_name, got in again.items():
            report(f"push {image}, loaded, again ({bench.place})", engine_name, got, "s")
        archive.unlink()


def _load_and_push(bench: Bench, archive: Path, name: str, again: dict[str, list[float]], engine: Engine) -> float:
    """Loaded anew each time: nobody has compressed it before."""
    with archive.open("rb") as stdin:
        engine("load", "-q", stdin=stdin)
    took = _push(bench, name, again, engine)
    engine("rmi", "-f", name)
    return took


def _push(bench: Bench, ref: str, again: dict[str, list[float]], engine: Engine) -> float:
    with tempfile.TemporaryDirectory(dir=bench.scratch) as folder, running_registry(Path(folder)) as registry:
        targets = [f"{registry.host}/pushed:{tag}" for tag in ("one", "two")]
        for target in targets:
            engine("tag", ref, target)
        _cold()
        took = engine.seconds(("push", "-q", *_insecure(engine), targets[0]))
        again[engine.name].append(engine.seconds(("push", "-q", *_insecure(engine), targets[1])))
        engine("rmi", *targets)
    return took


def bench_many(bench: Bench) -> None:
    """with 500 images: list, inspect and df over the API"""
    for engine in [engine for engine in bench.engines if engine.argv[0] == DOCKER]:
        api = Api(Path(engine.argv[2].removeprefix("unix://")))
        for n in range(500):
            api.call("POST", f"/images/create?fromSrc=-&repo=many{n}&tag=1", _small_tar(n))
        for path in ("/images/json", "/images/many250:1/json", "/system/df"):
            values = []
            try:
                for _ in range(20):
                    begun = time.perf_counter()
                    api.call("GET", path)
                    values.append((time.perf_counter() - begun) * 1e3)
            except RuntimeError as error:
                print(f"not measured: {engine.name}: {error}", flush=True)
            else:
                report(f"GET {path}, 500 images ({bench.place})", engine.name, values, "ms")
        for n in range(500):
            api.call("DELETE", f"/images/many{n}:1")


def _small_tar(number: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        data = f"image {number}\n".encode()
        info = tarfile.TarInfo("etc/number")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _insecure(engine: Engine) -> list[str]:
    return ["--tls-verify=false"] if "podman" in engine.name else []


def _cold() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    time.sleep(0.5)


def _reset_peak(pid: int) -> int:
    """The process's peak begins anew; answers what it holds now, in KiB."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _status_kib(pid, "VmRSS")


def _status_kib(pid: int, name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(match[1]) if match else 0


@contextlib.contextmanager
def _place(name: str, scratch: Path) -> Iterator[Path]:
    """A folder on the file system *name*."""
    folder = scratch / name
    folder.mkdir()
    if name == "root":
        yield folder
        return
    image = scratch / f"{name}.ext4"
    with image.open("wb") as file:
        file.truncate(_LOOP_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=1,nodiscard", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-R", str(folder)], check=True)
        image.unlink()


BENCHES = {name.removeprefix("bench_"): fn for name, fn in list(globals().items()) if name.startswith("bench_")}


def _on(place: str, scratch: Path, layouts: dict[str, Path], host: str, options: argparse.Namespace) -> None:
    with _place(place, scratch) as folder, contextlib.ExitStack() as stack:
        daemon = Daemon(folder / "scow", debug=False).start()
        stack.callback(daemon.cleanup)
        found = {} if options.alone else stack.enter_context(peers.running(folder, options.root, own_net=False))
        commands = {"scow": [str(DOCKER), "-H", f"unix://{daemon.socket}"], **found}
        engines = [Engine(name, argv) for name, argv in commands.items()]
        wanted = options.engines.split(",") if options.engines else []
        engines = [engine for engine in engines if not wanted or engine.name.split()[0] in wanted]
        for name in options.benches.split(","):
            BENCHES[name](Bench(place, folder, scratch, daemon, engines, layouts, host, options.reps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benches", nargs="?", default=",".join(BENCHES), help=", ".join(BENCHES))
    parser.add_argument("--on", default="root,loop", help="file systems: root, loop")
    parser.add_argument("--images", default=",".join(SAMPLES), help=", ".join(SAMPLES))
    parser.add_argument("--engines", default="", help="only these: scow, docker, podman")
    parser.add_argument("--root", default="/", help="where the peers are installed: another root file system")
    parser.add_argument("--alone", action="store_true", help="no peers are started")
    parser.add_argument("--reps", type=int, default=3, help="rounds")
    parser.add_argument("--keep", help="a folder that keeps the images for the next run")
    parser.add_argument("--json", help="append the rows to this file")
    options = parser.parse_args()
    if DOCKER is None or os.geteuid() != 0:
        parser.error("needs root and the docker CLI")
    scratch = Path(tempfile.mkdtemp(prefix="scow-bench-"))
    try:
        kept = Path(options.keep) if options.keep else scratch / "images"
        layouts = {name: kept / name for name in options.images.split(",")}
        with running_registry(scratch) as registry:
            for name, layout in layouts.items():
                write_layout(SAMPLES[name], layout)
                to = ["--dest-tls-verify=false", f"docker://{registry.host}/{name}:latest"]
                subprocess.run(["skopeo", "copy", "-q", f"oci:{layout}:latest", *to], check=True)
            print("| benchmark | engine | median | min | max | n | unit |\n|---|---|---|---|---|---|---|")
            for place in options.on.split(","):
                _on(place, scratch, layouts, registry.host, options)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if options.root != "/":
            shutil.rmtree(options.root + str(scratch), ignore_errors=True)  # the empty mount points
    if options.json:
        with open(options.json, "a") as file:
            file.writelines(json.dumps(row) + "\n" for row in ROWS)


if __name__ == "__main__":
    main()
