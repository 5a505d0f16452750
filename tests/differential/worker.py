"""The process that runs the cases under one runtime: in a mount namespace of its own, without the unified hierarchy
(crun refuses a host with both versions of cgroups).

`Worker` starts it and asks; `main` is it. A request is a line with the name of a case, an answer a line with the
observations as JSON.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
import traceback
from io import BytesIO
from pathlib import Path

from scow.linux import syscalls
from tests.daemon import busybox_tar
from tests.differential.corpus import Observed, all_cases
from tests.differential.run import CGROUPS, perform

OURS = "scow-runtime"
PEERS = ("runc", "crun")
PLACE = Path("/mnt")  # covered by a tmpfs here: whatever user a container maps to may pass through it
_PR_SET_CHILD_SUBREAPER = 36


def installed() -> dict[str, str]:
    """The programs of the runtimes that this host has, ours included, by name."""
    own = Path(sys.executable).parent / OURS
    found = {name: shutil.which(name) for name in (*PEERS, OURS)}
    if own.exists():
        found[OURS] = str(own)
    return {name: program for name, program in found.items() if program}


class Worker:
    """Started by the constructor for the runtime of this name; `observe` runs a case once; `close` ends it."""

    def __init__(self, runtime: str) -> None:
        self.runtime = runtime
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, runtime], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def observe(self, case: str) -> Observed:
        """The observations of *case*."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{case}\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"failed": "the worker ended"}')
        if "failed" in answer:
            raise RuntimeError(f"{case} under {self.runtime}: {answer['failed']}")
        return dict(answer["observed"])

    def close(self) -> None:
        """The worker has ended, with its mounts and cgroups."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def main() -> None:
    answers = os.fdopen(fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 10), "w", buffering=1)
    for number in (1, 3):  # 3 is for cases that hand a descriptor over
        os.dup2(2, number)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)  # whatever the tests' caller ignores
    syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    os.umask(0o022)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", str(PLACE), "tmpfs", 0, "mode=755")
    _hide_the_unified_hierarchy()
    place, image = PLACE / f"scow-diff-{secrets.token_hex(3)}", PLACE / "image"
    place.mkdir()
    with tarfile.open(fileobj=BytesIO(busybox_tar())) as tar:
        tar.extractall(image)  # our own tar
    cases, runtime = all_cases(), sys.argv[1]
    program = installed()[runtime]
    try:
        for line in sys.stdin:
            try:
                observed = perform(cases[line.strip()], runtime, program, place, image)
                answers.write(json.dumps({"observed": observed}) + "\n")
            except Exception:
                answers.write(json.dumps({"failed": traceback.format_exc()}) + "\n")
    finally:
        for controller in CGROUPS.iterdir():
            for folder, _, _ in os.walk(controller / place.name, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)


def _hide_the_unified_hierarchy() -> None:
    """Only the hierarchies of version 1 are at /sys/fs/cgroup, on a tmpfs of our own: crun makes folders beside them,
    where it takes ``unified`` for one."""
    if not (CGROUPS / "unified").exists():
        return
    new = PLACE / "cgroup"
    new.mkdir()
    syscalls.mount("tmpfs", str(new), "tmpfs", 0, "mode=755")
    for entry in sorted(CGROUPS.iterdir()):
        if entry.is_symlink():
            (new / entry.name).symlink_to(entry.readlink())
        elif entry.name != "unified" and os.path.ismount(entry):
            (new / entry.name).mkdir()
            syscalls.mount(str(entry), str(new / entry.name), None, syscalls.MS_BIND)
    syscalls.mount(str(new), str(CGROUPS), None, syscalls.MS_MOVE)


if __name__ == "__main__":
    main()
