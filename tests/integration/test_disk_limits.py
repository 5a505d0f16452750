"""Limits of disks, as users of the docker CLI and of ``scow`` set them at create and change them live."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scow.engine import host_limits
from tests.daemon import DOCKER, Daemon

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI"),
    pytest.mark.skipif(host_limits.of_host().unified, reason="reads version 1's control files"),
    pytest.mark.skipif(not host_limits.of_host().io_rates, reason="this host cannot limit disks"),
]
MB = 1 << 20
BOX = "limited"
RATES = {  # flag: the field of inspect, the control file
    "device-read-bps": ("BlkioDeviceReadBps", "blkio.throttle.read_bps_device"),
    "device-write-bps": ("BlkioDeviceWriteBps", "blkio.throttle.write_bps_device"),
    "device-read-iops": ("BlkioDeviceReadIOps", "blkio.throttle.read_iops_device"),
    "device-write-iops": ("BlkioDeviceWriteIOps", "blkio.throttle.write_iops_device"),
}
Client = Callable[..., str]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A loop device of 64 MB."""
    image = tmp_path_factory.mktemp("disk") / "image"
    with image.open("wb") as file:
        file.truncate(64 * MB)
    made = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    device = made.stdout.strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture(params=["docker", "scow"])
def client(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A command line; the container `BOX` that the test may make goes afterwards."""
    yield daemon.out if request.param == "docker" else lambda *words: scow(daemon, *words)
    daemon.docker("rm", "-f", BOX, check=False)


@pytest.fixture
def box(daemon: Daemon) -> Iterator[str]:
    """The name of a container that the test may make."""
    yield BOX
    daemon.docker("rm", "-f", BOX, check=False)


def scow(daemon: Daemon, *words: str) -> str:
    command = [sys.executable, "-m", "scow.cli.main", "-H", f"unix://{daemon.socket}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def run(client: Client, disk: str, *flags: str) -> None:
    client("run", "-d", "--name", BOX, "--network", "none", "--device", disk, *flags, "busybox", "sleep", "600")


def host_config(daemon: Daemon) -> dict[str, Any]:
    return dict(json.loads(daemon.out("inspect", BOX))[0]["HostConfig"])


def dd(daemon: Daemon, words: str, size: str = "bs=256k count=8") -> float:
    """Seconds that a direct copy took in the running container."""
    begun = time.monotonic()
    daemon.out("exec", BOX, "sh", "-c", f"dd {words} {size} 2>&1")
    return time.monotonic() - begun


def told(daemon: Daemon, file: str) -> str:
    """What the container's own blkio group says."""
    return daemon.out("exec", BOX, "cat", f"/sys/fs/cgroup/blkio/{file}")


def weight_file(daemon: Daemon) -> str:
    """The control file of the container's weight; skips where no scheduler of the kernel has weights."""
    files = daemon.out("exec", BOX, "ls", "/sys/fs/cgroup/blkio").split()
    found = [file for file in ("blkio.bfq.weight", "blkio.weight") if file in files]
    if not found:
        pytest.skip("this kernel has neither bfq nor cfq")
    return found[0]


def test_every_rate_of_create_is_the_kernels(daemon: Daemon, disk: str, client: Client) -> None:
    run(client, disk, *(f"--{flag}={disk}:{number}" for number, flag in enumerate(RATES, 4096)))
    host = host_config(daemon)
    for number, (field, file) in enumerate(RATES.values(), 4096):
        assert host[field] == [{"Path": disk, "Rate": number}]
        assert told(daemon, file).split()[1:] == [str(number)]


@pytest.mark.parametrize("flag", RATES)
def test_every_rate_is_changed_and_taken_away_on_a_live_container(
    daemon: Daemon, disk: str, box: str, flag: str
) -> None:
    field, file = RATES[flag]
    run(daemon.out, disk)
    assert told(daemon, file) == ""
    for rate in (5000, 7000):
        assert scow(daemon, "update", f"--{flag}", f"{disk}:{rate}", box) == box
        assert host_config(daemon)[field] == [{"Path": disk, "Rate": rate}]
        assert told(daemon, file).split()[1:] == [str(rate)]
    scow(daemon, "update", f"--{flag}", f"{disk}:0", box)
    assert host_config(daemon)[field] == [] and told(daemon, file) == ""


def test_weights_are_had_at_create_and_changed_live_by_either_client(daemon: Daemon, disk: str, client: Client) -> None:
    run(client, disk, "--blkio-weight", "300")
    file = weight_file(daemon)
    assert (host_config(daemon)["BlkioWeight"], told(daemon, file)) == (300, "300")
    client("update", "--blkio-weight", "700", BOX)
    assert (host_config(daemon)["BlkioWeight"], told(daemon, file)) == (700, "700")


def test_a_disks_weight_is_had_at_create_and_changed_live(daemon: Daemon, disk: str, client: Client) -> None:
    scheduler = Path(f"/sys/block/{Path(disk).name}/queue/scheduler")
    before = scheduler.read_text()
    if "bfq" not in before:
        pytest.skip("this kernel has no bfq, and other schedulers know no weights of disks")
    scheduler.write_text("bfq")
    try:
        run(client, disk, "--blkio-weight-device", f"{disk}:200")
        file = weight_file(daemon) + "_device"
        assert host_config(daemon)["BlkioWeightDevice"] == [{"Path": disk, "Weight": 200}]
        assert told(daemon, file).split()[-1] == "200"
        scow(daemon, "update", "--blkio-weight-device", f"{disk}:400", BOX)
        assert host_config(daemon)["BlkioWeightDevice"] == [{"Path": disk, "Weight": 400}]
        assert told(daemon, file).split()[-1] == "400"
    finally:
        scheduler.write_text(before.partition("[")[2].partition("]")[0])


def test_bytes_per_second_hold_and_change_live(daemon: Daemon, disk: str, box: str) -> None:
    run(daemon.out, disk, "--device-write-bps", f"{disk}:1mb", "--device-read-bps", f"{disk}:1mb")
    write, read = f"if=/dev/zero of={disk} oflag=direct", f"if={disk} of=/dev/null iflag=direct"
    assert dd(daemon, write) > 1.5 and dd(daemon, read) > 1.5  # 2 MB at 1 MB a second
    scow(daemon, "update", "--device-write-bps", f"{disk}:0", "--device-read-bps", f"{disk}:64mb", box)
    assert dd(daemon, write) < 1.5 and dd(daemon, read) < 1.5


def test_operations_per_second_hold_and_change_live(daemon: Daemon, disk: str, box: str) -> None:
    run(daemon.out, disk, "--device-write-iops", f"{disk}:50", "--device-read-iops", f"{disk}:50")
    write, read = f"if=/dev/zero of={disk} oflag=direct", f"if={disk} of=/dev/null iflag=direct"
    size = "bs=4k count=100"
    assert dd(daemon, write, size) > 1.5 and dd(daemon, read, size) > 1.5  # 100 at 50 a second
    scow(daemon, "update", "--device-write-iops", f"{disk}:0", "--device-read-iops", f"{disk}:5000", box)
    assert dd(daemon, write, size) < 1.5 and dd(daemon, read, size) < 1.5


def test_rates_over_the_api_are_changed_disk_by_disk(daemon: Daemon, disk: str, box: str) -> None:
    run(daemon.out, disk, "--device-write-bps", f"{disk}:1mb", "--device-read-bps", f"{disk}:1mb")
    body = {
        "BlkioDeviceWriteBps": [{"Path": disk, "Rate": 0}],
        "BlkioDeviceReadBps": [{"Path": disk, "Rate": 64 * MB}],
    }
    assert daemon.api("POST", f"/containers/{box}/update", body)[0] == 200
    host = host_config(daemon)
    assert host["BlkioDeviceWriteBps"] == [] and host["BlkioDeviceReadBps"] == [{"Path": disk, "Rate": 64 * MB}]
    assert told(daemon, "blkio.throttle.write_bps_device") == ""
    assert told(daemon, "blkio.throttle.read_bps_device").endswith(f" {64 * MB}")


def test_a_disk_that_is_not_there_is_named(daemon: Daemon) -> None:
    done = daemon.docker("run", "--rm", "--device-read-bps", "/dev/none:1mb", "busybox", "true", check=False)
    assert "cannot find device /dev/none: no such file or directory" in done.stderr
    assert done.returncode == 127 and daemon.out("ps", "-aq") == ""  # docker's CLI goes by the words
