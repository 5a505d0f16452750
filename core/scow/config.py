"""The configuration: flags over environment over the YAML file over defaults, each value knowing where it came from.

========================  ==============================  =======================================================
key                       environment                     default
========================  ==============================  =======================================================
``data_root``             ``SCOW_DATA_ROOT``              ``/var/lib/scow``
``run_root``              ``SCOW_RUN_ROOT``               ``/run/scow``
``hosts``                 ``SCOW_HOSTS`` (by commas)      ``unix://<run_root>/scow.sock``
``tls.{ca,cert,key}``     ``SCOW_TLS_CA``, …              none: files for ``tcp://`` hosts (mutual TLS)
``drivers.<kind>``        ``SCOW_<KIND>_DRIVER``          overlay, native, bridge, dockerhub, local, local
``options.<kind>.<name>``                                 ``{}``: handed to that driver; with ``driver: other`` the
                                                          name is one more instance of the driver ``other``
``plugins.disabled``      ``SCOW_DISABLED_PLUGINS``       none (distributions, ``name`` or ``kind:name``)
``plugins.enabled``       ``SCOW_NO_PLUGINS=1``: false    true: load the plugins that are no drivers
``registries.<host>``                                     ``{insecure: false, mirrors: [], ca: }``
``certs_dir``             ``SCOW_CERTS_DIR``              ``/etc/docker/certs.d``: registries' certificates
``proxy.{http,https}``    ``SCOW_PROXY_HTTP``, …          none: ``HTTP_PROXY`` and ``HTTPS_PROXY`` count
``proxy.no_proxy``        ``SCOW_PROXY_NO_PROXY``         none: ``NO_PROXY`` counts
``log_options``                                           ``{}``: default ``--log-opt``
``container_options.<o>``                                 ``{}``: what holds where a request says no ``scow.<o>``
``request_options.<o>``                                   ``allow``; ``deny``: no request may say ``scow.<o>``
``engine_name``           ``SCOW_ENGINE_NAME``            ``scow``
``bridge_name``           ``SCOW_BRIDGE_NAME``            ``scow0``
``subnet_pool``           ``SCOW_SUBNET_POOL``            ``172.29.0.0/16``
``nft_table``             ``SCOW_NFT_TABLE``              ``scow``
``cgroup_parent``         ``SCOW_CGROUP_PARENT``          ``scow``
``userns``                ``SCOW_USERNS``                 ``host``: or ``auto``, ids of its own for each container
``userns_size``           ``SCOW_USERNS_SIZE``            65536: how many
``userns_user``           ``SCOW_USERNS_USER``            ``scow``: whose lines of /etc/subuid and /etc/subgid
``cdi_spec_dirs``         ``SCOW_CDI_SPEC_DIRS``          ``/etc/cdi,/var/run/cdi``: a later one goes first
``push_compression``      ``SCOW_PUSH_COMPRESSION``       ``gzip``, or ``zstd``: of layers that are kept plain
``keep_blobs``            ``SCOW_KEEP_BLOBS``             ``always``, or ``until-unpacked``: of layers that were pulled
``layer_limit``           ``SCOW_LAYER_LIMIT``            ``64g``: the most that a layer may unpack to
``debug``                 ``SCOW_DEBUG``                  false
``trace_hooks``           ``SCOW_TRACE_HOOKS``            false: print calls of hooks that answer to stderr
========================  ==============================  =======================================================

The file is ``--config``, else ``SCOW_CONFIG``, else ``/etc/scow/config.yaml`` where it exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scow import config_values as parse
from scow.errors import InvalidArgument, NotFound

DEFAULT_FILE = Path("/etc/scow/config.yaml")
DEFAULT_DRIVERS = {
    "storage": "overlay",
    "runtime": "native",
    "network": "bridge",
    "registry": "dockerhub",
    "volume": "local",
    "log": "local",
}
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Files of a ``tcp://`` host: its own certificate and key, and the authority that signs the clients'."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class PluginsConfig:
    """Which plugins are left alone: *disabled* ones, and without *enabled* all that are no drivers."""

    disabled: tuple[str, ...] = ()
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """How one registry host is spoken to. *insecure*: plain HTTP, or a certificate that nobody vouches for; *mirrors*
    are asked first; *ca* is the file of the authorities that sign its certificate. The entry of a host with a path has
    mirrors only, for the repositories below it."""

    insecure: bool = False
    mirrors: tuple[str, ...] = ()
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """What registries are reached through, by the scheme of their address, and the hosts that are reached without."""

    http: str = field(default="", repr=False)  # may hold a password
    https: str = field(default="", repr=False)
    no_proxy: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """What an engine runs with."""

    data_root: Path = Path("/var/lib/scow")
    run_root: Path = Path("/run/scow")
    hosts: tuple[str, ...] = ("unix:///run/scow/scow.sock",)
    tls: TlsConfig = TlsConfig()
    drivers: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_DRIVERS))
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    plugins: PluginsConfig = PluginsConfig()
    registries: Mapping[str, RegistryConfig] = field(default_factory=dict)
    certs_dir: Path = Path("/etc/docker/certs.d")
    proxy: ProxyConfig = ProxyConfig()
    log_options: Mapping[str, str] = field(default_factory=dict)
    container_options: Mapping[str, str] = field(default_factory=dict)
    request_options: Mapping[str, str] = field(default_factory=dict)
    engine_name: str = "scow"
    bridge_name: str = "scow0"
    subnet_pool: str = "172.29.0.0/16"
    nft_table: str = "scow"
    cgroup_parent: str = "scow"
    userns: str = "host"
    userns_size: int = 65536
    userns_user: str = "scow"
    cdi_spec_dirs: tuple[str, ...] = ("/etc/cdi", "/var/run/cdi")
    push_compression: str = "gzip"
    keep_blobs: str = "always"
    layer_limit: int = 64 << 30
    debug: bool = False
    trace_hooks: bool = False
    file: Path | None = None
    origins: Mapping[str, str] = field(default_factory=dict, repr=False)

    def origin(self, key: str) -> str:
        """Where *key* (``drivers.storage``) got its value: a flag, a variable, a file's path, or ``default``."""
        while key:
            if key in self.origins:
                return self.origins[key]
            key = key.rpartition(".")[0]
        return DEFAULT

    @property
    def settings(self) -> dict[str, str]:
        """The engine-wide names that every driver is told (`scow.ports.DriverContext`)."""
        return {
            "bridge": self.bridge_name,
            "subnet_pool": self.subnet_pool,
            "nft_table": self.nft_table,
            "cgroup_parent": self.cgroup_parent,
        }


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """The configuration from the file, *environ* and *flags* (dotted keys; None: not given).

    Raises `NotFound` for a file that was named and is not there, `InvalidArgument` for an unknown key (listing the
    valid ones) or a value of the wrong type, naming its origin.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    file = _file(path, environ)
    layers: list[tuple[str, str, Any]] = []
    if file is not None:
        layers += [(key, str(file), value) for key, value in _flat(_read_yaml(file), str(file))]
    layers += [(key, name, environ[name]) for name, key in VARIABLES.items() if environ.get(name)]
    layers += [(key, flag_name(key), value) for key, value in flags.items() if value is not None]
    for key, origin, value in layers:
        values[key] = _parser(key, origin)(value, key, origin)
        origins[key] = origin
    return _build(values, origins, file)


def flag_name(key: str) -> str:
    """The flag of scowd for *key*: ``--storage-driver`` for ``drivers.storage``."""
    kind = key.removeprefix("drivers.")
    return f"--{kind}-driver" if kind != key else "--" + key.replace(".", "-").replace("_", "-")


def _build(values: dict[str, Any], origins: dict[str, str], file: Path | None) -> Config:
    fields: dict[str, Any] = {key: value for key, value in values.items() if "." not in key}
    for section, make in SECTIONS.items():
        prefix = section + "."
        members = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
        if members:
            fields[section] = make(members)
    if "hosts" not in fields and "run_root" in fields:
        fields["hosts"] = (f"unix://{fields['run_root']}/scow.sock",)
    return Config(**fields, file=file, origins=origins)


def _file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is not None:
        origin = "--config"
    elif environ.get("SCOW_CONFIG"):
        path, origin = Path(environ["SCOW_CONFIG"]), "SCOW_CONFIG"
    else:
        return DEFAULT_FILE if DEFAULT_FILE.exists() else None
    if not path.exists():
        raise NotFound(f"no config file {path} (from {origin})")
    return path


def _read_yaml(file: Path) -> Mapping[str, Any]:
    from scow.yamlfile import read  # 30 ms: only paid where there is a file

    content = read(file)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidArgument(f"{file}: expected a mapping of keys, got {parse.type_name(content)}")
    return content


def _flat(content: Mapping[Any, Any], origin: str) -> list[tuple[str, Any]]:
    """``{"drivers": {"storage": "vfs"}}`` as ``[("drivers.storage", "vfs")]``."""
    found: list[tuple[str, Any]] = []
    for key, value in content.items():
        if str(key) not in SECTIONS:
            found.append((str(key), value))
            continue
        if value is None:
            continue
        if not isinstance(value, dict):
            raise parse.wrong(str(key), origin, "a mapping", value)
        found += [(f"{key}.{name}", member) for name, member in value.items()]
    return found


def _registry(value: Any, key: str, origin: str) -> RegistryConfig:
    members = parse.mapping(value, key, origin)
    unknown = sorted(set(members) - {"insecure", "mirrors", "ca"})
    if unknown:
        raise InvalidArgument(f"unknown key '{key}.{unknown[0]}' (from {origin}); valid keys: ca, insecure, mirrors")
    of_host = sorted(set(members) - {"mirrors"})
    if "/" in key and of_host:
        host = key.partition("/")[0]
        raise InvalidArgument(f"{key}.{of_host[0]} (from {origin}): say it of the whole host: {host}.{of_host[0]}")
    return RegistryConfig(
        insecure=parse.flag(members.get("insecure", False), key + ".insecure", origin),
        mirrors=parse.strings(members.get("mirrors", ()), key + ".mirrors", origin),
        ca=parse.path(members["ca"], key + ".ca", origin) if members.get("ca") else None,
    )


PARSERS: dict[str, parse.Parser] = {
    "data_root": parse.path,
    "run_root": parse.path,
    "hosts": parse.hosts,
    "tls.ca": parse.path,
    "tls.cert": parse.path,
    "tls.key": parse.path,
    **{f"drivers.{kind}": parse.string for kind in DEFAULT_DRIVERS},
    "certs_dir": parse.path,
    "proxy.http": parse.proxy,
    "proxy.https": parse.proxy,
    "proxy.no_proxy": parse.strings,
    "plugins.disabled": parse.strings,
    "plugins.enabled": parse.unless,
    "engine_name": parse.identifier,
    "bridge_name": parse.interface,
    "subnet_pool": parse.subnets,
    "nft_table": parse.identifier,
    "cgroup_parent": parse.cgroup,
    "userns": parse.userns,
    "userns_size": parse.ids,
    "userns_user": parse.string,
    "cdi_spec_dirs": parse.directories,
    "push_compression": parse.compression,
    "keep_blobs": parse.keeping,
    "layer_limit": parse.size,
    "debug": parse.flag,
    "trace_hooks": parse.flag,
}
OPEN_PARSERS: dict[str, parse.Parser] = {  # sections whose keys are the user's
    "options": parse.mapping,
    "registries": _registry,
    "log_options": parse.scalar,
    "container_options": parse.option,
    "request_options": parse.option,
}
SECTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "tls": lambda members: TlsConfig(**members),
    "drivers": lambda members: {**DEFAULT_DRIVERS, **members},
    "proxy": lambda members: ProxyConfig(**members),
    "plugins": lambda members: PluginsConfig(**members),
    **dict.fromkeys(OPEN_PARSERS, dict),
}
VARIABLES: dict[str, str] = {
    "SCOW_HOSTS": "hosts",
    "SCOW_NO_PLUGINS": "plugins.enabled",
    "SCOW_DISABLED_PLUGINS": "plugins.disabled",
    **{f"SCOW_{kind.upper()}_DRIVER": f"drivers.{kind}" for kind in DEFAULT_DRIVERS},
    **{
        f"SCOW_{key.replace('.', '_').upper()}": key
        for key in PARSERS
        if key != "hosts" and not key.startswith(("drivers.", "plugins."))
    },
}


def _parser(key: str, origin: str) -> parse.Parser:
    section, dot, _ = key.partition(".")
    if dot and section in OPEN_PARSERS:
        return OPEN_PARSERS[section]
    if key in PARSERS:
        return PARSERS[key]
    if dot and section in SECTIONS:
        valid = [name for name in PARSERS if name.startswith(section + ".")]
    else:
        valid = [name for name in PARSERS if "." not in name] + list(SECTIONS)
    raise InvalidArgument(f"unknown key {key!r} (from {origin}); valid keys: {', '.join(sorted(valid))}")
