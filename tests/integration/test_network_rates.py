"""``--net-rate`` on an engine of its own: what containers get through, changed while they run, and nothing left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from scow.linux import syscalls
from scow.testing.namespaces import transfer
from tests.daemon import DOCKER, Daemon

pytestmark = [pytest.mark.root, pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI")]

MBIT = 10**6
PORT = 5001


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()
    wait_for_devices(daemon, 0)


def scow(daemon: Daemon, *words: str, check: bool = True) -> str:
    """What ``scow`` prints; with its errors where it may fail."""
    command = [sys.executable, "-m", "scow.cli.main", "-H", f"unix://{daemon.socket}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip() if check else done.stdout + done.stderr


def run(daemon: Daemon, name: str, *flags: str) -> str:
    """A container that sleeps; answers its address."""
    daemon.out("run", "-d", "--name", name, *flags, "busybox", "sleep", "600")
    return address_of(daemon, name)


def address_of(daemon: Daemon, name: str) -> str:
    return daemon.out("inspect", "-f", "{{.NetworkSettings.IPAddress}}", name)


def devices(daemon: Daemon) -> list[str]:
    """The devices that hold rates of this engine."""
    mark = f"{daemon.config['engine_name']}/"
    found = []
    for name in os.listdir("/sys/class/net"):
        with open(f"/sys/class/net/{name}/ifalias") as file:
            if name.startswith("ifb") and file.read().startswith(mark):
                found.append(name)
    return found


def wait_for_devices(daemon: Daemon, number: int) -> None:
    """That of an ended run goes in the background."""
    deadline = time.monotonic() + 10
    while len(devices(daemon)) != number and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(devices(daemon)) == number


def within(daemon: Daemon, name: str, function: Callable[[], socket.socket]) -> socket.socket:
    """The socket that *function* opens inside the container's network."""
    opened: list[socket.socket] = []

    def enter() -> None:
        namespace = os.open(f"/proc/{daemon.out('inspect', '-f', '{{.State.Pid}}', name)}/ns/net", os.O_RDONLY)
        syscalls.setns(namespace, syscalls.CLONE_NEWNET)
        os.close(namespace)
        opened.append(function())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return opened[0]


def listener() -> socket.socket:
    return socket.create_server(("", PORT))


def between(daemon: Daemon, sender: str, receiver: str, address: str) -> float:
    """What one container sends to the other, at its *address*, in bits per second."""
    server = within(daemon, receiver, listener)
    return transfer(server, within(daemon, sender, lambda: socket.create_connection((address, PORT), 20)))


def assert_near(measured: float, wanted: float) -> None:
    """Payload is 4 % less than what tc counts; a busy machine may be slower, but nothing makes it faster."""
    assert 0.6 * wanted < measured < 1.1 * wanted, f"{measured / MBIT:.2f} of {wanted / MBIT} mbit"


def test_both_directions_are_held_and_changed_while_it_runs(daemon: Daemon) -> None:
    scow(daemon, "run", "-d", "--name", "limited", "--net-rate", "in=20mbit,out=4mbit", "busybox", "sleep", "600")
    address = address_of(daemon, "limited")
    other = run(daemon, "free")
    try:
        assert len(devices(daemon)) == 1
        assert_near(between(daemon, "free", "limited", address), 20 * MBIT)
        assert_near(between(daemon, "limited", "free", other), 4 * MBIT)
        scow(daemon, "update", "--net-rate", "out=40mbit", "limited")
        assert_near(between(daemon, "limited", "free", other), 40 * MBIT)
        assert_near(between(daemon, "free", "limited", address), 20 * MBIT)
        scow(daemon, "update", "--net-rate", "off", "limited")
        assert devices(daemon) == []
        assert between(daemon, "limited", "free", other) > 100 * MBIT
        assert between(daemon, "free", "limited", address) > 100 * MBIT
    finally:
        daemon.out("rm", "-f", "limited", "free")


@pytest.mark.parametrize("userns", ["host", "auto"])
def test_a_published_port_is_held_too(daemon: Daemon, userns: str) -> None:
    options = ("--label", "scow.net-rate=in=20mbit", "--label", f"scow.userns={userns}")
    run(daemon, "web", "-p", f"127.0.0.1:0:{PORT}", *options)
    try:
        host, port = daemon.out("port", "web", str(PORT)).rsplit(":", 1)
        server = within(daemon, "web", listener)
        assert_near(transfer(server, socket.create_connection((host, int(port)), 20)), 20 * MBIT)
    finally:
        daemon.out("rm", "-f", "web")


def test_the_rate_survives_restarts_of_container_and_daemon(daemon: Daemon) -> None:
    run(daemon, "again", "--annotation", "scow.net-rate=in=20mbit")
    free = run(daemon, "other")
    try:
        scow(daemon, "update", "--net-rate", "out=8mbit", "again")
        daemon.out("restart", "-t", "0", "again")
        wait_for_devices(daemon, 1)
        daemon.stop(signal.SIGKILL)
        daemon.start()
        assert daemon.api("GET", "/scow/v1/repairs") == (200, [])
        shown = daemon.out("inspect", "-f", '{{index .HostConfig.Annotations "scow.net-rate"}}', "again")
        assert shown == "in=20mbit,out=8mbit"
        assert_near(between(daemon, "again", "other", free), 8 * MBIT)
        assert len(devices(daemon)) == 1
    finally:
        daemon.out("rm", "-f", "again", "other")


def test_a_container_that_ends_while_the_daemon_is_away_leaves_no_device(daemon: Daemon) -> None:
    run(daemon, "short", "--annotation", "scow.net-rate=out=20mbit")
    pid = int(daemon.out("inspect", "-f", "{{.State.Pid}}", "short"))
    daemon.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    daemon.start()
    wait_for_devices(daemon, 0)
    daemon.out("rm", "-f", "short")


def test_root_in_a_container_cannot_lift_its_rate(daemon: Daemon) -> None:
    run(daemon, "admin", "--cap-add", "NET_ADMIN", "--annotation", "scow.net-rate=out=4mbit")
    free = run(daemon, "other")
    try:
        pid = daemon.out("inspect", "-f", "{{.State.Pid}}", "admin")
        inside = subprocess.run(["nsenter", "-t", pid, "-n", "ip", "link"], capture_output=True, text=True, check=True)
        assert not any(name in inside.stdout for name in devices(daemon))
        subprocess.run(["nsenter", "-t", pid, "-n", "tc", "qdisc", "del", "dev", "eth0", "root"], capture_output=True)
        assert_near(between(daemon, "admin", "other", free), 4 * MBIT)
    finally:
        daemon.out("rm", "-f", "admin", "other")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--network", "host"], "have the host's own interfaces"),
        (["--network", "none"], "cannot limit rates"),
        (["--network", "container:owner"], "in the network of another has no net-rate"),
    ],
)
def test_networks_that_cannot_hold_a_rate_refuse_it(daemon: Daemon, flags: list[str], message: str) -> None:
    said = scow(daemon, "create", *flags, "--net-rate", "in=1mbit", "busybox", "true", check=False)
    assert message in said
    daemon.out("create", "--name", "plain", *flags, "busybox", "true")
    try:
        assert message in scow(daemon, "update", "--net-rate", "in=1mbit", "plain", check=False)
    finally:
        daemon.out("rm", "plain")


def test_mistakes_are_told_and_nothing_is_made(daemon: Daemon) -> None:
    for option, message in (
        ("scow.net-rate=fast", "annotation scow.net-rate: 'fast' is no pair of network rates"),
        ("scow.speed=1", "unknown option 'scow.speed'"),
    ):
        assert message in daemon.docker("create", "--annotation", option, "busybox", check=False).stderr
    assert "scow.net-rate" in daemon.docker("create", "--label", "scow.speed=1", "busybox", check=False).stderr
    assert daemon.out("ps", "-aq") == ""


def test_the_config_gives_a_default_and_denies_requests(
    daemon: Daemon, tmp_path_factory: pytest.TempPathFactory
) -> None:
    options = {"container_options": {"net-rate": "in=20mbit,out=4mbit"}, "request_options": {"net-rate": "deny"}}
    strict = Daemon(tmp_path_factory.mktemp("strict"), **options).start()
    try:
        strict.import_busybox()
        run(strict, "one")
        free = run(strict, "two")
        assert_near(between(strict, "one", "two", free), 4 * MBIT)
        run(strict, "three", "--network", "host")
        status, body = strict.api(
            "POST", "/containers/create", {"Image": "busybox", "Labels": {"scow.net-rate": "off"}}
        )
        assert (status, "denied by the configuration" in body["message"]) == (403, True)
        status, _ = strict.api("POST", "/scow/v1/containers/one/net-rate", {"Rate": "off"})
        assert status == 403
    finally:
        strict.cleanup()
