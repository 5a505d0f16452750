"""Builds images, or finds them built: keeps the index, the roots and the images current."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scow.errors import NotFound, Unavailable
from scow.oci import Descriptor
from scow_registry_apt import busybox
from scow_registry_apt.image import put_image
from scow_registry_apt.index import DownloadFailed, PackageIndex
from scow_registry_apt.known import KNOWN
from scow_registry_apt.layers import Layer, LayerWriter
from scow_registry_apt.memory import tmpfs_bytes
from scow_registry_apt.recipe import BUSYBOX, Recipe
from scow_registry_apt.store import Record, Store
from scow_registry_apt.worker import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scow.ports.registry import Manifest
    from scow_registry_apt.sources import Mirror

    Tell = Callable[[str], None]


class Builder:
    """Images of *mirror*'s packages in *store*; the index of a suite is asked for anew after *index_hours*.

    Thread-safe; builds of one suite share its index and take turns where they change it.
    """

    def __init__(self, folder: Path, mirror: Mirror, index_hours: float) -> None:
        self.mirror = mirror
        self.store = Store(folder)
        self._folder = folder
        self._index_s = index_hours * 3600
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._running: set[subprocess.Popen[str]] = set()
        self._closed = False

    def image(self, recipe: Recipe, tell: Tell) -> Manifest:
        """The image of *recipe*, built or found. Raises `NotFound` naming the package or suite that does not exist."""
        if recipe.leading == BUSYBOX:
            return self._busybox(recipe, tell)
        index, record = self._current(recipe.key, recipe.suite, tell)
        if record is not None and record.manifest is not None:
            return self.store.manifest(record.manifest)
        index.check_names(recipe.packages)
        self._require_root()
        with self._locks[f"root {recipe.suite}"]:
            base = self._base(recipe.suite, tell)
        layers, status, steps = [*base.layers], base.status, [f"minimal root of {recipe.suite}"]
        if recipe.packages:
            changes = index.installs(recipe.packages, self.store.status / base.status)
            versions = {change.package: change.version for change in changes}
            named = ", ".join(f"{name} {versions.get(name, '')}".strip() for name in recipe.packages)
            tell(f"installing {named} ({len(changes)} packages)")
            layer, status = self._work(recipe, base, tell)
            layers.append(layer)
            steps.append(f"apt-get install {' '.join(recipe.packages)}")
        manifest = put_image(self.store, recipe, layers, steps)
        self.store.put_record(recipe.key, Record(tuple(layers), index.digest, status, manifest))
        self.store.collect()
        return self.store.manifest(manifest)

    def close(self) -> None:
        """No build is left running."""
        self._closed = True
        for process in list(self._running):
            process.kill()

    def _current(self, key: str, suite: str, tell: Tell) -> tuple[PackageIndex, Record | None]:
        """The index of *suite*, and the record of *key* where nothing in it has a newer version by now."""
        with self._locks[f"index {suite}"]:
            index = self._index(suite, tell)
            record = self.store.record(key)
            if record is None or record.current == index.digest:
                return index, record
            status = self.store.status / record.status
            if not status.is_file() or index.upgrades(status):
                return index, None
            record = replace(record, current=index.digest)
            self.store.put_record(key, record)
            return index, record

    def _index(self, suite: str, tell: Tell, *, fresh: bool = False) -> PackageIndex:
        index = PackageIndex(self._folder / "index" / suite, suite, self.mirror.of_suite(suite))
        age_s = index.age_s()
        if fresh or age_s > self._index_s:
            tell(f"reading the package index of {suite}")
            try:
                index.update()
            except NotFound:
                shutil.rmtree(index.folder)
                raise
            except Unavailable as error:
                if not index.digest or age_s == float("inf"):
                    raise
                tell(f"{error}; going on with that of {age_s / 3600:.0f} hours ago")
        return index

    def _base(self, suite: str, tell: Tell) -> Record:
        """The minimal root of *suite*, shared by all images."""
        key = f"{suite}_root"
        index, record = self._current(key, suite, tell)
        if record is not None:
            return record
        layer, status = self._work(Recipe("", suite), None, tell)
        record = Record((layer,), index.digest, status)
        self.store.put_record(key, record)
        return record

    def _work(self, recipe: Recipe, base: Record | None, tell: Tell) -> tuple[Layer, str]:
        """The layer of *recipe* on *base*, and the name of its dpkg status; in memory where there is enough."""
        try:
            return self._run_worker(recipe, base, tmpfs_bytes(), tell)
        except _Full:
            tell("it does not fit into memory; building on disk")
            return self._run_worker(recipe, base, 0, tell)
        except DownloadFailed as error:
            tell(f"{error}; reading the package index of {recipe.suite} again")
            with self._locks[f"index {recipe.suite}"]:
                self._index(recipe.suite, tell, fresh=True)
            return self._run_worker(recipe, base, tmpfs_bytes(), tell)

    def _run_worker(self, recipe: Recipe, base: Record | None, size: int, tell: Tell) -> tuple[Layer, str]:
        status = uuid.uuid4().hex
        with self._work_folder() as folder, self.store.incoming() as (_, out):
            (folder / "work").mkdir()
            plan = Plan(
                suite=recipe.suite,
                folder=str(folder / "work"),
                out=out,
                status=str(self.store.status / status),
                index=str(self._folder / "index" / recipe.suite),
                sources=self.mirror.of_suite(recipe.suite),
                parent=os.getpid(),
                base=str(self.store.path(base.layers[0].descriptor.digest)) if base else "",
                packages=recipe.packages,
                links=KNOWN[recipe.leading].links if recipe.leading in KNOWN else {},
                tmpfs_bytes=size,
            )
            result = self._talk(plan, folder / "log", tell)
            layer = Layer(Descriptor.from_json(result["layer"]), result["diff_id"])
            os.rename(out, self.store.path(layer.descriptor.digest))
            return layer, status

    def _talk(self, plan: Plan, log: Path, tell: Tell) -> dict[str, Any]:
        """Runs the worker; its last answer."""
        answer: dict[str, Any] = {}
        command = [sys.executable, "-I", "-m", "scow_registry_apt.worker"]
        with log.open("wb") as errors:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )
        self._running.add(process)
        try:
            if self._closed:
                raise Unavailable("the registry backend is closed")
            with process:
                assert process.stdin is not None and process.stdout is not None
                json.dump(asdict(plan), process.stdin)
                process.stdin.close()
                for line in process.stdout:
                    answer = json.loads(line)
                    if "progress" in answer:
                        tell(answer["progress"])
        finally:
            process.kill()
            self._running.discard(process)
        if "layer" in answer:
            return answer
        if answer.get("kind") == "full" and plan.tmpfs_bytes:
            raise _Full
        if answer.get("kind") == "download":
            raise DownloadFailed(answer["error"])
        reason = answer.get("error") or f"the build ended with {process.returncode}"
        raise Unavailable(f"{reason}: {_last_words(log)}")

    @contextmanager
    def _work_folder(self) -> Iterator[Path]:
        """A folder to build in; those that a killed build left behind are gone."""
        parent = self._folder / "work"
        parent.mkdir(exist_ok=True)
        for stale in parent.iterdir():
            lock = os.open(stale, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(stale)
            except BlockingIOError:
                continue  # somebody builds there
            finally:
                os.close(lock)
        folder = Path(tempfile.mkdtemp(dir=parent))
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield folder
        finally:
            os.close(lock)
            shutil.rmtree(folder)

    @staticmethod
    def _require_root() -> None:
        if os.geteuid() != 0:
            raise Unavailable(
                "images of packages are built as root", hint="run scowd as root; apt.local/busybox needs no root"
            )

    def _busybox(self, recipe: Recipe, tell: Tell) -> Manifest:
        installed = _installed_busybox() if recipe.suite == self.mirror.suite else None
        record = self.store.record(recipe.key)
        if installed is not None:
            version, program_path = installed
            if record is not None and record.manifest is not None and record.current == version:
                return self.store.manifest(record.manifest)
            current, program = version, program_path.read_bytes()
        else:
            with self._locks[f"index {recipe.suite}"]:
                index = self._index(recipe.suite, tell)
                current = index.digest
                if record is not None and record.manifest is not None and record.current == current:
                    return self.store.manifest(record.manifest)
                index.check_names(recipe.packages)
                tell("downloading busybox-static")
                with self._work_folder() as folder:
                    program = busybox.program_of(index.download_one(recipe.packages[0], folder))
        tell("packing the layer")
        with self.store.incoming() as (out, name):
            writer = LayerWriter(out)
            busybox.write_root(writer, program)
            layer = writer.close()
            out.flush()
            os.fsync(out.fileno())
            os.rename(name, self.store.path(layer.descriptor.digest))
        manifest = put_image(self.store, recipe, [layer], ["busybox-static and its applets"])
        self.store.put_record(recipe.key, Record((layer,), current, "", manifest))
        return self.store.manifest(manifest)


class _Full(Exception):
    """The build ran out of its tmpfs."""


def _installed_busybox() -> tuple[str, Path] | None:
    """Version and program of the host's busybox-static, where it is installed and unchanged."""
    format_ = "--showformat=${db:Status-Status} ${Version}"
    query = subprocess.run(["dpkg-query", "--show", format_, "busybox-static"], capture_output=True)
    state, _, version = query.stdout.decode().partition(" ")
    if query.returncode or state != "installed":
        return None
    verified = subprocess.run(["dpkg", "--verify", "busybox-static"], capture_output=True)
    listed = subprocess.run(["dpkg-query", "--listfiles", "busybox-static"], capture_output=True)
    programs = [line for line in listed.stdout.decode().splitlines() if line in ("/bin/busybox", "/usr/bin/busybox")]
    if verified.returncode or b"/busybox\n" in verified.stdout or not programs:
        return None
    return version, Path(programs[0])


def _last_words(log: Path) -> str:
    """The last lines of a build's output that look like an error."""
    lines = log.read_text(errors="replace").splitlines()
    wrong = [line for line in lines if re.match(r"(E|W): |dpkg: error|.*[Ee]rror", line)]
    text = "; ".join(line.strip() for line in (wrong or lines)[-3:])
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)[:500]
