"""User namespaces without root: ranges of ids, who gets them, the spec and the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scow.cli import mounts as cli_mounts
from scow.config import load
from scow.engine import spec as specs
from scow.engine.engine import Engine
from scow.engine.id_ranges import BUILT_IN, IdRange, IdRanges, read_pools
from scow.engine.model import MountPoint
from scow.engine.mounts import parse_bind
from scow.errors import Conflict, InvalidArgument, Unavailable, Unsupported
from scow.linux import capabilities
from scow.linux import syscalls as sys_
from scow.ports import DriverContext, Mount
from scow.ports.runtime import RuntimeInfo
from scow.testing.fakes_runtime import FakeRuntime
from scow.testing.runtime import record
from scow.types import HostConfig
from scow_runtime_native import idmap
from scow_runtime_native.plan import container_plan, mount_plan, process_plan
from scow_runtime_native.plan_userns import layers_folder
from tests.unit.test_engine import request, with_engine

IDS = IdRange(uid=300000, gid=400000, size=65536)
NONE = Path("/nonexistent")


def pools(folder: Path, uids: str, gids: str) -> tuple[Path, Path]:
    files = folder / "subuid", folder / "subgid"
    for file, text in zip(files, (uids, gids), strict=True):
        file.write_text(text)
    return files


# ---------------------------------------------------------------- ranges


def test_ranges_come_from_the_lines_of_one_user(tmp_path: Path) -> None:
    files = pools(tmp_path, "root:1:9\nscow:1000:25\nscow:5000:10\n", "scow:7000:100\n")
    ranges = IdRanges(10, "scow", *files)
    got = [ranges.allocate(name) for name in "abc"]
    assert [(ids.uid, ids.gid) for ids in got] == [(1000, 7000), (1010, 7010), (5000, 7020)]
    with pytest.raises(Unavailable, match="no range of 10 uids is left.* 3 containers have theirs") as caught:
        ranges.allocate("d")
    assert "/etc/subuid" in str(caught.value.hint)


def test_a_range_is_free_again_after_its_release_and_only_then(tmp_path: Path) -> None:
    ranges = IdRanges(10, "scow", *pools(tmp_path, "scow:1000:20\n", "scow:1000:20\n"))
    first = ranges.allocate("a")
    assert ranges.allocate("b") != first
    ranges.release("a")
    assert ranges.allocate("c") == first


def test_ranges_of_another_size_are_not_overlapped(tmp_path: Path) -> None:
    ranges = IdRanges(10, "scow", *pools(tmp_path, "scow:1000:100\n", "scow:1000:100\n"))
    ranges.hold("old", IdRange(uid=1005, gid=1000, size=20))
    ids = ranges.allocate("new")
    assert (ids.uid, ids.gid) == (1025, 1020)


def test_a_shared_range_is_held_until_its_last_container_goes(tmp_path: Path) -> None:
    ranges = IdRanges(10, "scow", *pools(tmp_path, "scow:1000:20\n", "scow:1000:20\n"))
    ids = ranges.allocate("a")
    shared = ranges.share("b", "a", ids)
    assert (shared.uid, shared.shared_with) == (ids.uid, "a")
    assert ranges.share("c", "b", shared).shared_with == "a"
    ranges.release("a")
    assert ranges.allocate("d").uid == 1010


def test_without_lines_the_built_in_pool_is_used_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    ranges = IdRanges(65536, "scow", NONE, NONE)
    assert ranges.allocate("a").uid == BUILT_IN[0].start == 0x70000000
    assert ranges.allocate("b").uid == BUILT_IN[0].start + 65536
    assert caplog.text.count("user scow has no lines in /etc/subuid") == 1


def test_lines_that_make_no_sense_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "subuid"
    file.write_text("scow:x:5\nscow:0:10\nscow:4294967290:100\nscow\n# scow\nscow:100:5\n")
    assert [tuple(pool) for pool in read_pools(file, "scow")] == [(100, 5)]
    assert caplog.text.count("is no range of ids") == 4


# ---------------------------------------------------------------- the engine


def test_a_container_keeps_its_ids_and_gives_them_back_when_it_is_removed(tmp_path: Path) -> None:
    async def steps(engine: Engine) -> None:
        containers = engine.containers
        containers.ids = IdRanges(10, "scow", *pools(tmp_path, "scow:1000:20\n", "scow:1000:20\n"))
        first, _ = await containers.create(request("true", userns_mode="auto"))
        second, _ = await containers.create(request("true", userns_mode="auto"))
        plain, _ = await containers.create(request("true"))
        kept = [containers.get(id).ids for id in (first, second, plain)]
        assert [ids.uid if ids else None for ids in kept] == [1000, 1010, None]
        with pytest.raises(Unavailable):
            await containers.create(request("true", userns_mode="auto"))
        await containers.remove(first)
        third, _ = await containers.create(request("true", userns_mode="auto"))
        assert containers.get(third).ids == kept[0]
        assert containers.get(third).host_config.userns_mode == "auto"

    with_engine(tmp_path, steps)


def test_a_create_that_fails_gives_its_ids_back(tmp_path: Path) -> None:
    async def steps(engine: Engine) -> None:
        containers = engine.containers
        containers.ids = IdRanges(10, "scow", *pools(tmp_path, "scow:1000:10\n", "scow:1000:10\n"))
        (engine.config.data_root / "containers").rmdir()
        with pytest.raises(FileNotFoundError):
            await containers.create(request("true", userns_mode="auto"))
        (engine.config.data_root / "containers").mkdir()
        id, _ = await containers.create(request("true", userns_mode="auto"))
        assert containers.get(id).ids is not None

    with_engine(tmp_path, steps)


def test_a_runtime_without_user_namespaces_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeRuntime, "info", lambda self: RuntimeInfo("fake", "2", "none"))

    async def steps(engine: Engine) -> None:
        with pytest.raises(Unsupported, match="runtime fake makes no user namespaces"):
            await engine.containers.create(request("true", userns_mode="auto"))

    with_engine(tmp_path, steps)


def test_who_joins_a_container_shares_its_ids_or_the_hosts(tmp_path: Path) -> None:
    async def steps(engine: Engine) -> None:
        containers = engine.containers
        owner, _ = await containers.create(request("true", userns_mode="auto"), "owner")
        plain, _ = await containers.create(request("true"), "plain")
        joined, _ = await containers.create(
            request("true", userns_mode="auto", network_mode="container:owner", pid_mode="container:owner")
        )
        ids, shared = containers.get(owner).ids, containers.get(joined).ids
        assert ids is not None and shared is not None
        assert (shared.uid, shared.shared_with) == (ids.uid, owner)
        with pytest.raises(InvalidArgument, match="container plain has no user namespace"):
            await containers.create(request("true", userns_mode="auto", network_mode="container:plain"))
        other, _ = await containers.create(request("true", userns_mode="auto"), "other")
        with pytest.raises(InvalidArgument, match="owner, other have different user namespaces"):
            await containers.create(
                request("true", userns_mode="auto", network_mode="container:owner", pid_mode="container:other")
            )
        with pytest.raises(Conflict, match="cannot join the network namespace"):
            await containers.start(joined)

    with_engine(tmp_path, steps)


def test_an_idmapped_bind_needs_a_user_namespace(tmp_path: Path) -> None:
    async def steps(engine: Engine) -> None:
        with pytest.raises(InvalidArgument, match="idmap needs a user namespace"):
            await engine.containers.create(request("true", binds=[f"{tmp_path}:/x:idmap"]))

    with_engine(tmp_path, steps)


@pytest.mark.parametrize("values", [{"userns": "some"}, {"userns_size": "0"}, {"userns_size": "x"}])
def test_wrong_settings_are_named(values: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(values))):
        load(None, {}, values)


def test_settings_come_from_the_environment_too() -> None:
    found = load(None, {"SCOW_USERNS": "auto", "SCOW_USERNS_SIZE": "1024", "SCOW_USERNS_USER": "me"}, {})
    assert (found.userns, found.userns_size, found.userns_user) == ("auto", 1024, "me")


# ---------------------------------------------------------------- the spec


def build(**more: Any) -> dict[str, Any]:
    host = HostConfig(cap_drop=["ALL"])
    points = [
        MountPoint(type="volume", destination="/v", source="/vol", name="v"),
        MountPoint(type="bind", destination="/plain", source="/src"),
        parse_bind("/src:/mapped:ro,ridmap"),
    ]
    made = record("c" * 64, ["/bin/true"], host=host, mounts=points, ids=IDS)
    return specs.build(made, directory=Path("/bundle"), **more)


def test_the_spec_has_a_user_namespace_with_mappings() -> None:
    linux = build()["linux"]
    assert {"type": "user"} in linux["namespaces"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 300000, "size": 65536}]
    assert linux["gidMappings"] == [{"containerID": 0, "hostID": 400000, "size": 65536}]
    assert linux["sysctl"]["net.ipv4.ping_group_range"] == "0 65535"


def test_a_joined_user_namespace_has_a_path_and_no_mappings() -> None:
    linux = build(joined={"user": 7})["linux"]
    assert {"type": "user", "path": "/proc/7/ns/user"} in linux["namespaces"] and "uidMappings" not in linux


def test_volumes_and_the_engines_files_are_idmapped_and_binds_if_asked() -> None:
    words = {mount["destination"]: mount["options"] for mount in build()["mounts"]}
    assert "idmap" in words["/v"] and "idmap" in words["/etc/hosts"] and "ridmap" in words["/mapped"]
    assert not {"idmap", "ridmap"} & set(words["/plain"])


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("type=bind,src=/a,dst=/b,idmap", "/a:/b:idmap"),
        ("type=bind,source=/a,target=/b,ridmap,readonly", "/a:/b:ridmap,ro"),
        ("type=bind,source=/a,target=/b,idmap,bind-propagation=rslave", "/a:/b:idmap,rslave"),
        ("type=bind,source=/a,target=/b", ""),
    ],
)
def test_an_idmapped_mount_of_the_command_line_is_a_bind(text: str, bind: str) -> None:
    assert cli_mounts.idmapped_bind(text) == bind


@pytest.mark.parametrize("text", ["type=volume,src=v,dst=/b,idmap", "type=bind,src=/a,dst=/b,idmap,consistency=cached"])
def test_what_cannot_be_an_idmapped_bind_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="only a bind with source and target can be idmapped"):
        cli_mounts.idmapped_bind(text)


# ---------------------------------------------------------------- the plan


def plan(made: dict[str, Any], *options: str) -> dict[str, Any]:
    root = [Mount("overlay", "overlay", "", ("lowerdir=/d/1/diff:/d/empty", "upperdir=/d/2/diff", *options))]
    return container_plan("c1", made, root, Path("/bundle"), {"version": 1}, b"")


def test_the_plan_makes_the_user_namespace_with_the_others() -> None:
    made = plan(build(), "idmap")
    assert made["clone"] & sys_.CLONE_NEWUSER and made["clone"] & sys_.CLONE_NEWNS
    assert made["userns"] == {
        "uids": [[0, 300000, 65536]], "gids": [[0, 400000, 65536]], "join": [], "root": [True], "layers": "/d",
    }  # fmt: skip
    assert "idmap" not in made["root"][0][3]
    mapped = {entry["destination"]: entry["idmap"] for entry in made["mounts"] if entry["kind"] == "bind"}
    assert mapped["/v"] == {"uids": [], "gids": [], "recursive": False} and mapped["/mapped"]["recursive"]
    assert mapped["/plain"] is None


def test_namespaces_by_path_are_joined_before_the_user_namespace() -> None:
    made = build(joined={"user": 7})
    made["linux"]["namespaces"] += [{"type": "network", "path": "/proc/99999999/ns/net"}]
    made["linux"]["namespaces"] = [n for n in made["linux"]["namespaces"] if n != {"type": "network"}]
    result = plan(made)
    assert result["join"] == [] and result["userns"]["uids"] == []
    assert result["userns"]["join"] == [
        ["/proc/99999999/ns/net", sys_.CLONE_NEWNET], ["/proc/7/ns/user", sys_.CLONE_NEWUSER],
    ]  # fmt: skip


def test_all_rights_can_be_had_inside_and_what_is_not_wanted_is_dropped() -> None:
    process = {"args": ["x"], "capabilities": {"bounding": ["CAP_SYS_RESOURCE"], "permitted": ["CAP_SYS_RESOURCE"]}}
    made = process_plan(process, b"", user_namespace=True)
    number = capabilities.NUMBERS["CAP_SYS_RESOURCE"]
    assert made["capabilities"]["permitted"] == 1 << number
    assert made["bounding_drop"] == [n for n in range(capabilities.last() + 1) if n != number]


@pytest.mark.parametrize(
    ("linux", "options", "message"),
    [
        ({"uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}, (), "mappings need a user namespace"),
        ({}, ("idmap",), "idmapped root needs a user namespace"),
        ({"namespaces": [{"type": "mount"}, {"type": "user"}]}, (), "needs linux.uidMappings"),
    ],
)
def test_what_makes_no_sense_is_refused(linux: dict[str, Any], options: tuple[str, ...], message: str) -> None:
    made = specs.build(record("c" * 64, ["true"], host=HostConfig(cap_drop=["ALL"])), directory=Path("/bundle"))
    made["linux"] = {**made["linux"], **linux}
    with pytest.raises(InvalidArgument, match=message):
        plan(made, *options)


def test_a_mount_may_have_a_mapping_of_its_own() -> None:
    lines = [{"containerID": 0, "hostID": 5, "size": 1}]
    mount = {"destination": "/x", "source": "/s", "type": "bind", "uidMappings": lines, "gidMappings": lines}
    assert mount_plan(mount, {}, False)["idmap"] == {"uids": [[0, 5, 1]], "gids": [[0, 5, 1]], "recursive": False}
    with pytest.raises(InvalidArgument, match="both uidMappings and gidMappings"):
        mount_plan({**mount, "gidMappings": []}, {}, False)
    with pytest.raises(InvalidArgument, match="idmap needs mappings"):
        mount_plan({"destination": "/x", "source": "/s", "type": "bind", "options": ["idmap"]}, {}, False)
    with pytest.raises(InvalidArgument, match="only bind mounts can be idmapped"):
        mount_plan({"destination": "/x", "source": "t", "type": "tmpfs", "options": ["idmap"]}, {}, False, True)


def test_one_folder_holds_all_layers() -> None:
    options = ("lowerdir=/a\\:b/3/diff:/a\\:b/1/diff", "upperdir=/a:b/7/diff", "workdir=/a:b/7/work")
    assert layers_folder([Mount("overlay", "overlay", "", options)]) == "/a:b"


def test_ids_inside_are_looked_up_outside() -> None:
    ids = [[0, 1000, 1], [1, 5000, 10]]
    assert [idmap.outside(ids, number) for number in (0, 1, 10, 11)] == [1000, 5000, 5009, None]
    assert idmap.lines(ids) == b"0 1000 1\n1 5000 10\n"


def test_the_native_runtime_declares_user_namespaces(tmp_path: Path) -> None:
    from scow_runtime_native import NativeRuntime

    runtime = NativeRuntime(DriverContext("native", tmp_path, tmp_path))
    assert runtime.info().features["user_namespaces"] is True
