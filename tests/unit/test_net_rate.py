"""Rates of containers' network traffic in the engine, over the API and in the command line, on drivers in memory."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from scow.cli.main import root
from scow.engine.engine import Engine
from scow.errors import InvalidArgument, Unavailable, Unsupported
from scow.ports import NETWORK
from scow.ports.network import Rates
from scow.testing.fakes_daemon import FakeDaemon
from scow.testing.fakes_network import FakeShapingDriver
from tests.unit.api_client import Client
from tests.unit.cli_server import Reply, serve
from tests.unit.test_engine import import_image, request, running_engine, with_engine

ANNOTATION = "scow.net-rate"


async def run(engine: Engine, **host: Any) -> str:
    """A container in the network ``bridge`` that sleeps."""
    body = request("sleep", "60", network_mode="bridge", **host)
    id, _ = await engine.containers.create(body)
    await engine.containers.start(id)
    return id


def bridge(engine: Engine) -> FakeShapingDriver:
    driver = engine.containers.drivers.get(NETWORK, "bridge")
    assert isinstance(driver, FakeShapingDriver)
    return driver


def held(engine: Engine) -> list[Rates]:
    return list(bridge(engine).shaped.values())


def test_a_rate_is_held_from_the_start_on_and_again_after_a_restart(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        id = await run(engine, annotations={ANNOTATION: "in=10mbit"})
        assert held(engine) == [Rates(in_bits=10_000_000)]
        await engine.containers.restart(id, 0)
        assert held(engine) == [Rates(in_bits=10_000_000)]
        await engine.containers.stop(id, 0)
        await engine.containers.live(id).settled()
        assert held(engine) == []

    with_engine(tmp_path, test)


def test_a_container_without_a_rate_costs_the_driver_nothing(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        await run(engine)
        assert "shape" not in [name for name, _ in bridge(engine).calls]

    with_engine(tmp_path, test)


def test_a_rate_that_the_driver_refuses_fails_the_start_and_leaves_nothing_attached(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        bridge(engine).refuse = Unsupported("this kernel has no token bucket")
        with pytest.raises(Unsupported, match="token bucket"):
            await run(engine, annotations={ANNOTATION: "in=10mbit"})
        assert bridge(engine).attached == {}

    with_engine(tmp_path, test)


def test_a_change_holds_at_once_and_is_kept_and_shown(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        id = await run(engine, annotations={ANNOTATION: "in=10mbit"})
        assert await engine.containers.set_net_rate(id, "out=1mbit") == Rates(10_000_000, 1_000_000)
        assert held(engine) == [Rates(10_000_000, 1_000_000)]
        record = engine.containers.get(id)
        assert record.host_config.annotations[ANNOTATION] == "in=10mbit,out=1mbit"
        await engine.containers.restart(id, 0)
        assert held(engine) == [Rates(10_000_000, 1_000_000)]

    with_engine(tmp_path, test)


def test_a_change_that_the_driver_refuses_leaves_all_as_it_was(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        id = await run(engine, annotations={ANNOTATION: "in=10mbit"})
        bridge(engine).refuse = Unavailable("no")
        with pytest.raises(Unavailable):
            await engine.containers.set_net_rate(id, "in=20mbit")
        assert held(engine) == [Rates(in_bits=10_000_000)]
        assert engine.containers.get(id).options.net_rate == Rates(in_bits=10_000_000)

    with_engine(tmp_path, test)


def test_a_container_that_does_not_run_is_changed_for_its_next_start(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        id, _ = await engine.containers.create(request("sleep", "60", network_mode="bridge"))
        await engine.containers.set_net_rate(id, "in=1mbit")
        assert held(engine) == []
        await engine.containers.start(id)
        assert held(engine) == [Rates(in_bits=1_000_000)]

    with_engine(tmp_path, test)


@pytest.mark.parametrize(
    ("mode", "error", "message"),
    [
        ("host", InvalidArgument, "the host's own interfaces"),
        ("none", Unsupported, "driver 'none' of network none cannot limit rates"),
        ("container:other", InvalidArgument, "in the network of another"),
    ],
)
def test_a_network_that_cannot_hold_a_rate_refuses_it(
    tmp_path: Path, mode: str, error: type[Exception], message: str
) -> None:
    async def test(engine: Engine) -> None:
        with pytest.raises(error, match=message):
            await engine.containers.create(request("true", network_mode=mode, annotations={ANNOTATION: "in=1mbit"}))
        id, _ = await engine.containers.create(request("true", network_mode=mode, annotations={ANNOTATION: "off"}))
        with pytest.raises(error, match=message):
            await engine.containers.set_net_rate(id, "in=1mbit")
        assert await engine.containers.set_net_rate(id, "off") == Rates()

    with_engine(tmp_path, test)


def test_a_daemon_that_starts_again_holds_the_rates_of_what_runs(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_engine(tmp_path) as engine:
            await import_image(engine)
            await run(engine, annotations={ANNOTATION: "in=10mbit"})
        async with running_engine(tmp_path) as engine:
            assert held(engine) == [Rates(in_bits=10_000_000)]
            assert engine.repaired == []
            for record in engine.containers.records():
                await engine.containers.remove(record.id, force=True)

    asyncio.run(main())


def test_the_api_takes_the_sides_that_are_named_and_answers_both(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path) as daemon:
        client = Client(daemon)
        container = client.create(name="a")
        path = f"/scow/v1/containers/{container}/net-rate"
        assert client.post(path, {"Rate": "in=10mbit"}).json == {"Rate": "in=10mbit"}
        assert client.post(path, {"Rate": "out=1mbit"}).json == {"Rate": "in=10mbit,out=1mbit"}
        assert client.post(path, {"Rate": "off"}).json == {"Rate": "off"}
        assert client.post(path, {"Rate": ""}).status == 400
        assert client.post("/scow/v1/containers/nobody/net-rate", {"Rate": "off"}).status == 404


def scow(tmp_path: Path, *words: str) -> tuple[Result, list[tuple[str, Any]]]:
    """The result of the command line, and the posts that an engine got from it."""
    with serve(tmp_path / str(len(words))) as engine:
        engine.on("POST", "/containers/create", Reply(201, {"Id": "c" * 64, "Warnings": []}))
        engine.on("POST", "/containers/[^/]+/update", {"Warnings": []})
        engine.on("POST", "/scow/v1/containers/[^/]+/net-rate", {"Rate": ""})
        result = CliRunner().invoke(root, ["-H", engine.host, *words])
        return result, [(r.path, json.loads(r.body)) for r in engine.requests if r.method == "POST"]


def test_the_flag_of_create_is_sent_as_the_annotation_and_counts_more_than_one(tmp_path: Path) -> None:
    words = "create --annotation scow.net-rate=in=1mbit --annotation a=b --net-rate in=2mbit busybox"
    _, ((_, body),) = scow(tmp_path, *words.split())
    assert body["HostConfig"]["Annotations"] == {"a": "b", ANNOTATION: "in=2mbit"}


def test_update_sends_the_rate_by_itself_or_after_the_limits(tmp_path: Path) -> None:
    result, posts = scow(tmp_path, "update", "--net-rate", "in=2mbit", "web")
    assert (result.exit_code, result.output) == (0, "web\n")
    assert posts == [("/scow/v1/containers/web/net-rate", {"Rate": "in=2mbit"})]
    _, posts = scow(tmp_path, "update", "--net-rate", "off", "--pids-limit", "5", "web")
    assert [path for path, _ in posts] == ["/containers/web/update", "/scow/v1/containers/web/net-rate"]
