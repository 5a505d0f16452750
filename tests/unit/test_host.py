from __future__ import annotations

import asyncio
import sys
import threading
from dataclasses import replace
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
    InvalidArgument,
    PluginError,
    Unavailable,
)
from scow.host import PluginHost, PluginReport
from scow.installed import PLUGINS_GROUP, owner
from scow.ports import VOLUME
from scow.ports.volume import Volume
from tests.unit.host_kit import CLOSED, Volumes, entry, make


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(data_root=tmp_path / "data", run_root=tmp_path / "run")


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


def test_stevedores_stale_cache_cannot_hide_a_plugin(config: Config) -> None:
    from stevedore.extension import ExtensionManager

    ExtensionManager.ENTRY_POINT_CACHE[VOLUME.group] = []
    assert make(config, entry("local", "Volumes")).driver(VOLUME) is not None


def test_installed_plugins_are_found_with_their_distributions(config: Config) -> None:
    lines = PluginHost(config).report()
    assert ("storage", "overlay", "scow-storage-overlay") in {line[:3] for line in lines}
    assert owner(entry("x", "Volumes")) == "scow-test 1.2"


def test_an_instance_is_its_driver_with_a_name_options_and_folders_of_its_own(config: Config) -> None:
    options: dict[str, dict[str, Any]] = {
        "volume.fast": {"driver": "local", "size": 3},
        "volume.local": {"size": 1},
        "volume.odd": {"driver": "x"},
    }
    config = replace(config, options=options)
    host = make(config, entry("local", "Volumes"))
    assert host.names(VOLUME) == ["fast", "local"]
    fast, local = host.driver(VOLUME, "fast"), host.driver(VOLUME, "local")
    assert isinstance(fast, Volumes) and isinstance(local, Volumes)
    assert (fast.context.name, fast.context.options, local.context.options) == ("fast", {"size": 3}, {"size": 1})
    assert fast.context.state_dir != local.context.state_dir
    assert [(line.name, line.distribution, line.state) for line in host.report()] == [
        ("fast", "scow-test", "ready"),
        ("local", "scow-test", "ready"),
    ]
    with pytest.raises(DriverNotFound, match="^no volume driver named 'x' for 'odd'; installed: fast, local$"):
        host.driver(VOLUME, "odd")


def test_an_instance_of_what_is_no_name_is_refused(config: Config) -> None:
    config = replace(config, options={"volume.fast": {"driver": 3}})
    with pytest.raises(InvalidArgument, match=r"^options.volume.fast.driver \(from default\): expected the name of a"):
        make(config)


def test_an_instance_may_have_the_name_of_another_driver(config: Config) -> None:
    config = replace(config, options={"volume.nfs": {"driver": "local"}})
    driver = make(config, entry("local", "Volumes"), entry("nfs", "Failing")).driver(VOLUME, "nfs")
    assert isinstance(driver, Volumes) and driver.context.name == "nfs"
