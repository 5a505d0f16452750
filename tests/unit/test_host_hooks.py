"""The hooks of plugins that are no drivers: loaded each for itself, called within bounds, named when they fail."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scow import host as host_module
from scow.config import Config, PluginsConfig
from scow.errors import (
    DriverContractError,
    PluginError,
    Unauthorized,
    Unavailable,
)
from scow.hookspecs import hookimpl
from scow.installed import PLUGINS_GROUP
from scow.ports import VOLUME
from scow.ports.registry import Credentials
from tests.unit.host_kit import Configured, Listening, entry, make


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(data_root=tmp_path / "data", run_root=tmp_path / "run")


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


def test_a_plugin_that_takes_a_context_is_given_its_options(config: Config) -> None:
    Configured.made_with.clear()
    host = make(
        replace(config, options={"plugin.vault": {"path": "/v"}}),
        plugins=(entry("vault", "Configured", group=PLUGINS_GROUP),),
    )
    host.load_plugins()
    (context,) = Configured.made_with
    assert (context.name, dict(context.options), context.state_dir.is_dir()) == ("vault", {"path": "/v"}, True)


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
