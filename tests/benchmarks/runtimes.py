"""Runtimes alone: ``run`` of a bundle with a static busybox's ``true`` under runc, crun and scow-runtime, and the floor
in C.

A process in a mount namespace of its own times them, a name a line on its stdin, seconds a line on its stdout: crun
refuses a hybrid cgroup layout, and entering a namespace for each run would be measured too.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path

from tests.daemon import busybox_tar

FLOOR = "floor in C"
OURS = "scow-runtime run"
_TRUE = ["/bin/busybox", "true"]
# hidden, not unmounted: crun makes folders in what lies there, and below a hybrid layout that is the host's own tmpfs
_ENTER = '! mountpoint -q /sys/fs/cgroup/unified || mount -t tmpfs none /sys/fs/cgroup/unified; exec "$@"'


class Runtimes:
    """`names`: what is installed of the floor's compiler, crun and runc; `seconds` runs one once."""

    def __init__(self, folder: Path) -> None:
        self.names: list[str] = []
        commands: dict[str, list[str]] = {}
        rootfs, work = folder / "rootfs", folder / "floor-work"
        work.mkdir(parents=True)
        with tarfile.open(fileobj=BytesIO(busybox_tar())) as tar:
            tar.extractall(rootfs)  # our own tar
        if cc := shutil.which("cc"):
            subprocess.run(
                [cc, "-O2", "-o", str(folder / "floor"), str(Path(__file__).with_name("floor.c"))], check=True
            )
            commands[FLOOR] = [str(folder / "floor"), str(rootfs), str(work), *_TRUE]
        for name in ("crun", "runc"):
            if program := shutil.which(name):
                _bundle(program, folder)
                commands[f"{name} run"] = [program, "run", "-b", str(folder)]
        if (ours := Path(sys.executable).with_name("scow-runtime")).exists() and (folder / "config.json").exists():
            commands[OURS] = [str(ours), "--root", str(folder / "scow-runtime"), "run", "-b", str(folder)]
        for name in {FLOOR, "crun run", "runc run"} - set(commands):
            print(f"not paired: {name}: {'no C compiler' if name == FLOOR else 'it'} is not installed", flush=True)
        self.names = list(commands)
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh"]
        words = [*enter, sys.executable, "-m", __name__, json.dumps(commands)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def seconds(self, name: str) -> float:
        """What one run took; RuntimeError where it failed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(name + "\n")
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{name} failed")
        return float(answer)

    def close(self) -> None:
        """The timing process is gone."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def _bundle(program: str, folder: Path) -> None:
    config = folder / "config.json"
    if config.exists():
        return
    subprocess.run([program, "spec"], cwd=folder, check=True)
    spec = json.loads(config.read_text())
    spec["process"].update(terminal=False, args=_TRUE, rlimits=[])  # raised limits need CAP_SYS_RESOURCE
    config.write_text(json.dumps(spec))


def _seconds(argv: list[str]) -> float:
    # posix_spawn: subprocess would add a millisecond of Python
    null = os.open(os.devnull, os.O_RDWR)
    try:
        files = [(os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1)]
        start = time.perf_counter()
        _, status = os.waitpid(os.posix_spawn(argv[0], argv, os.environ, file_actions=files), 0)
        took = time.perf_counter() - start
    finally:
        os.close(null)
    if status:
        raise RuntimeError(f"{' '.join(argv)}: wait status {status:#x}")
    return took


def main() -> None:
    commands: dict[str, list[str]] = json.loads(sys.argv[1])
    for line in sys.stdin:
        name = line.strip()
        unique = [] if name == FLOOR else [f"bench-{secrets.token_hex(4)}"]
        print(_seconds([*commands[name], *unique]), flush=True)


if __name__ == "__main__":
    main()
