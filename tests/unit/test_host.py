from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from typing import Any

import pytest

from scow import host as host_module
from scow.config import Config, PluginsConfig
from scow.errors import (
    DriverConflict,
    DriverContractError,
    DriverLoadError,
    DriverNotFound,
    DriverUnusable,
    PluginError,
    Unauthorized,
    Unavailable,
)
from scow.hookspecs import hookimpl
from scow.host import PluginHost, PluginReport
from scow.installed import PLUGINS_GROUP, owner
from scow.ports import VOLUME, DriverContext
from scow.ports.registry import Credentials
from scow.ports.volume import Volume

CLOSED: list[str] = []


class Volumes:
    """A driver that is falsy, as an empty container is."""

    scope = "local"

    def __init__(self, context: DriverContext) -> None:
        self.context = context

    def __len__(self) -> int:
        return 0

    def check(self) -> None: ...

    def create(self, name: str, options: Any, labels: Any) -> Volume:
        return Volume(name, f"/{name}")

    def get(self, name: str) -> Volume:
        raise LookupError(name)

    def list(self) -> list[Volume]:
        return []

    def mount(self, name: str, holder: str) -> Path:
        return Path("/")

    def unmount(self, name: str, holder: str) -> None: ...

    def remove(self, name: str) -> None: ...

    def close(self) -> None:
        CLOSED.append(self.context.name)

    @hookimpl
    def scow_registry_credentials(self, host: str) -> Credentials | None:
        return Credentials("driver") if host == "driver.example.com" else None


class Unusable(Volumes):
    def check(self) -> None:
        raise DriverUnusable("this kernel has no floppy disks", hint="modprobe floppy")


class Failing(Volumes):
    def __init__(self, context: DriverContext) -> None:
        raise ValueError("no such option")


class Incomplete:
    scope = "local"

    def __init__(self, context: DriverContext) -> None: ...

    def check(self) -> None: ...


class Listening:
    told: list[str] = []

    @hookimpl
    def scow_event(self, action: str) -> None:
        self.told.append(action)


class Mistyped:
    @hookimpl
    def scow_evnt(self) -> None: ...


class Wrapping:
    @hookimpl(wrapper=True)
    def scow_event(self) -> Iterator[None]:
        yield


class _Dist(Distribution):
    def __init__(self, name: str) -> None:
        self._name = name

    def read_text(self, filename: str) -> str | None:
        return f"Name: {self._name}\nVersion: 1.2\n" if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        return path


def entry(name: str, what: str, dist: str = "scow-test", group: str = VOLUME.group) -> EntryPoint:
    found = EntryPoint(name, what if ":" in what else f"{__name__}:{what}", group)
    vars(found)["dist"] = _Dist(dist)
    return found


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(data_root=tmp_path / "data", run_root=tmp_path / "run")


def make(config: Config, *entries: EntryPoint, plugins: tuple[EntryPoint, ...] = ()) -> PluginHost:
    return PluginHost(config, {VOLUME.group: list(entries), PLUGINS_GROUP: list(plugins)})


def test_the_configured_driver_is_loaded_once_with_its_context(config: Config) -> None:
    config = replace(config, options={"volume.local": {"size": 3}}, bridge_name="br9")
    host = make(config, entry("local", "Volumes"))
    driver = host.driver(VOLUME)
    assert isinstance(driver, Volumes)
    assert host.driver(VOLUME, "local") is driver
    assert driver.context.options == {"size": 3}
    assert driver.context.settings["bridge"] == "br9"
    assert driver.context.state_dir == config.data_root / "volumes"
    assert driver.context.state_dir.stat().st_mode & 0o777 == 0o700
    assert driver.context.run_dir.is_dir()


def test_unknown_name_lists_what_is_installed_and_where_the_name_came_from(config: Config) -> None:
    config = replace(
        config, drivers={**config.drivers, "volume": "zfs"}, origins={"drivers.volume": "SCOW_VOLUME_DRIVER"}
    )
    host = make(config, entry("nfs", "Volumes"), entry("local", "Volumes"))
    with pytest.raises(DriverNotFound) as caught:
        host.driver(VOLUME)
    assert str(caught.value) == "no volume driver named 'zfs' (from SCOW_VOLUME_DRIVER); installed: local, nfs"
    with pytest.raises(DriverNotFound, match=r"^no volume driver named 'x'; installed: none$"):
        make(config).driver(VOLUME, "x")


def test_a_conflict_names_both_distributions_and_can_be_settled(config: Config) -> None:
    entries = entry("local", "Volumes", "scow-a"), entry("local", "missing_module:X", "scow-b")
    with pytest.raises(DriverConflict, match=r"'local' \(from default\) is offered by scow-a 1.2 and scow-b 1.2"):
        make(config, *entries).driver(VOLUME)
    settled = replace(config, plugins=PluginsConfig(disabled=("Scow_B",)))
    assert make(settled, *entries).driver(VOLUME) is not None


def test_a_driver_that_fails_names_its_distribution(config: Config) -> None:
    host = make(
        config, entry("a", "Failing"), entry("b", "missing_module:X"), entry("c", "Incomplete"), entry("d", "No")
    )
    with pytest.raises(
        DriverLoadError, match="volume driver 'a' from scow-test 1.2 failed to load: ValueError: no such"
    ):
        host.driver(VOLUME, "a")
    with pytest.raises(DriverLoadError, match="'b' from scow-test 1.2 failed to load: ModuleNotFoundError"):
        host.driver(VOLUME, "b")
    with pytest.raises(DriverContractError, match="does not implement VolumeDriver: no close, create, get, list"):
        host.driver(VOLUME, "c")
    with pytest.raises(DriverLoadError, match="AttributeError"):
        host.driver(VOLUME, "d")


def test_an_unusable_driver_is_told_from_a_failed_one(config: Config) -> None:
    host = make(
        config, entry("local", "Unusable"), entry("bad", "Failing"), entry("nfs", "Volumes"), entry("x", "Volumes")
    )
    for name in ("local", "bad"):
        with pytest.raises(PluginError):
            host.driver(VOLUME, name)
    host.driver(VOLUME, "nfs")
    states = {line.name: (line.state, line.reason) for line in host.report()}
    assert states["local"] == ("unusable", "this kernel has no floppy disks")
    assert states["bad"][0] == "failed"
    assert "ValueError" in states["bad"][1]
    assert states["nfs"] == ("ready", "")
    assert states["x"] == ("unused", "")


def test_the_report_imports_nothing(config: Config) -> None:
    host = make(
        config, entry("local", "scow_never_imported:X"), plugins=(entry("p", "Listening", group=PLUGINS_GROUP),)
    )
    assert host.report() == [
        PluginReport("volume", "local", "scow-test", "1.2", "unused"),
        PluginReport("plugin", "p", "scow-test", "1.2", "unused"),
    ]
    assert "scow_never_imported" not in sys.modules


@pytest.mark.parametrize("rule", ["scow-test", "local", "volume:local"])
def test_a_disabled_driver_says_by_what(config: Config, rule: str) -> None:
    config = replace(
        config, plugins=PluginsConfig(disabled=(rule,)), origins={"plugins.disabled": "SCOW_DISABLED_PLUGINS"}
    )
    host = make(config, entry("local", "Volumes"))
    with pytest.raises(DriverUnusable, match="'local' .* is disabled by SCOW_DISABLED_PLUGINS"):
        host.driver(VOLUME)
    assert host.report()[0][-2:] == ("unused", "disabled by SCOW_DISABLED_PLUGINS")


def test_plugins_are_loaded_each_for_itself(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    Listening.told.clear()
    plugins = [
        entry(name, what, group=PLUGINS_GROUP)
        for name, what in (("broken", "missing:X"), ("ears", "Listening"), ("typo", "Mistyped"), ("wrap", "Wrapping"))
    ]
    host = make(config, plugins=tuple(plugins))
    host.load_plugins()
    host.load_plugins()
    host.notify("scow_event", type="container", action="start", actor_id="c", attributes={}, time_ns=1)
    assert Listening.told == ["start"]
    states = {line.name: (line.state, line.reason) for line in host.report()}
    assert states["ears"] == ("ready", "")
    assert states["broken"][0] == "failed"
    assert "scow_evnt" in states["typo"][1]
    assert "events cannot be wrapped" in states["wrap"][1]
    assert "plugin 'broken' from scow-test 1.2 is left out" in caplog.text


def test_no_plugins_means_none_but_drivers(config: Config) -> None:
    config = replace(config, plugins=PluginsConfig(enabled=False), origins={"plugins.enabled": "SCOW_NO_PLUGINS"})
    host = make(config, entry("local", "Volumes"), plugins=(entry("ears", "Listening", group=PLUGINS_GROUP),))
    host.load_plugins()
    host.driver(VOLUME)
    assert [line[-2:] for line in host.report()] == [("ready", ""), ("unused", "disabled by SCOW_NO_PLUGINS")]


def test_a_listener_that_raises_stops_no_other(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        @hookimpl
        def scow_event(self) -> None:
            raise ZeroDivisionError

    Listening.told.clear()
    host = make(config)
    host.register(Listening(), "ears")
    host.register(Broken(), "broken")
    host.notify("scow_event", type="t", action="a", actor_id="", attributes={}, time_ns=1)
    assert Listening.told == ["a"]
    assert "plugin broken (registered by the program) failed in scow_event" in caplog.text


def test_a_listener_that_hangs_holds_up_nobody(
    config: Config, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, done = threading.Event(), threading.Event()
    told: list[str] = []

    class Hanging:
        @hookimpl
        def scow_event(self) -> None:
            gate.wait(10)

    class Quick:
        @hookimpl
        def scow_event(self, action: str) -> None:
            told.append(action)
            if action == "99":
                done.set()

    monkeypatch.setattr("scow.hook_calls.QUEUE", 10)
    host = make(config)
    host.register(Hanging(), "hanging")
    for n in range(50):
        host.post("scow_event", type="t", action=str(n), actor_id="", attributes={}, time_ns=1)
    assert "plugin hanging (registered by the program) has been in scow_event for" in caplog.text
    assert "misses events" in caplog.text
    monkeypatch.setattr("scow.hook_calls.QUEUE", 1000)
    host.register(Quick(), "quick")
    for n in range(100):
        host.post("scow_event", type="t", action=str(n), actor_id="", attributes={}, time_ns=1)
    assert done.wait(10)
    assert told == [str(n) for n in range(100)]
    gate.set()
    host.close()


def test_the_first_credentials_win_and_drivers_take_part(config: Config) -> None:
    class Secrets:
        @hookimpl
        def scow_registry_credentials(self, host: str) -> Credentials | None:
            return Credentials("reader", "secret") if host == "a.example.com" else None

    async def run() -> None:
        host = make(config, entry("local", "Volumes"))
        assert await host.registry_credentials("a.example.com") is None
        host.register(Secrets(), "secrets")
        host.driver(VOLUME)
        assert await host.registry_credentials("a.example.com") == Credentials("reader", "secret")
        assert await host.registry_credentials("driver.example.com") == Credentials("driver")
        assert await host.registry_credentials("b.example.com") is None
        host.close()

    asyncio.run(run())


def test_a_failing_hook_is_named(config: Config) -> None:
    class Broken:
        @hookimpl
        def scow_registry_credentials(self, host: str) -> Any:
            if host == "typed":
                return ("user", "password")
            if host == "refused":
                raise Unauthorized("the vault is locked")
            return self.missing  # type: ignore[attr-defined]

        @hookimpl
        def scow_spec(self, spec: dict[str, Any]) -> None:
            spec["x"] = spec["missing"]

    async def run() -> None:
        host = make(config)
        host.register(Broken(), "broken")
        with pytest.raises(PluginError, match=r"plugin 'broken' \(registered by the program\) failed in scow_registry"):
            await host.registry_credentials("a")
        with pytest.raises(DriverContractError, match="answered tuple, not Credentials"):
            await host.registry_credentials("typed")
        with pytest.raises(Unauthorized):
            await host.registry_credentials("refused")
        with pytest.raises(PluginError, match="'broken' .* failed in scow_spec: KeyError"):
            await host.spec("c", {}, {})
        host.close()

    asyncio.run(run())


def test_a_hook_that_hangs_is_named_and_stops_no_other_hook(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    class Hanging:
        @hookimpl
        def scow_spec(self) -> None:
            gate.wait(10)

        @hookimpl
        def scow_registry_credentials(self) -> Credentials:
            return Credentials("reader")

    async def run() -> None:
        host = make(config)
        host.register(Hanging(), "hanging")
        with pytest.raises(Unavailable, match=r"'hanging' \(registered .*\) did not answer in scow_spec within 0.02 s"):
            await host.spec("c", {}, {})
        assert await host.registry_credentials("any") == Credentials("reader")
        gate.set()
        host.close()

    monkeypatch.setattr(host_module, "HOOK_S", 0.02)
    asyncio.run(run())


def test_a_driver_that_does_not_close_is_left_behind(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(host_module, "CLOSE_S", 0.02)
    host = make(config, entry("local", "Volumes"), entry("bad", "Volumes"))
    vars(host.driver(VOLUME, "local"))["close"] = lambda: gate.wait(10)
    vars(host.driver(VOLUME, "bad"))["close"] = lambda: 1 / 0
    host.close()
    gate.set()
    assert "volume driver 'local' has not closed after 0.02 s" in caplog.text
    assert "volume driver 'bad' did not close" in caplog.text


def test_a_spec_is_changed_in_place_and_wrappers_work(config: Config) -> None:
    class Zone:
        @hookimpl
        def scow_spec(self, spec: dict[str, Any]) -> None:
            spec["env"].append("TZ=UTC")

    class Around:
        @hookimpl(wrapper=True)
        def scow_spec(self, spec: dict[str, Any]) -> Iterator[None]:
            yield
            spec["env"].append("LAST=1")

    async def run() -> None:
        host = make(config)
        spec: dict[str, Any] = {"env": []}
        await host.spec("c", spec, {})
        assert spec == {"env": []}
        host.register(Zone(), "zone")
        host.register(Around(), "around")
        await host.spec("c", spec, {})
        assert spec == {"env": ["TZ=UTC", "LAST=1"]}
        host.close()

    asyncio.run(run())


def test_driver_calls_are_contained_and_named(config: Config) -> None:
    gate = threading.Event()

    async def run() -> None:
        host = make(config, entry("local", "Volumes"))
        driver = await host.load(VOLUME)
        made = await host.call(VOLUME, None, driver.create, "data", {}, {})
        assert made == Volume("data", "/data")
        with pytest.raises(PluginError, match=r"volume driver 'local' \(scow-test 1.2\) in get failed: LookupError: x"):
            await host.call(VOLUME, None, driver.get, "x")
        with pytest.raises(Unavailable, match="did not answer within 0.01 s"):
            await host.call(VOLUME, None, gate.wait, 10, deadline_s=0.01)
        [line] = host.report()
        assert (line.state, line.reason[:22]) == ("failed", "wait has not returned ")
        gate.set()
        host.close()

    asyncio.run(run())


def test_close_closes_every_loaded_driver(config: Config) -> None:
    CLOSED.clear()
    host = make(config, entry("local", "Volumes"), entry("nfs", "Volumes"))
    host.driver(VOLUME, "local")
    host.driver(VOLUME, "nfs")
    host.close()
    assert CLOSED == ["nfs", "local"]


def test_hook_calls_are_traced_on_request(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        host = make(replace(config, trace_hooks=True), entry("local", "Volumes"))
        host.driver(VOLUME)
        await host.registry_credentials("driver.example.com")
        host.close()

    asyncio.run(run())
    printed = capsys.readouterr().err
    assert "hook scow_registry_credentials called with host" in printed
    assert "hook scow_registry_credentials returned Credentials(username='driver')" in printed


def test_stevedores_stale_cache_cannot_hide_a_plugin(config: Config) -> None:
    from stevedore.extension import ExtensionManager

    ExtensionManager.ENTRY_POINT_CACHE[VOLUME.group] = []
    assert make(config, entry("local", "Volumes")).driver(VOLUME) is not None


def test_installed_plugins_are_found_with_their_distributions(config: Config) -> None:
    lines = PluginHost(config).report()
    assert ("storage", "overlay", "scow-storage-overlay") in {line[:3] for line in lines}
    assert owner(entry("x", "Volumes")) == "scow-test 1.2"
