"""The plugin host: finds, chooses, checks, calls and contains plugins. The only user of stevedore and pluggy.

stevedore answers "which one?": one entry-point group a driver kind, the name from the config, loaded alone and only
when needed. pluggy answers "who else?": drivers that were loaded and the plugins of the group ``scow.plugins`` are
registered with it, so that their hooks take part.
"""

from __future__ import annotations

import inspect
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint
from typing import Any, NamedTuple, TypeVar, cast

import pluggy

from scow import hookspecs
from scow.config import Config
from scow.errors import (
    DriverConflict,
    DriverContractError,
    DriverLoadError,
    DriverNotFound,
    DriverUnusable,
    PluginError,
    ScowError,
    Unavailable,
)
from scow.hook_calls import Listeners, blame, running
from scow.installed import COMMANDS_GROUP, PLUGINS_GROUP, Installed, instances, owner
from scow.ports import KINDS, REGISTRY, DriverContext, DriverKind
from scow.ports.registry import Credentials
from scow.workers import Pool

log = logging.getLogger(__name__)
D = TypeVar("D")
T = TypeVar("T")

EVENT_HOOKS = ("scow_event",)
CALL_S = 60.0
HOOK_S = 30.0
CLOSE_S = 5.0


class PluginReport(NamedTuple):
    """One line of ``scow plugin ls``. *state*: ready, unused, unusable (this host lacks something) or failed."""

    kind: str
    name: str
    distribution: str
    version: str
    state: str
    reason: str = ""


class PluginHost:
    """The plugins of one engine. `driver` and `load_plugins` may block (imports, checks) and are thread-safe."""

    def __init__(self, config: Config, installed: Mapping[str, list[EntryPoint]] | None = None) -> None:
        self._config = config
        self.instances = instances(config)  # kind and name → name of the driver
        self._installed = Installed(config.plugins.disabled, installed, self.instances)
        self._drivers: dict[tuple[str, str], object] = {}
        self._failures: dict[tuple[str, str], PluginError] = {}
        self._pools: dict[tuple[str, str], Pool] = {}
        self._loading: dict[tuple[str, str], threading.RLock] = {}
        self._lock = threading.RLock()  # pluggy's lists
        self._pm = pluggy.PluginManager("scow")
        self._pm.add_hookspecs(hookspecs)
        self._owners: dict[str, str] = {}
        self._plugins_loaded = False
        self._listeners = Listeners(self._pm, self._owner_of)
        self._hooks: dict[str, Pool] = {}
        if config.trace_hooks:
            self._pm.add_hookcall_monitoring(_trace_before, _trace_after)

    # --- drivers ------------------------------------------------------

    def names(self, kind: DriverKind[Any]) -> list[str]:
        """The drivers of *kind* that are installed, and the instances of them, by name; nothing is imported."""
        return sorted({entry.name for entry in self._installed.entries(kind.group)})

    def driver(self, kind: DriverKind[D], name: str | None = None) -> D:
        """The driver of *kind* called *name* (None: the configured one), loaded, checked and registered once.

        Raises `DriverNotFound` (listing what is installed), `DriverConflict`, `DriverLoadError`,
        `DriverContractError`, or `DriverUnusable` with what this host lacks.
        """
        name = name or self._config.drivers[kind.name]
        found = self._drivers.get((kind.name, name))
        if found is None:
            with self._loading.setdefault((kind.name, name), threading.RLock()):  # one that hangs holds up no other
                found = self._drivers.get((kind.name, name))
                if found is None:
                    found = self._load_recorded(kind, name)
        return cast(D, found)

    def drivers(self, kind: DriverKind[D]) -> dict[str, D]:
        """Those of *kind* that are loaded, by name."""
        return {name: cast(D, driver) for (of, name), driver in list(self._drivers.items()) if of == kind.name}

    async def call(
        self,
        kind: DriverKind[Any],
        name: str | None,
        fn: Callable[..., T],
        *args: Any,
        deadline_s: float | None = CALL_S,
        undo: Callable[[T], object] | None = None,
    ) -> T:
        """What *fn* (a method of that driver) answers, run on its pool; see `Pool.call` for errors and *undo*.

        *deadline_s* None is for streams and waits: no bound, a thread of its own.
        """
        pool = self._pool(kind, name or self._config.drivers[kind.name])
        return await pool.call(fn, *args, deadline_s=deadline_s, undo=undo)

    async def load(self, kind: DriverKind[D], name: str | None = None) -> D:
        """`driver`, without blocking the event loop."""
        return await self.call(kind, name, self.driver, kind, name)

    def close(self) -> None:
        """Every loaded driver is closed, last loaded first; one that fails or hangs is logged. Idle threads end."""
        for (kind, name), driver in reversed(self._drivers.items()):
            closing = threading.Thread(target=_close, args=(driver, f"{kind} driver {name!r}"), daemon=True)
            closing.start()
            closing.join(CLOSE_S)
            if closing.is_alive():
                log.warning("%s driver %r has not closed after %g s and is left behind", kind, name, CLOSE_S)
        for pool in (*self._pools.values(), *self._hooks.values()):
            pool.close()
        self._listeners.close()
        self._drivers.clear()

    def _pool(self, kind: DriverKind[Any], name: str) -> Pool:
        pool = self._pools.get((kind.name, name))
        if pool is None:
            owners = [owner(entry) for entry in self._installed.entries(kind.group) if entry.name == name]
            pool = Pool(f"{kind.name} driver {name!r}", owners[0] if owners else "not installed")
            self._pools[kind.name, name] = pool
        return pool

    def _load_recorded(self, kind: DriverKind[Any], name: str) -> object:
        try:
            driver = self._load(kind, name)
        except PluginError as exc:
            self._failures[kind.name, name] = exc
            raise
        self._failures.pop((kind.name, name), None)
        self._drivers[kind.name, name] = driver
        return driver

    def _load(self, kind: DriverKind[Any], name: str) -> object:
        entry = self._only(kind, name)
        what = f"{kind.name} driver {name!r} from {owner(entry)}"
        try:
            driver = _invoke(kind.group, entry, (self._context(kind.name, name),))
        except DriverUnusable:
            raise
        except Exception as exc:
            raise DriverLoadError(f"{what} failed to load: {type(exc).__name__}: {exc}") from exc
        if not isinstance(driver, kind.protocol):
            missing = sorted(part for part in _members(kind.protocol) if not hasattr(driver, part))
            raise DriverContractError(f"{what} does not implement {kind.protocol.__name__}: no {', '.join(missing)}")
        try:
            driver.check()
        except DriverUnusable:
            raise
        except Exception as exc:
            raise DriverLoadError(f"{what} failed in check: {type(exc).__name__}: {exc}") from exc
        self._register(driver, f"{kind.name}:{name}", owner(entry))
        log.debug("%s chosen (from %s)", what, self._config.origin(f"drivers.{kind.name}"))
        return driver

    def _only(self, kind: DriverKind[Any], name: str) -> EntryPoint:
        entries = self._installed.entries(kind.group)
        found = [entry for entry in entries if entry.name == name]
        configured = name == self._config.drivers[kind.name]
        origin = f" (from {self._config.origin(f'drivers.{kind.name}')})" if configured else ""
        if not found:
            installed = ", ".join(self.names(kind)) or "none"
            driver = self.instances.get((kind.name, name), name)
            of = f" for {name!r}" if driver != name else ""
            raise DriverNotFound(f"no {kind.name} driver named {driver!r}{of}{origin}; installed: {installed}")
        allowed = [entry for entry in found if not self._installed.disabled(kind.name, entry)]
        if not allowed:
            by = self._config.origin("plugins.disabled")
            raise DriverUnusable(f"{kind.name} driver {name!r}{origin} is disabled by {by}")
        if len(allowed) > 1:
            owners = " and ".join(sorted(owner(entry) for entry in allowed))
            raise DriverConflict(
                f"{kind.name} driver {name!r}{origin} is offered by {owners}",
                hint="uninstall one, or name its distribution in plugins.disabled",
            )
        return allowed[0]

    def _context(self, kind: str, name: str) -> DriverContext:
        config = self._config
        # storage/<driver> and volumes are where DESIGN §5 has them: other tools and people look there
        below = {"storage": f"storage/{name}", "volume": "volumes" if name == "local" else f"volumes.{name}"}
        state_dir = config.data_root / below.get(kind, f"drivers/{kind}/{name}")
        run_dir = config.run_root / "drivers" / kind / name
        for folder in (state_dir, run_dir):
            folder.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        options = {k: v for k, v in config.options.get(f"{kind}.{name}", {}).items() if k != "driver"}
        if kind == REGISTRY.name:
            options |= {"registries": config.registries, "proxy": config.proxy, "certs_dir": config.certs_dir}
        return DriverContext(name, state_dir, run_dir, options, config.settings, config.engine_name)

    # --- hooks --------------------------------------------------------

    def load_plugins(self) -> None:
        """The plugins that are no drivers are registered; one that fails is reported and stops no other. Idempotent."""
        with self._lock:
            if self._plugins_loaded or not self._config.plugins.enabled:
                return
            self._plugins_loaded = True
            for entry in self._installed.entries(PLUGINS_GROUP):
                if self._installed.disabled("plugin", entry):
                    continue
                try:
                    self._register(self._make_plugin(entry), f"plugin:{entry.name}", owner(entry))
                except Exception as exc:  # noqa: BLE001  (reported, and logged without its traceback)
                    failure = exc if isinstance(exc, PluginError) else DriverLoadError(f"{type(exc).__name__}: {exc}")
                    self._failures["plugin", entry.name] = failure
                    log.warning("plugin %r from %s is left out: %s", entry.name, owner(entry), failure)

    def _make_plugin(self, entry: EntryPoint) -> object:
        plugin = _invoke(PLUGINS_GROUP, entry, None)
        if not isinstance(plugin, type):
            return plugin
        return plugin(self._context("plugin", entry.name)) if inspect.signature(plugin).parameters else plugin()

    def register(self, plugin: object, name: str) -> None:
        """*plugin*'s hooks take part. Raises `DriverContractError` for an unknown hook or a wrapper round an event."""
        self._register(plugin, name, "registered by the program")

    def notify(self, hook: str, /, **facts: object) -> None:
        """Every plugin is told, in this thread, last registered first; one that raises is logged and stops no other."""
        self._listeners.tell_now(hook, facts)

    def post(self, hook: str, /, **facts: object) -> None:
        """Like `notify`, but never waits: each plugin has a thread, a bounded queue and its events in order."""
        self._listeners.post(hook, facts)

    async def registry_credentials(self, host: str) -> Credentials | None:
        """What the first plugin that knows *host* answers. Raises `PluginError` naming one that fails."""
        answer = await self._ask("scow_registry_credentials", host=host)
        if answer is not None and not isinstance(answer, Credentials):
            raise DriverContractError(f"scow_registry_credentials answered {type(answer).__name__}, not Credentials")
        return answer

    async def spec(self, container_id: str, spec: dict[str, Any], annotations: Mapping[str, str]) -> None:
        """Plugins may have changed *spec* in place. Raises `PluginError` naming one that fails: use *spec* no more."""
        await self._ask("scow_spec", container_id=container_id, spec=spec, annotations=annotations)

    async def _ask(self, hook: str, /, **facts: object) -> object:
        caller: pluggy.HookCaller = getattr(self._pm.hook, hook)
        impls = caller.get_hookimpls()
        if not impls:
            return None

        threads: list[int] = []

        def ask() -> object:
            threads.append(threading.get_ident())
            try:
                return caller(**facts)
            except Exception as exc:
                if isinstance(exc, ScowError) and not isinstance(exc, PluginError):
                    raise
                who = self._named(blame(exc, impls))
                raise PluginError(f"{who} failed in {hook}: {type(exc).__name__}: {exc}") from exc

        ask.__name__ = hook
        pool = self._hooks.get(hook) or self._hooks.setdefault(hook, Pool("hook", "of plugins", size=4))
        try:
            return await pool.call(ask, deadline_s=HOOK_S)
        except Unavailable as exc:
            culprit = threads and running(threads[0], impls)
            if not culprit:
                raise
            raise Unavailable(f"{self._named(culprit)} did not answer in {hook} within {HOOK_S:g} s") from exc

    def _named(self, plugin: str) -> str:
        return f"plugin {plugin!r} ({self._owner_of(plugin)})" if plugin else "a plugin"

    def _register(self, plugin: object, name: str, owned_by: str) -> None:
        with self._lock:
            self._register_locked(plugin, name, owned_by)

    def _register_locked(self, plugin: object, name: str, owned_by: str) -> None:
        try:
            self._pm.register(plugin, name)
            self._pm.check_pending()
            for hook in EVENT_HOOKS:
                for impl in getattr(self._pm.hook, hook).get_hookimpls():
                    if impl.plugin is plugin and (impl.wrapper or impl.hookwrapper):
                        raise DriverContractError(f"{name} ({owned_by}) wraps {hook}: events cannot be wrapped")
        except Exception as exc:
            if self._pm.has_plugin(name):
                self._pm.unregister(name=name)
            if isinstance(exc, PluginError):
                raise
            raise DriverContractError(f"{name} ({owned_by}): {str(exc).splitlines()[-1]}") from exc
        self._owners[name] = owned_by

    def _owner_of(self, name: str) -> str:
        return self._owners.get(name, "unknown")

    # --- what is installed --------------------------------------------

    def report(self) -> list[PluginReport]:
        """Everything that is installed and what became of it; loads nothing."""
        groups = [(kind.name, kind.group) for kind in KINDS]
        groups += [("plugin", PLUGINS_GROUP), ("command", COMMANDS_GROUP)]
        return [line for kind, group in groups for line in self._report_group(kind, self._installed.entries(group))]

    def _report_group(self, kind: str, entries: list[EntryPoint]) -> Iterator[PluginReport]:
        for entry in sorted(entries, key=lambda entry: (entry.name, owner(entry))):
            state, reason = self._state(kind, entry, entries)
            name, _, version = owner(entry).rpartition(" ")
            yield PluginReport(kind, entry.name, name, version, state, reason)

    def _state(self, kind: str, entry: EntryPoint, entries: list[EntryPoint]) -> tuple[str, str]:
        if self._installed.disabled(kind, entry):
            return "unused", f"disabled by {self._config.origin('plugins.disabled')}"
        failure = self._failures.get((kind, entry.name))
        if failure is not None:
            return ("unusable" if isinstance(failure, DriverUnusable) else "failed"), str(failure)
        pool = self._pools.get((kind, entry.name))
        if pool is not None and pool.broken:
            return "failed", pool.broken
        rivals = [other for other in entries if other.name == entry.name and not self._installed.disabled(kind, other)]
        if len(rivals) > 1:
            return "failed", "offered by " + " and ".join(sorted(owner(rival) for rival in rivals))
        if kind == "plugin" and not self._config.plugins.enabled:
            return "unused", f"disabled by {self._config.origin('plugins.enabled')}"
        loaded = (kind, entry.name) in self._drivers or f"plugin:{entry.name}" in self._owners
        return ("ready" if loaded else "unused"), ""


def _close(driver: Any, what: str) -> None:
    try:
        driver.close()
    except Exception:
        log.exception("%s did not close", what)


def _members(protocol: type[Any]) -> Iterator[str]:
    for part in protocol.__mro__:
        if getattr(part, "_is_protocol", False):
            yield from (name for name in (*vars(part), *part.__annotations__) if not name.startswith("_"))


_stevedore = threading.Lock()  # its list of entry points belongs to the class


def _invoke(group: str, entry: EntryPoint, args: tuple[Any, ...] | None) -> Any:
    """What *entry* names: called with *args*, or (None) as it is."""
    from stevedore.driver import DriverManager  # 30 ms: only paid when a driver is needed
    from stevedore.extension import ExtensionManager

    with _stevedore:
        # A fresh list in this process: the cache that stevedore keeps on disk goes stale (its keys round file times
        # to 128 s) and lies where an unprivileged user may write.
        ExtensionManager.ENTRY_POINT_CACHE[group] = [entry]
        manager: Any = DriverManager(group, entry.name, invoke_on_load=args is not None, invoke_args=args or ())
    extension = manager.extensions[0]
    if args is not None:
        return extension.obj  # not manager.driver: it answers the class where obj is falsy
    return extension.plugin


def _trace_before(hook_name: str, hook_impls: object, kwargs: Mapping[str, object]) -> None:
    print(f"hook {hook_name} called with {', '.join(kwargs)}", file=sys.stderr)  # noqa: T201


def _trace_after(outcome: object, hook_name: str, hook_impls: object, kwargs: object) -> None:
    print(f"hook {hook_name} returned {getattr(outcome, '_result', None)!r:.200}", file=sys.stderr)  # noqa: T201
