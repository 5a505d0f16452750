"""One case under one runtime: a bundle of its own, the commands, and what is left behind.

Everything happens in the worker's mount namespace (`tests.differential.worker`), below a tmpfs that goes with it.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scow.linux import syscalls as sys
from tests.differential import bundle, looks
from tests.differential.corpus import ERRORS, Case, Observed, Spec

COMMAND_S = 20.0  # a runtime that is not done by then hangs
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Done:
    """How a command of a runtime ended: 128 + n for signal n, as shells say."""

    code: int
    out: str
    err: str


@dataclass
class Run:
    """*folder* is the bundle, *root* its root file system (writable), *cgroup* its cgroupsPath."""

    case: Case
    runtime: str
    program: str
    folder: Path
    cgroup: str
    spec: Spec = field(default_factory=bundle.base)
    extra: list[str] = field(default_factory=list)  # options of create and run

    id = "case"

    @property
    def root(self) -> Path:
        return self.folder / "rootfs"

    @property
    def state_root(self) -> Path:
        return self.folder / "state"

    def words(self, *words: str) -> list[str]:
        """The command line of the runtime."""
        return [self.program, "--root", str(self.state_root), *words]

    def command(self, *words: str, input: bytes = b"", **options: Any) -> Done:
        """The runtime's command *words* is done. Its output goes through files: what a container holds open after it
        does not delay it."""
        number = len(list(self.folder.glob("*.out")))
        out, err = self.folder / f"{number}.out", self.folder / f"{number}.err"
        (self.folder / "in").write_bytes(input)
        with open(self.folder / "in", "rb") as stdin, open(out, "wb") as stdout, open(err, "wb") as stderr:
            process = subprocess.Popen(
                self.words(*words), stdin=stdin, stdout=stdout, stderr=stderr, cwd=self.folder, **options
            )
            if not wait_gone(process.pid, COMMAND_S):
                process.kill()
                process.wait()
                return Done(-1, "", f"{words[0]} hangs")
            code = process.wait()
        return Done(code if code >= 0 else 128 - code, out.read_text(errors="replace"), err.read_text(errors="replace"))

    def write_spec(self) -> None:
        """config.json holds `spec`."""
        (self.folder / "config.json").write_text(json.dumps(self.spec))

    def create(self, *options: str, **more: Any) -> Done:
        return self.command("create", *self.extra, *options, "--bundle", str(self.folder), self.id, **more)

    def run(self, *options: str, **more: Any) -> Done:
        return self.command("run", *self.extra, *options, "--bundle", str(self.folder), self.id, **more)

    def start(self) -> Done:
        return self.command("start", self.id)

    def kill(self, *words: str) -> Done:
        return self.command("kill", self.id, *words)

    def delete(self, *options: str) -> Done:
        return self.command("delete", *options, self.id)

    def state(self) -> Spec:
        """What `state` answers; empty when it fails."""
        done = self.command("state", self.id)
        return dict(json.loads(done.out)) if done.code == 0 else {}

    def status(self) -> str:
        return str(self.state().get("status", "none"))

    def pid(self) -> int:
        return int(self.state().get("pid") or 0)

    def cgroup_folder(self, controller: str) -> Path:
        return CGROUPS / controller / self.cgroup.lstrip("/")

    def plain(self, text: str) -> str:
        """*text* without what is of this run only."""
        inside = f"/{self.folder.parent.name}/{self.folder.name}"  # as mountinfo names it: below the tmpfs
        for old, new in ((str(self.folder), "BUNDLE"), (inside, "BUNDLE"), (self.cgroup, "/CGROUP")):
            text = text.replace(old, new)
        return text


def to_the_end(run: Run) -> Observed:
    """``run`` in the foreground: the exit code, and what the program says."""
    done = run.run()
    return observed_of(done)


def observed_of(done: Done) -> Observed:
    """The exit code and the looks; where the runtime failed before the program was there, only the code."""
    return {"exit": str(done.code), **looks.parse(done.out)}


def wait_for(condition: Callable[[], Any], seconds: float = 5.0) -> bool:
    """Whether *condition* holds within *seconds*."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def wait_gone(pid: int, seconds: float = 5.0) -> bool:
    """Whether process *pid* has ended within *seconds*. Others that became our children are reaped meanwhile: a
    process namespace ends with the last of them."""
    if pid <= 0:
        return True
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        end = time.monotonic() + seconds
        while not select.select([pidfd], [], [], 0.02)[0]:
            reap(but=pid)
            if time.monotonic() > end:
                return False
        return True
    finally:
        os.close(pidfd)


def reap(but: int = 0) -> None:
    """No ended process is left as our child, *but* this one."""
    for pid in children():
        if pid != but:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass


def children() -> list[int]:
    """Our children: with containers' processes that lost their parent (the worker is a subreaper)."""
    return [int(pid) for pid in Path("/proc/self/task", str(os.getpid()), "children").read_text().split()]


def mount_points() -> list[str]:
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def perform(case: Case, runtime: str, program: str, place: Path, image: Path) -> Observed:
    """*case* under *runtime*: what was seen, and under ``left`` what a deleted container left behind."""
    reap()
    folder = place / f"{case.name}.{runtime}"
    run = Run(case, runtime, program, folder, f"/{place.name}/{case.name}")
    with _bundle(folder, image):
        run.spec["linux"]["cgroupsPath"] = run.cgroup
        run.spec["process"]["args"] = ["/bin/sh", "-c", looks.script(case.look, case.sh)]
        before = mount_points()
        with _cleaned(run):
            case.change(run.spec, run)
            run.write_spec()
            observed = case.drive(run)
        observed["left"] = ", ".join(left(run, before)) or "nothing"
        observed[ERRORS] = "".join(path.read_text(errors="replace") for path in sorted(folder.glob("*.err")))[-600:]
    return {key: run.plain(value) for key, value in observed.items()}


@contextmanager
def _bundle(folder: Path, image: Path) -> Iterator[None]:
    for name in ("rootfs", "state", "upper", "work"):
        (folder / name).mkdir(parents=True)
    layers = f"lowerdir={image},upperdir={folder}/upper,workdir={folder}/work"
    sys.mount("overlay", str(folder / "rootfs"), "overlay", 0, layers)
    try:
        yield
    finally:
        for place in reversed([place for place in mount_points() if place.startswith(f"{folder}/")]):
            sys.umount(place, sys.MNT_DETACH)
        shutil.rmtree(folder)


@contextmanager
def _cleaned(run: Run) -> Iterator[None]:
    try:
        yield
    finally:
        if any(run.state_root.iterdir()):
            run.delete("--force")


def left(run: Run, before: list[str]) -> list[str]:
    """What the runtime left after its container was deleted; processes are killed then and cgroups removed."""

    def gone() -> bool:
        reap()
        return not children()

    lines = [] if wait_for(gone, 2.0) else [f"process {_name(pid)}" for pid in children()]
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    wait_for(gone)
    lines += [f"state {path.name}" for path in run.state_root.iterdir() if run.id in path.name]
    lines += [f"mount {place}" for place in mount_points() if place not in before]
    for controller in sorted(CGROUPS.iterdir()):
        folder = run.cgroup_folder(controller.name)
        if folder.is_dir() and not controller.is_symlink() and os.path.ismount(controller):
            lines.append(f"cgroup {controller.name}")
            for below, _, _ in os.walk(folder, topdown=False):
                os.rmdir(below)
    return lines


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "that ended meanwhile"
