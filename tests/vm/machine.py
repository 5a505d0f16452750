"""The virtual machine: QEMU with KVM, two disks whose changes are thrown away, and two serial ports.

The first port is the console and where the tests print; on the second the guest writes the exit status of the tests.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.vm.debian import System

_KERNEL_WORDS = (
    "console=ttyS0 root=/dev/vda rw panic=-1 net.ifnames=0 "
    "systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all systemd.default_timeout_start_sec=60"
)
_QUIET = "quiet loglevel=3 systemd.show_status=false"
# Where this host is a virtual machine itself its KVM may not let the register of arch-capabilities be set.
_ACCELERATORS = {
    "kvm": ("-accel", "kvm", "-cpu", "host,arch-capabilities=off"),
    "tcg": ("-accel", "tcg,thread=multi", "-cpu", "max,la57=off"),
}
_STUCK = b"KVM internal error"  # QEMU says so, stops the machine and waits
_CPUS = 2
_END_S = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """*status* is that of the tests, None where the guest told none."""

    status: int | None
    seconds: float
    timed_out: bool


def accelerator_here() -> str:
    """``kvm`` where the processor virtualizes, else ``tcg``: QEMU translates, which is slow.

    A /dev/kvm alone says too little: one that is backed by neither of these modules is for kernels made for it.
    """
    hardware = any(os.path.isdir(f"/sys/module/{name}") for name in ("kvm_intel", "kvm_amd"))
    return "kvm" if hardware and os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg"


def run(
    system: System, job: Path, folder: Path, accelerator: str, memory: int, timeout_s: float, *, verbose: bool
) -> Outcome:
    """The machine has booted, run *job*, and is gone, whatever happened; its console was printed."""
    answer = folder / "status"
    words = _KERNEL_WORDS if verbose else f"{_KERNEL_WORDS} {_QUIET}"
    command = [
        "qemu-system-x86_64", *_ACCELERATORS[accelerator], "-machine", "q35", "-smp", str(_CPUS),
        "-m", str(memory), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none",
        "-kernel", str(system.kernel), "-initrd", str(system.initramfs), "-append", words,
        "-serial", "stdio", "-serial", f"file:{answer}",
        *_drive(system.root), *_drive(job),
    ]  # fmt: skip
    begin = time.monotonic()
    environment = {**os.environ, "TMPDIR": str(folder)}  # where QEMU keeps what the guest changes on its disks
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    try:
        timed_out = not _copy(process, begin + timeout_s)
    finally:
        _end(process)
    text = answer.read_text().strip() if answer.exists() else ""
    return Outcome(int(text) if text.isdigit() else None, time.monotonic() - begin, timed_out)


def _drive(image: Path) -> tuple[str, str]:
    return "-drive", f"file={image},if=virtio,format=raw,snapshot=on,cache=unsafe"


def _copy(process: subprocess.Popen[bytes], deadline: float) -> bool:
    """What the guest and QEMU print is printed until they end, or KVM gives up; False when the time is over first."""
    assert process.stdout is not None
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        if select.select([process.stdout], [], [], left)[0]:
            data = os.read(process.stdout.fileno(), 65536)
            if not data:
                return True
            sys.stdout.buffer.write(data.replace(b"\r\n", b"\n"))
            sys.stdout.buffer.flush()
            if _STUCK in data:
                return True


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    try:
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    process.stdout.close()
