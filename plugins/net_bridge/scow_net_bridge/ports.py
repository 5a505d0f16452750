"""Published ports are held by sockets that are bound and never listen: nobody else can take the port.

A packet for a published port is redirected by the firewall before a socket is looked up, so the socket sees none. For
tcp it is bound without SO_REUSEADDR, for udp with the smallest buffer. It lives as long as this process; the
redirection goes on without it, and `adopt` takes it again after a restart.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from scow.errors import Conflict, InvalidArgument, SyscallError, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from scow.ports.network import PortBinding

ANY = "0.0.0.0"
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class Place(NamedTuple):
    """Where on the host a port is published."""

    protocol: str
    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class _Held:
    owner: str
    socket: socket.socket | None


class PortReservations:
    """The host ports that this driver's containers have published. Safe for several threads."""

    def __init__(self) -> None:
        self._held: dict[Place, _Held] = {}
        self._lock = threading.Lock()

    def reserve(self, bindings: Sequence[PortBinding], owner: str) -> tuple[PortBinding, ...]:
        """*bindings* with their real host address and port, all held for *owner*; or none, after an exception.

        Raises `Conflict` for a port in use, in Docker's words and with the holder where it is known,
        `InvalidArgument` for an address that the host does not have, `Unsupported` for an IPv6 address.
        """
        taken: list[PortBinding] = []
        with ExitStack() as undo:
            for binding in bindings:
                bound = self._reserve(binding, owner)
                undo.callback(self.release, [bound])
                taken.append(bound)
            undo.pop_all()
        return tuple(taken)

    def adopt(self, binding: PortBinding, owner: str) -> str:
        """*binding* counts as *owner*'s; answers why its socket could not be bound again, or ``""``."""
        place = place_of(binding)
        with self._lock:
            before = self._held.get(place)
            if before is not None and before.socket is not None:
                return ""
            problem = ""
            held: socket.socket | None = None
            try:
                held = _bind(place)
            except OSError as exc:
                problem = (exc.strerror or str(exc)).lower()
            self._held[place] = _Held(owner, held)
            return problem

    def release(self, bindings: Iterable[PortBinding]) -> None:
        """The ports can be taken by others. No error where they were not held."""
        with self._lock:
            for binding in bindings:
                held = self._held.pop(place_of(binding), None)
                if held is not None and held.socket is not None:
                    held.socket.close()

    def close(self) -> None:
        """Every socket is closed; the ports are still published in the kernel."""
        with self._lock:
            for held in self._held.values():
                if held.socket is not None:
                    held.socket.close()
            self._held.clear()

    def _reserve(self, binding: PortBinding, owner: str) -> PortBinding:
        place = place_of(binding)
        with self._lock:
            if place.port:
                self._refuse_own(place)
            try:
                held = _bind(place)
            except OSError as exc:
                raise _explain(exc, place) from exc
            if not place.port:
                place = place._replace(port=held.getsockname()[1] if held else self._free_number(place))
            self._held[place] = _Held(owner, held)
        return replace(binding, host_ip=place.address, host_port=place.port)

    def _refuse_own(self, place: Place) -> None:
        for other, held in self._held.items():
            same = other.protocol == place.protocol and other.port == place.port
            if same and (other.address == place.address or ANY in (other.address, place.address)):
                raise _taken(place, f"by container {held.owner}")

    def _free_number(self, place: Place) -> int:
        """A port for a protocol that has no socket to ask the kernel with (sctp)."""
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            first, last = map(int, file.read().split())
        used = {other.port for other in self._held if other.protocol == place.protocol}
        for port in range(first, last + 1):
            if port not in used:
                return port
        raise Conflict(f"no free {place.protocol} port between {first} and {last}")


def place_of(binding: PortBinding) -> Place:
    """Where *binding* is published; raises `Unsupported` for IPv6 (the packets of ``::`` would need a relay)."""
    if ":" in binding.host_ip:
        raise Unsupported(
            f"port {binding.container_port}/{binding.protocol} cannot be published on ipv6 address {binding.host_ip}",
            hint="the bridge driver publishes on ipv4 addresses; leave the host address out",
        )
    return Place(binding.protocol, binding.host_ip or ANY, binding.host_port)


def _bind(place: Place) -> socket.socket | None:
    kind = _KINDS.get(place.protocol)
    if kind is None:
        return None
    held = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC)
    try:
        if kind == socket.SOCK_DGRAM:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        held.bind((place.address, place.port))
    except BaseException:
        held.close()
        raise
    return held


def _taken(place: Place, by: str) -> Conflict:
    return Conflict(
        f"Bind for {place} failed: port is already allocated" + (f" ({by})" if by else ""),
        hint="stop what uses the port, or publish another one",
    )


def _explain(exc: OSError, place: Place) -> Exception:
    if exc.errno == errno.EADDRINUSE:
        return _taken(place, find_process(place))
    if exc.errno == errno.EADDRNOTAVAIL:
        return InvalidArgument(f"cannot publish on {place}: no interface of this host has that address")
    return SyscallError(exc.errno or 0, "bind", str(place))


def find_process(place: Place) -> str:
    """Who holds *place* as far as /proc tells (``by process nginx, pid 12``), or ``""`` (proc_pid_net(5))."""
    inodes = {f"socket:[{inode}]" for inode in _inodes(place)}
    if not inodes:
        return ""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") in inodes:
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                        return f"by process {file.read().strip()}, pid {pid}"
        except OSError:
            continue  # it ended, or is not ours to see
    return ""


def _inodes(place: Place) -> list[str]:
    found = []
    for name in (place.protocol, f"{place.protocol}6"):
        try:
            with open(f"/proc/thread-self/net/{name}", encoding="ascii") as file:
                rows = file.read().splitlines()[1:]
        except OSError:
            continue  # no such protocol here
        for row in rows:
            columns = row.split()
            address, port = columns[1].split(":")
            if int(port, 16) == place.port and (place.address == ANY or _covers(address, place.address)):
                found.append(columns[9])
    return found


def _covers(table_address: str, wanted: str) -> bool:
    """Whether a socket bound to *table_address* (hexadecimal words in host order) stands in the way of *wanted*."""
    word = int.from_bytes(socket.inet_aton(wanted), "little")
    return set(table_address) == {"0"} or table_address[-8:] == f"{word:08X}"
