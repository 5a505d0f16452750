"""Network namespaces for tests: made by threads, gone when closed, with nothing left on the host."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from scow.linux import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
_PORT, _PATIENCE_S = 5001, 20.0
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


class Namespace:
    """A network namespace of its own with its loopback interface up, as a container's is when it is attached.

    It lives until `close` (and as long as sockets opened in it). Sockets keep their namespace, so what `run` opens can
    be used from any thread afterwards.
    """

    def __init__(self) -> None:
        def enter() -> int:
            syscalls.unshare(syscalls.CLONE_NEWNET)
            set_up("lo")
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        with ThreadPoolExecutor(1) as one:
            self.fd = one.submit(enter).result()

    @property
    def path(self) -> str:
        """Where drivers find it."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def run(self, function: Callable[[], T]) -> T:
        """What *function* answers, called in a thread inside the namespace; what it raises is raised here."""

        def enter() -> T:
            syscalls.setns(self.fd, syscalls.CLONE_NEWNET)
            return function()

        with ThreadPoolExecutor(1) as one:  # its thread ends with it: none is left in the namespace
            return one.submit(enter).result()

    def close(self) -> None:
        """The namespace goes as soon as nothing else holds it; twice is no error."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


@contextmanager
def inside(namespace: Namespace) -> Iterator[None]:
    """The calling thread is in *namespace* meanwhile, and the threads that it starts are too."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(namespace.fd, syscalls.CLONE_NEWNET)
        try:
            yield
        finally:
            syscalls.setns(before, syscalls.CLONE_NEWNET)
    finally:
        os.close(before)


def set_up(interface: str) -> None:
    """The interface is up (netdevice(7))."""
    name = interface.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = bytearray(struct.pack("16sh14x", name, 0))
        fcntl.ioctl(control, _SIOCGIFFLAGS, request)
        flags = struct.unpack_from("h", request, 16)[0]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", name, flags | _IFF_UP))


class EchoServer:
    """Answers tcp connections with *name* and the client's address, and udp packets likewise, until closed.

    Made inside a namespace (`Namespace.run`); listens on *port* of every address there.
    """

    def __init__(self, name: str, port: int, protocol: str = "tcp") -> None:
        self._name = name
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        self._socket = socket.socket(socket.AF_INET, kind)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("", port))
        self._end = socket.socketpair()
        if protocol == "tcp":
            self._socket.listen(32)
        self._thread = threading.Thread(target=self._tcp if protocol == "tcp" else self._udp)
        self._thread.start()

    def close(self) -> None:
        """The port is free and the thread has ended."""
        self._end[0].close()
        self._thread.join()
        self._end[1].close()
        self._socket.close()

    def _ready(self) -> bool:
        ready, _, _ = select.select([self._socket, self._end[1]], [], [])
        return self._end[1] not in ready

    def _tcp(self) -> None:
        while self._ready():
            connection, client = self._socket.accept()
            with connection:
                connection.sendall(f"{self._name} {client[0]}".encode())

    def _udp(self) -> None:
        while self._ready():
            _, client = self._socket.recvfrom(2048)
            self._socket.sendto(f"{self._name} {client[0]}".encode(), client)


def ask(address: str, port: int, protocol: str = "tcp", timeout_s: float = 0.5) -> str:
    """What an `EchoServer` there answers (its name and the address that it saw), or ``""`` where nothing comes."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as client:
        client.settimeout(timeout_s)
        try:
            client.connect((address, port))
            if protocol == "udp":
                client.send(b"?")
            return client.recv(2048).decode()
        except OSError:
            return ""


def throughput(sender: Namespace, receiver: Namespace, address: str) -> float:
    """Bits per second of payload that *sender* gets through to *address*, which is *receiver*'s."""
    server = receiver.run(lambda: socket.create_server(("", _PORT)))
    return transfer(server, sender.run(lambda: socket.create_connection((address, _PORT), _PATIENCE_S)))


def transfer(server: socket.socket, client: socket.socket, seconds: float = 1.0) -> float:
    """Bits per second of payload that *client*, which connects to the listening *server*, sends for *seconds*; both are
    closed. Counted as it arrives, from the first arrival on."""
    arrived: list[tuple[float, int]] = []
    server.settimeout(_PATIENCE_S)

    def receive() -> None:
        connection, _ = server.accept()
        with connection:
            while data := connection.recv(1 << 16):
                arrived.append((time.monotonic(), len(data)))

    with server, client:
        receiving = threading.Thread(target=receive)
        receiving.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            client.send(bytes(4096))
        client.shutdown(socket.SHUT_WR)
        receiving.join()
    return sum(length for _, length in arrived[1:]) * 8 / (arrived[-1][0] - arrived[0][0])
