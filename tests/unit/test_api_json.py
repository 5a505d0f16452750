"""Times and states in Docker's words."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scow.api.inspect import container_config, status_text
from scow.api.times import human_duration, rfc3339
from scow.engine.model import ContainerState
from scow.engine.system import engine_id, os_release, without_password
from scow.types import ContainerConfig

NOW = 1_700_000_000 * 10**9
MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"),
        (1.9, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (2 * MINUTE, "2 minutes"),
        (45 * MINUTE, "45 minutes"),
        (59 * MINUTE, "59 minutes"),
        (HOUR, "About an hour"),
        (1.6 * HOUR, "2 hours"),
        (47 * HOUR, "47 hours"),
        (2 * DAY, "2 days"),
        (13 * DAY, "13 days"),
        (14 * DAY, "2 weeks"),
        (59 * DAY, "8 weeks"),
        (60 * DAY, "2 months"),
        (364 * DAY, "12 months"),
        (730 * DAY, "2 years"),
    ],
)
def test_durations_are_worded_as_by_docker(seconds: float, text: str) -> None:
    # docker/go-units duration_test.go
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "0001-01-01T00:00:00Z"),
        (NOW, "2023-11-14T22:13:20Z"),
        (NOW + 500_000_000, "2023-11-14T22:13:20.5Z"),
        (NOW + 1, "2023-11-14T22:13:20.000000001Z"),
    ],
)
def test_times_are_written_as_go_does(time_ns: int, text: str) -> None:
    assert rfc3339(time_ns) == text


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (ContainerState(), "Created"),
        (ContainerState(status="running", started_ns=NOW - 5 * 10**9), "Up 5 seconds"),
        (ContainerState(status="paused", started_ns=NOW - 120 * 10**9), "Up 2 minutes (Paused)"),
        (ContainerState(status="exited", finished_ns=NOW - 180 * 10**9), "Exited (0) 3 minutes ago"),
        (ContainerState(status="restarting", exit_code=1, finished_ns=NOW - 10**9), "Restarting (1) 1 second ago"),
        (ContainerState(status="removing"), "Removal In Progress"),
        (ContainerState(status="dead"), "Dead"),
        (ContainerState(status="running", started_ns=NOW + 10**9), "Up Less than a second"),
    ],
)
def test_status_is_worded_as_by_docker(state: ContainerState, text: str) -> None:
    assert status_text(state, NOW) == text


def test_os_release_is_read_with_and_without_quotes() -> None:
    text = "# comment\nNAME=\"Debian\"\nVERSION_ID='12'\nPRETTY_NAME=Plain\n\n"
    assert os_release(text) == {"NAME": "Debian", "VERSION_ID": "12", "PRETTY_NAME": "Plain"}


def test_the_id_of_an_engine_is_made_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(engine_id, [tmp_path] * 32))
    assert len(ids) == 1
    assert os.listdir(tmp_path) == ["engine-id"]


def test_what_a_config_does_not_say_is_absent_but_a_timeout_of_zero_is_said() -> None:
    value = container_config(ContainerConfig(stop_timeout=0, exposed_ports={}))
    assert value["StopTimeout"] == 0
    assert not {"ExposedPorts", "Healthcheck", "ArgsEscaped", "StopSignal", "Shell"} & value.keys()
    assert value["Volumes"] is None


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        ("http://user:p@ss@proxy:3128", "http://xxxxx:xxxxx@proxy:3128"),
        ("user:pass@proxy:3128", "xxxxx:xxxxx@proxy:3128"),
        ("http://proxy:3128", "http://proxy:3128"),
        ("", ""),
    ],
)
def test_a_proxys_password_is_not_shown(proxy: str, shown: str) -> None:
    assert without_password(proxy) == shown
