"""What is written into a container's folder for its network: hosts, resolv.conf and hostname."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scow.engine import netfiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scow.engine.model import Container, EndpointRecord

FILES = ("hostname", "hosts", "resolv.conf")


def write_files(directory: Path, record: Container, joined: Mapping[str, EndpointRecord]) -> None:
    """The files in *directory* fit the networks *joined*. They are written in place: the container has them mounted."""
    mode = record.host_config.network_mode
    if mode == "host":
        content = _of_host(record)
    elif mode.startswith("container:"):
        return  # the other container's own files are mounted
    else:
        content = _of_sandbox(record, joined)
    for name, text in content.items():
        with open(directory / name, "w") as file:
            file.write(text)


def _of_sandbox(record: Container, joined: Mapping[str, EndpointRecord]) -> dict[str, str]:
    host, config = record.host_config, record.config
    attachments = [endpoint.attachment for endpoint in joined.values() if endpoint.attachment]
    gateways = [attachment.gateway for attachment in attachments if attachment.gateway]
    aliases = [alias for e in joined.values() if e.config for alias in e.config.aliases]
    return {
        "hosts": netfiles.hosts_file(
            config.hostname,
            [attachment.ip_address for attachment in attachments],
            domainname=config.domainname,
            aliases=aliases,
            extra_hosts=host.extra_hosts,
            host_gateway=gateways,
        ),
        "resolv.conf": netfiles.resolv_conf(
            _host_resolv_conf(), dns=host.dns, search=host.dns_search, options=host.dns_options
        ),
    }


def _of_host(record: Container) -> dict[str, str]:
    host = record.host_config
    files = {
        "hosts": netfiles.host_hosts_file(_read("/etc/hosts"), host.extra_hosts, ["127.0.0.1"]),
        "resolv.conf": netfiles.host_resolv_conf(
            _read("/etc/resolv.conf"), dns=host.dns, search=host.dns_search, options=host.dns_options
        ),
    }
    if not record.config.hostname:
        files["hostname"] = netfiles.hostname_file(_read("/proc/sys/kernel/hostname").strip())
    return files


def _host_resolv_conf() -> str:
    text = _read("/etc/resolv.conf")
    return _read(netfiles.SYSTEMD_RESOLV_CONF) or text if netfiles.wants_systemd_file(text) else text


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except FileNotFoundError:
        return ""
