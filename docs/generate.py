"""Writes the pages of ``docs/reference/`` from the sources: ``make docs``.

Nothing is run but imports. `PAGES` maps a file name to the function that makes its text; ``tests/docs`` compares what
they answer with what is on disk.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from docs.differences import differences_page
from docs.markdown import captured, fenced, markdown, one_line, page, sentence, signature, table
from scow import config, daemon, errors, hookspecs
from scow.api import scow_v1, server, unbuilt
from scow.api.routing import Route
from scow.cli import commands
from scow.cli.grammar import LazyGroup
from scow.cli.main import root
from scow.engine import system
from scow.host import EVENT_HOOKS
from scow.ports import KINDS, DriverContext, DriverKind, Mount
from scow_runtime_native.command.grammar import COMMANDS, GLOBAL

HERE = Path(__file__).parent
REFERENCE = HERE / "reference"
PLUGINS = HERE.parent / "plugins"

KEYS = {
    "data_root": "Absolute path. Database, blobs, snapshots, volumes, containers. One scowd at a time (`flock`).",
    "run_root": "Absolute path. Sockets and what a reboot may delete. `hosts` follows it where `hosts` is not set.",
    "hosts": "List (variable: comma-separated) of `unix:///path`, `tcp://<loopback address>:<port>`, `fd://<number>`.",
    "tls.ca": "Path. Read and checked, but TLS is not served yet: with it, `tcp://` hosts are refused.",
    "tls.cert": "Path. As `tls.ca`.",
    "tls.key": "Path. As `tls.ca`.",
    "drivers.storage": "Name of the storage driver.",
    "drivers.runtime": "Name of the runtime. `runc` (where none is called so) and `io.containerd.runc.v2` mean it too.",
    "drivers.network": "Driver of the network `bridge`; taken when that network is first made, at the first start.",
    "drivers.registry": "Name of the registry backend for hosts that no other backend serves.",
    "drivers.volume": "Name of the driver of volumes that name none.",
    "drivers.log": "Name of the log driver of containers that name none.",
    "plugins.disabled": "List (variable: comma-separated) of distributions, `name` or `kind:name`.",
    "plugins.enabled": "Flag. `false` leaves out all plugins that are no drivers. The variable is the contrary: `1`.",
    "engine_name": "Tells engines on one host apart; part of the cgroup path.",
    "bridge_name": "Linux interface of the default network, 1 to 15 characters.",
    "subnet_pool": "CIDR, or several separated by commas, from which networks get their subnets.",
    "nft_table": "Name of the engine's nftables table (family `inet`).",
    "cgroup_parent": "Cgroup below which containers live: `<cgroup_parent>/<engine_name>/<container id>`.",
    "userns": "`host` or `auto`: whether a container that does not say has a user namespace with ids of its own.",
    "userns_size": "Number of uids and gids of each container with a user namespace.",
    "userns_user": "Whose lines of `/etc/subuid` and `/etc/subgid` give them. Without lines: 1879048192 and above.",
    "cdi_spec_dirs": "Folders with the spec files of CDI devices; a later one goes first. Empty: no CDI.",
    "push_compression": "`gzip` or `zstd`: how a push compresses layers that are kept as plain tars.",
    "keep_blobs": "`always`, or `until-unpacked`: the compressed layers of pulled images go once they are unpacked; "
    "push and save fetch them again.",
    "layer_limit": "The most that one layer may unpack to (`512m`, `64g`): a blob that grows beyond it is refused.",
    "debug": "Flag. Log at level DEBUG.",
    "trace_hooks": "Flag. Print calls of `firstresult` and contribution hooks to standard error.",
    "options": "`options.<kind>.<driver>` (`options.plugin.<name>`): a mapping for it; see its README. With "
    "`driver: other` in it the name is one more instance of the driver `other`, with options and state of its own.",
    "registries": "`registries.<host>`: a mapping with `insecure` (flag), `ca` (path) and `mirrors` (hosts or URLs). "
    "`registries.<host>/<path>`: the `mirrors` of the repositories below it.",
    "certs_dir": "Absolute path. `<host[:port]>/` in it holds `*.crt` (authorities), `*.cert` and `*.key` (ours).",
    "proxy.http": "`http://[user:password@]host:port`, for registries over plain HTTP; else `HTTP_PROXY`.",
    "proxy.https": "The same for registries over HTTPS; else `HTTPS_PROXY`.",
    "proxy.no_proxy": "List (variable: comma-separated) of hosts, `.domains`, addresses and networks that are reached "
    "without a proxy; else `NO_PROXY`. Loopback hosts always are.",
    "container_options": "`container_options.<option>`: text; the option `scow.<option>` where a request has none.",
    "request_options": "`request_options.<option>`: `allow` (default) or `deny`: `scow.<option>` in requests.",
    "log_options": "`log_options.<option>`: text; the `--log-opt` of containers that name no log driver.",
}


CONFIG = """\
The file is YAML: `--config FILE`, else `SCOW_CONFIG`, else `/etc/scow/config.yaml` where it exists. A flag of `scowd`
counts more than a variable, a variable more than the file, the file more than the default. An unknown key, a wrong
type and a file that was named and is missing are errors that name their origin; scowd does not start then."""

CLI = """\
The grammar is docker's: `-it`, `--flag=false`, options before the image of `run`. `scow` talks to the engine that
`-H`, `SCOW_HOST` or `DOCKER_HOST` names, else to `unix:///run/scow/scow.sock`. Where nobody listens there and none of
the three is given, root's `scow` starts `scowd`; its log is `/run/scow/scowd.log`.

Exit codes: [errors](errors.md#exit-codes-of-scow). A command that is not in this list is looked for among the plugins
(entry-point group `scow.commands`, a click command); `scow help --all` lists those."""

HOOKS = """\
A plugin implements a hook by a function or method of the same name under `scow.hookspecs.hookimpl`. It takes those of
the arguments that it wants, by name. Found are: the methods of every driver that was loaded, and what the entry
points of the group `scow.plugins` name: a module, an object, or a class, which is constructed without arguments or
with one `DriverContext`, whose options are `options.plugin.<name>` of the [configuration](config.md).

*Events* are told to all plugins after the fact, each plugin on a thread of its own and in order; an error is logged.
They cannot be wrapped. A plugin that hangs misses events beyond the 1,000 that wait for it. Of a *firstresult* hook
the first answer that is not None counts. A *contribution* is asked of all, last registered first. The last two are
answered within 30 s or the operation fails, and the error names the plugin."""

DRIVERS = """\
A driver is a class that is constructed with one `DriverContext` and has the methods of its protocol. It is found by
an entry point in the group of its kind and chosen by name in the [configuration](config.md). Drivers are plain,
synchronous and called on worker threads, several at once; a call that is not answered within its deadline (120 s
where the engine sets no other) is abandoned. Errors are those of [errors](errors.md)."""

ERRORS = """\
Errors are told apart by nature. A driver or hook raises them from `scow.errors`; anything else that leaves a plugin
becomes a `PluginError` that names plugin, distribution and method."""

EXIT_CODES = """\
## In the API

The body is `{"message": "…"}`, as Docker's. Where an error has a hint, it is the second line of the message. 304 has
no body. What is not a `ScowError` is answered 500 with `internal error: …` and logged with its traceback.

## Exit codes of scow

`run`, `create` and `exec` end with the container's own code, or with one of the table: 125 (the engine or the
request), 126 (the program cannot run), 127 (it is not there). The API has no field for the last two: `scow` tells
them by the words of the message, as docker's own command line does. Every other command ends with 1 for an error of
the engine. A mistake in the command line itself is 125, an interrupt 130.

`scowd` ends with 1 when it cannot start and 0 when it was stopped."""

API = """\
HTTP on the sockets of `hosts`. Docker's paths, with or without a version (`/v{oldest}` to `/v{newest}`). `/_ping` is
answered at once; all others wait until the engine has read its state and repaired what a crash left."""


def main() -> None:
    """Every page is up to date; ``--check`` writes nothing and fails where one is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [name for name, make in PAGES.items() if _put(REFERENCE / name, make(), check)]
    if stale:
        sys.stdout.write(f"{'out of date' if check else 'written'}: {', '.join(stale)}\n")
    raise SystemExit(1 if check and stale else 0)


def _put(path: Path, content: str, check: bool) -> bool:
    if path.exists() and path.read_text() == content:
        return False
    if not check:
        path.write_text(content)
    return True


# -------------------------------------------------------------------------
# pages
# -------------------------------------------------------------------------


def config_page() -> str:
    """Each key with its variable, its default and what it is."""
    variables = {key: name for name, key in config.VARIABLES.items()}
    rows = [
        (f"`{key}`", f"`{variables[key]}`" if key in variables else "", _default(key), KEYS[key])
        for key in config.PARSERS
    ]
    for key in config.OPEN_PARSERS:
        rows.append((f"`{key}.…`", "", "none", KEYS[key]))
    return page(
        "Configuration",
        CONFIG,
        table(("key", "variable", "default", "what"), rows),
        "Flags are `1 true yes on` and `0 false no off`. `SCOW_CONFIG` names the file and is no key.",
        "## Flags of scowd",
        fenced(_scowd_help()),
        "## Variables of `scow`",
        table(
            ("variable", "what"),
            [
                ("`SCOW_HOST`", "The engine to talk to, where `-H` is not given."),
                ("`DOCKER_HOST`", "The same, where neither `-H` nor `SCOW_HOST` is given."),
                ("`DOCKER_CONFIG`", "Folder of `config.json` with credentials; default `~/.docker`."),
                ("`DOCKER_AUTH_CONFIG`", "Credentials for this run, as JSON; they go before those of the file."),
                ("`SCOW_NO_PLUGINS`", "`1`: commands of plugins are not looked for."),
                ("`SCOW_DISABLED_PLUGINS`", "Names of commands of plugins that are not looked for."),
            ],
        ),
    )


def _default(key: str) -> str:
    value: Any = config.Config()
    for part in key.split("."):
        value = value[part] if isinstance(value, Mapping) else getattr(value, part)
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple):
        return f"`[{', '.join(value)}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _scowd_help() -> str:
    text = captured(daemon.main, ["--help"])
    return text.replace(sys.argv[0], "scowd")


def cli_page() -> str:
    """Every command with its usage and options."""
    context = click.Context(root, info_name="scow")
    parts = [_listing(root), "## Global options", _options(root, context)]
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert command is not None
        parts += _command(command, f"scow {name}", context)
    return page(
        "Command line",
        CLI,
        *parts,
    )


def _listing(group: LazyGroup) -> str:
    rows = [
        (f"[`scow {name}`](#scow-{name})", entry.help)
        for section in group.table.values()
        for name, entry in section.items()
    ]
    return table(("command", "what"), rows)


def _command(command: click.Command, path: str, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=path.rpartition(" ")[2], parent=parent)
    yield f"## {path}" if path.count(" ") == 1 else f"### {path}"
    yield fenced(" ".join([path, *command.collect_usage_pieces(context)]))
    yield sentence(command.help or "")
    if not isinstance(command, LazyGroup):
        if table := _options(command, context):
            yield table
        return
    top = {entry: name for section in commands.TABLE.values() for name, entry in section.items()}
    for name in command.list_commands(context):
        entry = command.entry(name)
        member = command.get_command(context, name)
        assert entry is not None and member is not None
        known = top.get(entry) or next((n for e, n in top.items() if (e.module, e.attribute) == entry[:2]), "")
        if known:
            yield f"### {path} {name}"
            yield f"{sentence(entry.help)} The same as [`scow {known}`](#scow-{known})."
        else:
            yield from _command(member, f"{path} {name}", context)


def _options(command: click.Command, context: click.Context) -> str:
    records = [
        option.get_help_record(context)
        for option in command.get_params(context)
        if isinstance(option, click.Option) and not option.hidden
    ]
    rows = [(f"`{record[0]}`", record[1]) for record in records if record and record[0] != "--help"]
    return table(("option", "what"), rows) if rows else ""


def hooks_page() -> str:
    """Every hook with its signature and docstring."""
    parts = []
    for name, function in hook_functions().items():
        first = bool(function.scow_spec.get("firstresult"))  # what pluggy's marker left
        kind = "event" if name in EVENT_HOOKS else "firstresult" if first else "contribution"
        parts += [f"## {name}", f"*{kind}*", fenced(signature(name, function), "python"), markdown(function)]
    return page(
        "Hooks",
        HOOKS,
        *parts,
    )


def hook_functions() -> dict[str, Any]:
    """The hooks of `scow.hookspecs` by name."""
    return {name: function for name, function in vars(hookspecs).items() if name.startswith("scow_")}


def drivers_page() -> str:
    """Every protocol with its methods, its values and the drivers that come with Scow."""
    parts = ["## What all drivers share", _class(DriverContext), _class(Mount)]
    for kind in KINDS:
        parts += _kind(kind)
    return page(
        "Drivers",
        DRIVERS,
        *parts,
    )


def _kind(kind: DriverKind[Any]) -> Iterator[str]:
    yield f"## {kind.name}"
    first = [(f"`{name}`", f"`{where}`") for name, where in _first_party(kind.group)]
    yield f"Entry-point group `{kind.group}`, protocol `{kind.protocol.__module__}.{kind.protocol.__name__}`."
    yield table(("driver", "distribution"), first)
    yield _class(kind.protocol)
    module = sys.modules[kind.protocol.__module__]
    for value in vars(module).values():
        if inspect.isclass(value) and value.__module__ == module.__name__ and value is not kind.protocol:
            yield _class(value)


def _first_party(group: str) -> Iterator[tuple[str, str]]:
    for file in sorted(PLUGINS.glob("*/pyproject.toml")):
        project = tomllib.loads(file.read_text())["project"]
        for name in project.get("entry-points", {}).get(group, {}):
            yield name, project["name"]


def _class(of: type) -> str:
    """A protocol with its methods, or a value with its fields."""
    parts = [f"### {of.__name__}", markdown(of)]
    fields = {field.name: field for field in dataclasses.fields(of)} if dataclasses.is_dataclass(of) else {}
    lines = [f"{name}: {text}{_value(fields.get(name))}" for name, text in inspect.get_annotations(of).items()]
    if lines:
        parts.append(fenced("\n".join(lines).replace("'", '"'), "python"))
    for name, member in vars(of).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            parts += [f"#### {of.__name__}.{name}", fenced(signature(name, member), "python"), markdown(member)]
    return "\n\n".join(parts)


def _value(field: dataclasses.Field[Any] | None) -> str:
    if field is None or (field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING):
        return ""
    return f" = {field.default!r}" if field.default is not dataclasses.MISSING else " = {}"


def errors_page() -> str:
    """Every error class with its status, its exit code and its meaning."""
    rows = [
        (f"`{error.__name__}`", f"`{error.__mro__[1].__name__}`", error.http_status, error.exit_code, one_line(error))
        for error in error_classes()
    ]
    return page(
        "Errors",
        ERRORS,
        table(("class", "is a", "HTTP", "exit code", "meaning"), rows),
        EXIT_CODES,
    )


def error_classes() -> list[type[errors.ScowError]]:
    """Every class of `scow.errors`, in its order."""
    found = [value for value in vars(errors).values() if inspect.isclass(value)]
    return [value for value in found if issubclass(value, errors.ScowError)]


def api_page() -> str:
    """Which routes are built, and which answer 501."""
    built = [route for route in server.routes() if route.handler is not unbuilt.refuse]
    return page(
        "Engine API",
        API.format(oldest=system.MIN_API_VERSION, newest=system.API_VERSION),
        "## Built",
        _routes(built),
        "## Scow's own",
        _routes(scow_v1.ROUTES),
        "## Not built: 501",
        fenced(
            "\n".join(f"{route.method:<6} {route.path}" for route in unbuilt.ROUTES if route.handler is unbuilt.refuse)
        ),
        "Any other path is answered 404 `page not found`.",
    )


def _routes(routes: Iterable[Route]) -> str:
    rows = []
    for route in routes:
        lead = re.compile(r"^(`[A-Z]+` and )?`[A-Z]+ [^`]*`[.;:]?\s*")
        rows.append((route.method, f"`{route.path}`", lead.sub("", one_line(route.handler))))
    return table(("method", "path", "note"), rows)


def runtime_page() -> str:
    return page(
        "scow-runtime",
        "The native runtime as a command: [how to use it with podman, docker and containerd]"
        "(../how-to/use-scow-runtime-with-podman.md). Exit codes: that of the process for `run` and `exec`, 1 after an "
        "error, 255 where an exec failed.",
        fenced(GLOBAL.text(), "text"),
        *(f"## {name}\n\n{fenced(grammar.text(), 'text')}" for name, grammar in COMMANDS.items()),
    )


PAGES: dict[str, Callable[[], str]] = {
    "config.md": config_page,
    "cli.md": cli_page,
    "hooks.md": hooks_page,
    "drivers.md": drivers_page,
    "errors.md": errors_page,
    "api.md": api_page,
    "runtime-differences.md": differences_page,
    "scow-runtime.md": runtime_page,
}


if __name__ == "__main__":
    main()
