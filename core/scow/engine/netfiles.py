"""What a container finds in /etc/hosts, /etc/resolv.conf and /etc/hostname, by Docker's rules. Pure functions: the
caller reads the host's files and writes the results.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

RESOLV_CONF = "/etc/resolv.conf"
SYSTEMD_RESOLV_CONF = "/run/systemd/resolve/resolv.conf"  # the real servers behind the stub on 127.0.0.53
_SYSTEMD_STUB = "127.0.0.53"
_FALLBACK = ("8.8.8.8", "8.8.4.4")
_DEFAULT_HOSTS = (
    ("127.0.0.1", "localhost"),
    ("::1", "localhost ip6-localhost ip6-loopback"),
    ("fe00::", "ip6-localnet"),
    ("ff00::", "ip6-mcastprefix"),
    ("ff02::1", "ip6-allnodes"),
    ("ff02::2", "ip6-allrouters"),
)


@dataclass(frozen=True, slots=True)
class Resolver:
    """A resolv.conf taken apart (resolv.conf(5)); the last ``search`` or ``domain`` line counts."""

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"nameserver {server}" for server in self.nameservers]
        if self.search:
            lines.append("search " + " ".join(self.search))
        if self.options:
            lines.append("options " + " ".join(self.options))
        return "".join(f"{line}\n" for line in lines)


def hostname_file(hostname: str) -> str:
    """The content of /etc/hostname."""
    return f"{hostname}\n"


def hosts_file(
    hostname: str,
    addresses: Sequence[str],
    *,
    domainname: str = "",
    aliases: Sequence[str] = (),
    extra_hosts: Iterable[str] = (),
    host_gateway: Sequence[str] = (),
) -> str:
    """The content of /etc/hosts of a container with *addresses* in its networks.

    *aliases* are further names for itself. *extra_hosts* are Docker's ``name:address`` entries, whose address may be
    ``host-gateway``: then there is a line for each address in *host_gateway*. Raises `InvalidArgument` for an entry
    that cannot be used.
    """
    lines = list(_DEFAULT_HOSTS)
    lines += parse_extra_hosts(extra_hosts, host_gateway)
    full_name = f"{hostname}.{domainname} {hostname}" if domainname else hostname
    names = " ".join(dict.fromkeys([*full_name.split(), *aliases]))
    lines += [(address, names) for address in addresses if address]
    return "".join(f"{address}\t{name}\n" for address, name in lines)


def host_hosts_file(host_text: str, extra_hosts: Iterable[str] = (), host_gateway: Sequence[str] = ()) -> str:
    """The content of /etc/hosts of a container in the host's network: the host's own, and *extra_hosts* below it."""
    if host_text and not host_text.endswith("\n"):
        host_text += "\n"
    return host_text + "".join(f"{ip}\t{name}\n" for ip, name in parse_extra_hosts(extra_hosts, host_gateway))


def parse_extra_hosts(entries: Iterable[str], host_gateway: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Address and name of each ``name:address`` or ``name=address`` entry, IPv6 with or without brackets."""
    found = []
    for entry in entries:
        at = min((place for place in (entry.find("="), entry.find(":")) if place > 0), default=0)
        name, address = entry[:at], entry[at + 1 :]
        if not name or not address or name.split() != [name]:
            raise InvalidArgument(f"bad format for add-host: {entry!r}", hint="write name:address")
        if address == "host-gateway":
            if not host_gateway:
                raise InvalidArgument(
                    f"unable to derive the IP value for host-gateway of {name}",
                    hint="the container has no network with a gateway; give an address instead",
                )
            found += [(gateway, name) for gateway in host_gateway]
            continue
        try:
            found.append((str(ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))), name))
        except ValueError as exc:
            raise InvalidArgument(f"invalid IP address in add-host: {address!r}") from exc
    return found


def parse_resolv_conf(text: str) -> Resolver:
    """*text* taken apart; lines that are none of ours (comments, ``sortlist``) are dropped."""
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        word, *values = line.split("#")[0].split(";")[0].split() or [""]
        if word == "nameserver" and values:
            servers.append(values[0])
        elif word in ("search", "domain"):
            search = values
        elif word == "options":
            options += values
    return Resolver(tuple(servers), tuple(search), tuple(options))


def wants_systemd_file(host_text: str) -> bool:
    """Whether the host's resolv.conf names only systemd-resolved's stub, so that `SYSTEMD_RESOLV_CONF` is to be read
    instead."""
    return parse_resolv_conf(host_text).nameservers == (_SYSTEMD_STUB,)


def check_resolver(dns: Sequence[str], search: Sequence[str], options: Sequence[str]) -> None:
    """Raises `InvalidArgument` for what would not be one line of a resolv.conf."""
    for address in dns:
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise InvalidArgument(f"bad DNS server: {address!r} is not an ip address") from error
    for word in (*search, *options):
        if word.split() != [word]:
            raise InvalidArgument(f"bad DNS search domain or option: {word!r}")


def resolv_conf(
    host_text: str,
    *,
    dns: Sequence[str] = (),
    search: Sequence[str] = (),
    options: Sequence[str] = (),
    ipv6: bool = False,
) -> str:
    """The content of /etc/resolv.conf of a container with a network namespace of its own.

    *host_text* is the host's file (see `wants_systemd_file`). *dns*, *search* and *options* replace what it says, each
    by itself; a search of ``.`` means none. The host's servers on loopback, which a container cannot reach, are left
    out, and those with an IPv6 address unless *ipv6*; Docker's public ones are used only where none is left.
    """
    host = parse_resolv_conf(host_text)
    servers = tuple(dns) or tuple(server for server in host.nameservers if _reachable(server, ipv6)) or _FALLBACK
    domains = tuple(search) or host.search
    return str(Resolver(servers, () if domains == (".",) else domains, tuple(options) or host.options))


def host_resolv_conf(
    host_text: str, *, dns: Sequence[str] = (), search: Sequence[str] = (), options: Sequence[str] = ()
) -> str:
    """The content of /etc/resolv.conf of a container in the host's network: the host's own file word by word, but for
    what *dns*, *search* and *options* replace."""
    if not (dns or search or options):
        return host_text
    host = parse_resolv_conf(host_text)
    domains = tuple(search) or host.search
    servers = tuple(dns) or host.nameservers
    return str(Resolver(servers, () if domains == (".",) else domains, tuple(options) or host.options))


def embedded_resolv_conf(
    address: str, host_text: str, *, search: Sequence[str] = (), options: Sequence[str] = ()
) -> str:
    """The content of /etc/resolv.conf of a container whose names are resolved by the engine's own server at *address*
    (it asks the servers of `upstream_servers`). ``ndots:0``: container names are tried as they are."""
    host = parse_resolv_conf(host_text)
    domains = tuple(search) or host.search
    chosen = tuple(options) or host.options
    if not any(option.startswith("ndots:") for option in chosen):
        chosen = (*chosen, "ndots:0")
    return str(Resolver((address,), () if domains == (".",) else domains, chosen))


def upstream_servers(host_text: str, dns: Sequence[str] = ()) -> tuple[str, ...]:
    """The servers that the engine itself asks for a container: *dns*, else the host's, loopback ones too (the engine is
    on the host), else Docker's public ones."""
    return tuple(dns) or parse_resolv_conf(host_text).nameservers or _FALLBACK


def _reachable(server: str, ipv6: bool) -> bool:
    try:
        address = ipaddress.ip_address(server.split("%")[0])
    except ValueError:
        return False
    return not address.is_loopback and (address.version == 4 or ipv6)
