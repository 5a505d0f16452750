"""``-p`` and ``--expose``: ``[[IP:]HOST:]CONTAINER[/PROTO]`` with ranges (go-connections ``nat``)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from scow.errors import InvalidArgument

PROTOCOLS = ("tcp", "udp", "sctp")


class Published(NamedTuple):
    """One port of the container, ``80/tcp``, and where it is reached; an empty *host_port* is any."""

    port: str
    host_ip: str
    host_port: str


def publish(text: str) -> list[Published]:
    """The ports that one ``-p`` asks for; raises `InvalidArgument`."""
    if "=" in text:
        text = _standard_notation(text)
    *outer, inner = text.split(":")
    host_ports = outer.pop() if outer else ""
    host_ip = _address(":".join(outer), text)
    container, protocol = _protocol(inner, text)
    if not container:
        raise InvalidArgument(f"no port specified: {text!r}")
    start, end = _range(container, text)
    if not host_ports:
        return [Published(f"{port}/{protocol}", host_ip, "") for port in range(start, end + 1)]
    host_start, host_end = _range(host_ports, text)
    if start == end and host_start != host_end:  # any port of that range
        return [Published(f"{start}/{protocol}", host_ip, f"{host_start}-{host_end}")]
    if end - start != host_end - host_start:
        raise InvalidArgument(f"invalid port ranges in {text!r}: {container} and {host_ports} differ in length")
    return [Published(f"{start + i}/{protocol}", host_ip, str(host_start + i)) for i in range(end - start + 1)]


def expose(text: str) -> list[str]:
    """The ports of one ``--expose``: ``7-9/udp``."""
    if ":" in text:
        raise InvalidArgument(f"invalid port format for --expose: {text!r}")
    ports, protocol = _protocol(text, text)
    start, end = _range(ports, text)
    return [f"{port}/{protocol}" for port in range(start, end + 1)]


def bindings(published: Iterable[Published]) -> dict[str, list[dict[str, str]]]:
    """The API's PortBindings."""
    result: dict[str, list[dict[str, str]]] = {}
    for port, host_ip, host_port in published:
        result.setdefault(port, []).append({"HostIp": host_ip, "HostPort": host_port})
    return result


def _standard_notation(text: str) -> str:
    """``target=80,published=8080,protocol=udp`` as ``8080:80/udp``."""
    fields = dict(field.partition("=")[::2] for field in text.split(","))
    unknown = fields.keys() - {"target", "published", "protocol", "mode"}
    if unknown or not fields.get("target"):
        raise InvalidArgument(f"invalid publish {text!r}", hint="use target=PORT[,published=PORT][,protocol=tcp|udp]")
    return f"{fields.get('published', '')}:{fields['target']}/{fields.get('protocol') or 'tcp'}"


def _address(text: str, whole: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if bare:
        import ipaddress

        try:
            ipaddress.ip_address(bare)
        except ValueError as error:
            raise InvalidArgument(f"invalid IP address in port {whole!r}: {text!r}") from error
    return bare


def _protocol(text: str, whole: str) -> tuple[str, str]:
    ports, _, protocol = text.partition("/")
    protocol = (protocol or "tcp").lower()
    if protocol not in PROTOCOLS:
        raise InvalidArgument(f"invalid protocol in port {whole!r}: {protocol!r}", hint="use tcp, udp or sctp")
    return ports, protocol


def _range(text: str, whole: str) -> tuple[int, int]:
    start, dash, end = text.partition("-")
    ends = (start, end) if dash else (start, start)
    if not all(part.isdecimal() and int(part) <= 65535 for part in ends) or int(ends[0]) > int(ends[1]):
        raise InvalidArgument(f"invalid port {text!r} in {whole!r}", hint="ports are 0 to 65535, ranges START-END")
    return int(ends[0]), int(ends[1])
