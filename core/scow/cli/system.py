"""``scow version`` and ``scow info``."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click

from scow import __version__
from scow.cli import format as fmt
from scow.cli.client import API_VERSION
from scow.cli.failures import report
from scow.cli.grammar import command, text
from scow.cli.session import Session
from scow.errors import Unavailable

Lines = Iterable[tuple[str, Any]]


@command("version")
@text("-f", "--format", help="Format output using 'json' or a Go template")
@click.pass_obj
def version(context: Session, /, format: str | None) -> int:
    """Show the Scow version information."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    client = {
        "Platform": {"Name": ""},
        "Version": __version__,
        "ApiVersion": API_VERSION,
        "PythonVersion": platform.python_version(),
        "Os": sys.platform,
        "Arch": machine,
    }
    context.starts_daemon = False  # a question about versions is no reason to start one
    failed: Unavailable | None = None
    server: dict[str, Any] | None = None
    try:
        server = context.client.get("/version")
    except Unavailable as error:
        failed = error
    if format:
        from scow.cli.gotemplate import Template, to_json

        value = {"Client": client, "Server": server}
        sys.stdout.write((to_json(value) if format == "json" else Template(format).render(value)) + "\n")
    else:
        sys.stdout.write(_client_text(client) + (_server_text(server) if server else ""))
    if failed is not None:
        sys.stdout.flush()
        report(failed)
    return int(failed is not None)


def _client_text(client: Mapping[str, Any]) -> str:
    lines = [
        ("Version", client["Version"]),
        ("API version", client["ApiVersion"]),
        ("Python version", client["PythonVersion"]),
        ("OS/Arch", f"{client['Os']}/{client['Arch']}"),
    ]
    return "Client: Scow\n" + _aligned(lines, 1)


def _server_text(server: Mapping[str, Any]) -> str:
    text = f"\nServer: {(server.get('Platform') or {}).get('Name') or 'Scow'}\n"
    for component in server.get("Components") or [{"Name": "Engine", **server}]:
        details = component.get("Details") or component
        lines: list[tuple[str, Any]] = [("Version", component.get("Version", ""))]
        if component.get("Name") == "Engine":
            least = details.get("MinAPIVersion", "")
            lines.append(("API version", f"{details.get('ApiVersion', '')} (minimum version {least})"))
            lines.append(("OS/Arch", f"{details.get('Os', '')}/{details.get('Arch', '')}"))
        known = {"ApiVersion", "MinAPIVersion", "Os", "Arch", "Version", "Name", "Details", "Experimental"}
        lines += [(name, value) for name, value in details.items() if name not in known and isinstance(value, str)]
        text += f" {component.get('Name', 'Engine')}:\n" + _aligned(lines, 2)
    return text


def _aligned(lines: Lines, indent: int) -> str:
    return "".join(f"{' ' * indent}{name + ':':<18} {value}\n" for name, value in lines if value not in (None, ""))


@command("info")
@text("-f", "--format", help="Format output using 'json' or a Go template")
@click.pass_obj
def info(context: Session, /, format: str | None) -> None:
    """Display system-wide information."""
    facts = context.client.get("/info")
    if format:
        from scow.cli.gotemplate import Template, to_json

        sys.stdout.write((to_json(facts) if format == "json" else Template(format).render(facts)) + "\n")
        return
    sys.stdout.write(f"Client: Scow\n Version: {__version__}\n\nServer:\n" + _info_text(facts))
    sys.stdout.flush()
    for warning in facts.get("Warnings") or ():
        sys.stderr.write(warning + "\n")


def _info_text(facts: Mapping[str, Any]) -> str:
    plugins = facts.get("Plugins") or {}
    lines: list[tuple[str, Any]] = [
        ("Containers", facts.get("Containers")),
        (" Running", facts.get("ContainersRunning")),
        (" Paused", facts.get("ContainersPaused")),
        (" Stopped", facts.get("ContainersStopped")),
        ("Images", facts.get("Images")),
        ("Server Version", facts.get("ServerVersion")),
        ("Storage Driver", facts.get("Driver")),
        *((f" {name}", value) for name, value in facts.get("DriverStatus") or ()),
        ("Logging Driver", facts.get("LoggingDriver")),
        ("Cgroup Driver", facts.get("CgroupDriver")),
        ("Cgroup Version", facts.get("CgroupVersion")),
        ("Plugins", None),
        *((f" {name}", " ".join(plugins[name])) for name in ("Volume", "Network", "Log") if plugins.get(name)),
        ("Runtimes", " ".join(sorted(facts.get("Runtimes") or {}))),
        ("Default Runtime", facts.get("DefaultRuntime")),
        ("Security Options", " ".join(facts.get("SecurityOptions") or ())),
        ("Kernel Version", facts.get("KernelVersion")),
        ("Operating System", facts.get("OperatingSystem")),
        ("OSType", facts.get("OSType")),
        ("Architecture", facts.get("Architecture")),
        ("CPUs", facts.get("NCPU")),
        ("Total Memory", fmt.binary_size(facts["MemTotal"]) if facts.get("MemTotal") else None),
        ("Name", facts.get("Name")),
        ("ID", facts.get("ID")),
        ("Root Dir", facts.get("DockerRootDir")),
        ("Debug Mode", str(bool(facts.get("Debug"))).lower()),
        ("Live Restore Enabled", str(bool(facts.get("LiveRestoreEnabled"))).lower()),
    ]
    shown = ((name, value) for name, value in lines if value not in (None, "") or name == "Plugins")
    return "".join(f" {name}:{'' if value is None else f' {value}'}\n" for name, value in shown)
