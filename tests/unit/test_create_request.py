"""What a create request means: merging with the image, ports, mounts, names, signals, restart policies."""

from __future__ import annotations

import pytest

from scow.engine.merge import command, merge
from scow.engine.model import ContainerState
from scow.engine.mounts import mount_points, parse_bind
from scow.engine.names import check_container_name, find, new_id, random_name
from scow.engine.publish import bindings, host_ports, parse_port, port_map
from scow.engine.restart_policy import check_policy, delay_s, wants_boot, wants_restart
from scow.engine.signals import parse_signal
from scow.errors import InvalidArgument, NotFound
from scow.ports.network import PortBinding
from scow.types import ContainerConfig, CreateRequest, HostConfig, MountSpec, PortMapping, RestartPolicy, decode


def test_an_entrypoint_in_the_request_drops_the_images_command() -> None:
    image = ContainerConfig(entrypoint=["/entry"], cmd=["default"])
    assert command(merge(CreateRequest(), image)) == ("/entry", ("default",))
    assert command(merge(CreateRequest(cmd=["x"]), image)) == ("/entry", ("x",))
    assert command(merge(CreateRequest(entrypoint=["/mine"]), image)) == ("/mine", ())
    assert command(merge(CreateRequest(entrypoint=[""], cmd=["sh"]), image)) == ("sh", ())


def test_without_any_command_the_error_says_so() -> None:
    with pytest.raises(InvalidArgument, match="no command specified"):
        command(merge(CreateRequest(), ContainerConfig()))


def test_environment_is_joined_by_key_and_a_bare_key_keeps_the_images_out() -> None:
    image = ContainerConfig(env=["A=1", "B=2"])
    assert merge(CreateRequest(env=["B=3", "C=x=y"]), image).env == ["B=3", "C=x=y", "A=1"]
    assert merge(CreateRequest(env=["A"]), image).env == ["A", "B=2"]  # without a value: not the image's, as Docker


def test_labels_volumes_and_ports_are_joined_and_the_request_wins() -> None:
    image = ContainerConfig(labels={"a": "1", "b": "1"}, volumes={"/v": {}}, exposed_ports={"80/tcp": {}}, user="web")
    merged = merge(CreateRequest(labels={"b": "2"}, exposed_ports={"81/tcp": {}}, volumes={"/w": {}}), image)
    assert merged.labels == {"a": "1", "b": "2"}
    assert set(merged.exposed_ports) == {"80/tcp", "81/tcp"}
    assert set(merged.volumes) == {"/v", "/w"}
    assert merged.user == "web"


def test_null_in_a_request_stands_for_the_default() -> None:
    request = decode(b'{"Cmd":null,"Env":null,"HostConfig":{"PortBindings":null,"Memory":5}}', CreateRequest)
    assert request.cmd is None
    assert request.env == []
    assert request.host_config.memory == 5


def test_a_wrong_type_is_named_by_its_field() -> None:
    with pytest.raises(InvalidArgument, match=r"Memory"):
        decode(b'{"HostConfig":{"Memory":"much"}}', CreateRequest)


@pytest.mark.parametrize(("text", "expected"), [("80", (80, "tcp")), ("53/udp", (53, "udp")), ("1/TCP", (1, "tcp"))])
def test_ports_parse(text: str, expected: tuple[int, str]) -> None:
    assert parse_port(text) == expected


@pytest.mark.parametrize("text", ["0", "65536", "80/xyz", "", "80-81"])
def test_malformed_ports_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_port(text)


def test_host_port_ranges_offer_each_port() -> None:
    assert host_ports("") == (0,)
    assert host_ports("8000-8002") == (8000, 8001, 8002)
    with pytest.raises(InvalidArgument):
        host_ports("9-8")


def test_publish_all_takes_exposed_ports_without_binding() -> None:
    config = ContainerConfig(exposed_ports={"80/tcp": {}, "81/tcp": {}})
    host = HostConfig(
        publish_all_ports=True, port_bindings={"80/tcp": [PortMapping(host_ip="127.0.0.1", host_port="8080")]}
    )
    assert [binding for binding, _ in bindings(config, host)] == [
        PortBinding(80, "tcp", "127.0.0.1", 8080),
        PortBinding(81, "tcp", "", 0),
    ]


def test_inspect_shows_exposed_ports_with_and_without_host_side() -> None:
    ports = port_map({"80/tcp": {}, "443/tcp": {}}, (PortBinding(80, "tcp", "", 32768),))
    assert ports["443/tcp"] is None
    assert ports["80/tcp"] == [PortMapping(host_ip="0.0.0.0", host_port="32768")]


def test_binds_and_volume_names_are_told_apart() -> None:
    bind = parse_bind("/a/../src:/dst:ro,rshared")
    assert (bind.type, bind.source, bind.destination, bind.rw, bind.propagation) == (
        "bind",
        "/src",
        "/dst",
        False,
        "rshared",
    )
    volume = parse_bind("data:/dst")
    assert (volume.type, volume.name, volume.copy_up, volume.anonymous) == ("volume", "data", True, False)
    assert parse_bind("/only").anonymous


@pytest.mark.parametrize("text", ["a:b", "/a:/b:bogus", "/a:/", ":/b", "/a:/b:ro,rw", "b@d:/x", "/a:/b:ro:x"])
def test_malformed_binds_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_bind(text)


def test_two_mounts_at_one_place_are_refused_and_image_volumes_give_way() -> None:
    def nobody(ref: str) -> object:
        raise NotFound(ref)

    config = ContainerConfig(volumes={"/data": {}, "/data/deep": {}})
    points, _ = mount_points(config, HostConfig(binds=["named:/data"]), nobody)  # type: ignore[arg-type]
    assert [(p.destination, p.name == "named") for p in points] == [("/data", True), ("/data/deep", False)]
    doubled = HostConfig(binds=["named:/data"], mounts=[MountSpec(type="tmpfs", target="/data")])
    with pytest.raises(InvalidArgument, match="Duplicate mount point: /data"):
        mount_points(config, doubled, nobody)  # type: ignore[arg-type]


def test_a_missing_source_of_mount_type_bind_is_an_error() -> None:
    host = HostConfig(mounts=[MountSpec(type="bind", source="/does/not/exist", target="/x")])
    with pytest.raises(InvalidArgument, match="bind source path does not exist"):
        mount_points(ContainerConfig(), host, lambda ref: pytest.fail(ref))


def test_references_find_by_id_name_and_unique_prefix() -> None:
    a, b = "a" * 64, "ab" + "c" * 62
    objects, names = {a: 1, b: 2}, {"web": b}
    assert find(a, "container", objects, names) == 1
    assert find("/web", "container", objects, names) == 2
    assert find("aa", "container", objects, names) == 1
    with pytest.raises(InvalidArgument, match="Multiple IDs"):
        find("a", "container", objects, names)
    with pytest.raises(NotFound, match="No such container: zz"):
        find("zz", "container", objects, names)


def test_generated_names_are_valid_and_new() -> None:
    taken: set[str] = set()
    for _ in range(300):
        name = random_name(taken)
        assert check_container_name(name) == name
        assert name not in taken
        taken.add(name)
    assert len(new_id()) == 64


@pytest.mark.parametrize("name", ["", "-x", "a", "a b", "x/../y"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid container name"):
        check_container_name(name)


@pytest.mark.parametrize(("text", "number"), [("KILL", 9), ("sigterm", 15), ("9", 9), ("RTMIN+3", 37)])
def test_signals_parse(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "99", "NOPE"])
def test_unknown_signals_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_signal(text)


@pytest.mark.parametrize(
    ("policy", "state", "again"),
    [
        (RestartPolicy(name="no"), ContainerState(exit_code=1), False),
        (RestartPolicy(name="always"), ContainerState(exit_code=0), True),
        (RestartPolicy(name="always"), ContainerState(stopped_by_user=True), False),
        (RestartPolicy(name="on-failure"), ContainerState(exit_code=0), False),
        (RestartPolicy(name="on-failure", maximum_retry_count=2), ContainerState(exit_code=1, restart_count=1), True),
        (RestartPolicy(name="on-failure", maximum_retry_count=2), ContainerState(exit_code=1, restart_count=2), False),
    ],
)
def test_restart_policies(policy: RestartPolicy, state: ContainerState, again: bool) -> None:
    assert wants_restart(policy, state) is again


def test_at_boot_always_beats_a_stop_by_the_user() -> None:
    stopped = ContainerState(status="exited", stopped_by_user=True)
    assert wants_boot(RestartPolicy(name="always"), stopped)
    assert not wants_boot(RestartPolicy(name="unless-stopped"), stopped)
    assert not wants_boot(RestartPolicy(name="always"), ContainerState(status="created"))


def test_delays_double_and_are_bounded() -> None:
    assert [delay_s(n) for n in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert delay_s(100) == 60.0


def test_rm_and_a_restart_policy_exclude_each_other() -> None:
    with pytest.raises(InvalidArgument, match="AutoRemove"):
        check_policy(HostConfig(auto_remove=True, restart_policy=RestartPolicy(name="always")))
