"""Runs tests of this repository in a virtual machine: Debian, systemd as PID 1, nothing but cgroup version 2.

    python -m tests.vm.run [options] [-- PYTEST ARGUMENT ...]

The exit status is pytest's; 124 when the time is over, 125 when the machine ended without an answer. It needs root,
and Debian's package mirror at the first run; what is built then is kept in the work folder. Nothing of the
host is changed but that folder, and the packages that `TOOLS` names are installed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.vm import debian, machine  # noqa: E402

TOOLS = ("qemu-system-x86", "debootstrap", "e2fsprogs")
DEFAULT_TESTS = (
    "tests/vm/check_cgroup_v2.py",
    "tests/vm/check_systemd.py",
    "tests/integration",
    "tests/conformance",
    "--ignore=tests/integration/test_apt_images.py",  # the machine has no network
)
NOT_COPIED = (
    ".git",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
)  # compiled modules are: they spare the guest minutes
_TIMEOUT_S = {"kvm": 900.0, "tcg": 3600.0}
TIMED_OUT, NO_ANSWER = 124, 125


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    options = _parse(arguments)
    missing = _missing()
    if missing:
        print(f"cannot start a virtual machine: {missing}", file=sys.stderr)
        return NO_ANSWER
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    subprocess.run([str(REPOSITORY / ".ci" / "packages"), *TOOLS], check=True)
    begin = time.monotonic()
    system = debian.build(work / "system")
    with tempfile.TemporaryDirectory(dir=work, prefix="run-") as folder:
        job = _job(Path(folder), tuple(options.tests) or DEFAULT_TESTS)
        taken = time.monotonic() - begin
        print(f"the disks took {taken:.1f} s; booting Linux {system.release} ({options.accel})", flush=True)
        limits = (options.memory, options.timeout or _TIMEOUT_S[options.accel])
        outcome = machine.run(system, job, Path(folder), options.accel, *limits, verbose=options.verbose)
    if outcome.status is None:
        print(f"\nthe machine {'was ended: its time was over' if outcome.timed_out else 'ended without an answer'}")
        return TIMED_OUT if outcome.timed_out else NO_ANSWER
    print(f"\nexit status {outcome.status} after {outcome.seconds:.0f} s in the machine")
    return outcome.status


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("tests.vm.run", description="Runs tests in a virtual machine with cgroup v2.")
    default = Path(tempfile.gettempdir()) / "scow-vm"
    parser.add_argument("--work", type=Path, default=default, metavar="DIR", help=f"kept between runs ({default})")
    parser.add_argument("--timeout", type=float, metavar="S", help="of the machine (default: 900, with tcg 3600)")
    parser.add_argument("--memory", type=int, default=2048, metavar="MIB", help="of the machine (default: 2048)")
    parser.add_argument(
        "--accel", choices=tuple(_TIMEOUT_S), default=machine.accelerator_here(), help="default: what this host can do"
    )
    parser.add_argument("--verbose", action="store_true", help="show what kernel and systemd say, too")
    parser.add_argument("tests", nargs="*", metavar="PYTEST ARGUMENT", help="instead of the usual tests; after --")
    return parser.parse_args(arguments)


def _missing() -> str:
    """Why it cannot work here; empty if it can."""
    if os.geteuid() != 0:
        return "building its root needs root"
    if os.uname().machine != "x86_64":
        return "only x86-64 is supported"
    if not debian.host_suite():
        return "the host is not Debian, so its Python is not the guest's"
    if not (REPOSITORY / ".venv/bin/python").exists():
        return "run make setup first"
    return ""


def _job(folder: Path, tests: Sequence[str]) -> Path:
    """A disk image with a copy of the repository and its environment, and what to run."""
    tree = folder / "tree"
    tree.mkdir()
    words = [f"--exclude={name}" for name in NOT_COPIED]
    pack = subprocess.Popen(["tar", "-C", str(REPOSITORY), *words, "-cf", "-", "."], stdout=subprocess.PIPE)
    (tree / "repository").mkdir()
    subprocess.run(["tar", "-C", str(tree / "repository"), "-xf", "-"], stdin=pack.stdout, check=True)
    if pack.wait():
        raise SystemExit(f"cannot copy {REPOSITORY}")
    shutil.copy(debian.GUEST / "run", tree)
    (tree / "path").write_text(str(REPOSITORY))
    (tree / "arguments").write_text("".join(f"{test}\n" for test in tests))
    return debian.disk(tree, folder / "job.img", 2048)


if __name__ == "__main__":
    raise SystemExit(main())
