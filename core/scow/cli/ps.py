"""``scow ps``, ``port`` and ``top``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

import click

from scow.cli import format as fmt
from scow.cli.client import path_of
from scow.cli.grammar import command, flag, many, number, text
from scow.cli.ports import publish
from scow.cli.session import Session, write
from scow.errors import NotFound

COLUMNS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Ports": "PORTS",
    "State": "STATE",
    "Status": "STATUS",
    "Size": "SIZE",
    "Names": "NAMES",
    "Labels": "LABELS",
    "Mounts": "MOUNTS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Networks": "NETWORKS",
    "Platform": "PLATFORM",
}
DEFAULT = "ID Image Command RunningFor Status Ports Names"
COMMAND_WIDTH = 20


@command("ps")
@flag("-a", "--all", help="Show all containers (default shows just running)")
@many("-f", "--filter", help="Filter output based on conditions provided", metavar="filter")
@text("--format", help="Format output: 'table', 'table TEMPLATE', 'json' or a Go template")
@number("-n", "--last", help="Show n last created containers (includes all states)", default=-1)
@flag("-l", "--latest", help="Show the latest created container (includes all states)")
@flag("--no-trunc", help="Don't truncate output")
@flag("-q", "--quiet", help="Only display container IDs")
@flag("-s", "--size", help="Display total file sizes")
@click.pass_obj
def ps(
    context: Session, /, filter: tuple[str, ...], format: str | None, no_trunc: bool, quiet: bool, **flags: Any
) -> None:
    """List containers."""
    limit = 1 if flags["latest"] and flags["last"] < 0 else flags["last"]
    sized = flags["size"] or bool(format and ".Size" in format)
    containers = context.client.get(
        "/containers/json",
        all=flags["all"] or limit > 0,
        limit=limit if limit > 0 else None,
        size=sized,
        filters=fmt.filters(filter),
    )
    rows = [container_row(entry, trunc=not no_trunc) for entry in containers]
    default = DEFAULT + (" Size" if flags["size"] else "")
    fmt.emit(fmt.show(rows, COLUMNS, default=default, template=format, quiet=(lambda r: r["ID"]) if quiet else None))


def container_row(entry: Mapping[str, Any], *, trunc: bool) -> dict[str, Any]:
    """The fields that ``--format`` knows, of one entry of ``GET /containers/json``."""
    names = [name.removeprefix("/") for name in entry.get("Names") or ()]
    own = [name for name in names if "/" not in name] if trunc else names
    mounts = [mount.get("Name") or mount.get("Source", "") for mount in entry.get("Mounts") or ()]
    command_line = entry.get("Command", "")
    labels = entry.get("Labels") or {}
    return {
        "ID": entry["Id"][: fmt.ID_LENGTH] if trunc else entry["Id"],
        "Image": _image(entry, trunc=trunc),
        "Command": f'"{fmt.ellipsis(command_line, COMMAND_WIDTH) if trunc else command_line}"',
        "CreatedAt": lambda: fmt.local_time(entry["Created"]),
        "RunningFor": fmt.ago(entry["Created"]),
        "Ports": ports_text(entry.get("Ports") or ()),
        "State": entry.get("State", ""),
        "Status": entry.get("Status", ""),
        "Size": lambda: _size(entry),
        "Names": ",".join(own or names),
        "Labels": lambda: fmt.labels_text(labels),
        "Label": lambda name="": labels.get(name, ""),
        "Mounts": ",".join(fmt.ellipsis(mount, 15) if trunc else mount for mount in mounts),
        "LocalVolumes": lambda: str(sum(mount.get("Driver") == "local" for mount in entry.get("Mounts") or ())),
        "Networks": lambda: ",".join(sorted((entry.get("NetworkSettings") or {}).get("Networks") or {})),
        "Platform": lambda: (entry.get("ImageManifestDescriptor") or {}).get("platform", ""),
    }


def _image(entry: Mapping[str, Any], *, trunc: bool) -> str:
    image = str(entry.get("Image") or "<no image>")
    digits = image.removeprefix("sha256:")
    if trunc and entry.get("ImageID", "") in (image, f"sha256:{image}") and len(digits) == 64:
        return digits[: fmt.ID_LENGTH]
    return image.partition("@")[0] if trunc and "@" in image else image


def _size(entry: Mapping[str, Any]) -> str:
    size = fmt.human_size(entry.get("SizeRw") or 0, 3)
    root = entry.get("SizeRootFs") or 0
    return f"{size} (virtual {fmt.human_size(root, 3)})" if root else size


def ports_text(ports: Iterable[Mapping[str, Any]]) -> str:
    """``0.0.0.0:8000-8002->9000-9002/tcp, 5/tcp``: neighbouring ports of one address together."""

    def where(port: Mapping[str, Any]) -> tuple[str, str]:
        return str(port.get("Type", "tcp")), str(port.get("IP") or "")

    def order(port: Mapping[str, Any]) -> tuple[Any, ...]:
        return (port["PrivatePort"], port.get("IP") or "", port.get("PublicPort") or 0, port.get("Type") or "")

    words: list[tuple[tuple[Any, ...], str]] = []
    ordered = sorted(ports, key=lambda port: (*where(port), port["PrivatePort"], port.get("PublicPort") or 0))
    for (protocol, address), group in groupby(ordered, key=where):
        for run in _runs(list(group)):
            words.append((order(run[0]), _run_text(run, protocol, address)))
    return ", ".join(text for _, text in sorted(words))


def _runs(ports: list[Mapping[str, Any]]) -> Iterable[list[Mapping[str, Any]]]:
    """*ports* in runs in which both numbers grow by one."""
    run: list[Mapping[str, Any]] = []
    for port in ports:
        public = port.get("PublicPort") or 0
        if run:
            last = run[-1].get("PublicPort") or 0
            follows = port["PrivatePort"] == run[-1]["PrivatePort"] + 1 and (public == last + 1 if last else not public)
            if not follows:
                yield run
                run = []
        run.append(port)
    if run:
        yield run


def _run_text(run: list[Mapping[str, Any]], protocol: str, address: str) -> str:
    private = _span(run[0]["PrivatePort"], run[-1]["PrivatePort"])
    if not run[0].get("PublicPort"):
        return f"{private}/{protocol}"
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{_span(run[0]['PublicPort'], run[-1]['PublicPort'])}->{private}/{protocol}"


def _span(start: int, end: int) -> str:
    return str(start) if start == end else f"{start}-{end}"


@command("port")
@click.argument("container")
@click.argument("private_port", metavar="[PRIVATE_PORT[/PROTO]]", required=False)
@click.pass_obj
def port(context: Session, /, container: str, private_port: str | None) -> None:
    """List port mappings or a specific mapping for the container."""
    details = context.client.get(f"/containers/{path_of(container)}/json")
    mapped = (details.get("NetworkSettings") or {}).get("Ports") or {}
    if private_port:
        wanted = publish(private_port)[0].port
        found = mapped.get(wanted)
        if not found:
            raise NotFound(f"no public port {private_port!r} published for {container}")
        for binding in found:
            write(_host(binding))
        return
    lines = [f"{name} -> {_host(binding)}" for name, bindings in mapped.items() for binding in bindings or ()]
    for line in sorted(lines, key=lambda text: (int(text.partition("/")[0]), text)):
        write(line)


def _host(binding: Mapping[str, str]) -> str:
    address = binding.get("HostIp") or "0.0.0.0"
    return f"{f'[{address}]' if ':' in address else address}:{binding.get('HostPort', '')}"


@command("top", interspersed=False)
@click.argument("container")
@click.argument("options", metavar="[ps OPTIONS]", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def top(context: Session, /, container: str, options: tuple[str, ...]) -> None:
    """Display the running processes of a container."""
    answer = context.client.get(f"/containers/{path_of(container)}/top", ps_args=" ".join(options))
    sys.stdout.write(fmt.table([answer["Titles"], *answer["Processes"]]))
