"""CDI spec files, and what their devices do to an OCI configuration."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from scow.engine import cdi, device_requests
from scow.errors import InvalidArgument, ScowError, Unsupported
from scow.types import DeviceRequest

NULL = {"path": "/dev/vendor0", "hostPath": "/dev/null"}


def spec_file(path: Path, kind: str = "vendor.com/device", version: str = "0.5.0", **named: Any) -> Path:
    """A spec file with devices by name → edits; ``common`` are the edits of all, *devices* those with other names."""
    devices = {**named.pop("devices", {}), **named}
    common = devices.pop("common", None)
    content: dict[str, Any] = {
        "cdiVersion": version,
        "kind": kind,
        "devices": [{"name": name, "containerEdits": edits} for name, edits in devices.items()],
    }
    if common:
        content["containerEdits"] = common
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content) if path.suffix == ".yaml" else json.dumps(content))
    return path


def oci() -> dict[str, Any]:
    return {
        "process": {"env": ["PATH=/bin", "A=old"], "user": {"uid": 0, "gid": 0}},
        "mounts": [{"destination": "/proc", "type": "proc"}, {"destination": "/opt/lib", "source": "/old"}],
        "linux": {"devices": [{"path": "/dev/vendor0", "type": "c", "major": 9, "minor": 9}]},
    }


def inject(directory: Path, *names: str, **request: Any) -> dict[str, Any]:
    made = oci()
    wanted = DeviceRequest(driver="cdi", device_ids=list(names)) if names else DeviceRequest(**request)
    device_requests.inject(made, [wanted], [str(directory)])
    return made


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_device_brings_everything_that_its_file_says(tmp_path: Path, suffix: str) -> None:
    spec_file(
        tmp_path / f"vendor.{suffix}",
        version="0.7.0",
        common={
            "env": ["COMMON=1"],
            "mounts": [{"hostPath": "/usr/lib", "containerPath": "/opt/lib", "options": ["ro", "rbind"]}],
        },
        one={
            "env": ["A=new"],
            "deviceNodes": [{**NULL, "permissions": "rw", "uid": 3, "fileMode": 0o600}],
            "hooks": [{"hookName": "createContainer", "path": "/bin/hook", "args": ["hook", "x"], "timeout": 3}],
            "additionalGids": [0, 44],
        },
    )  # fmt: skip
    made = inject(tmp_path, "vendor.com/device=one")
    assert made["process"]["env"] == ["PATH=/bin", "COMMON=1", "A=new"]
    assert made["linux"]["devices"] == [
        {"path": "/dev/vendor0", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 3}
    ]
    assert made["linux"]["resources"]["devices"] == [
        {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}
    ]
    assert made["mounts"] == [
        {"destination": "/proc", "type": "proc"},
        {"destination": "/opt/lib", "source": "/usr/lib", "options": ["ro", "rbind"]},
    ]
    assert made["hooks"] == {"createContainer": [{"path": "/bin/hook", "args": ["hook", "x"], "timeout": 3}]}
    assert made["process"]["user"]["additionalGids"] == [44]


def test_a_node_takes_what_is_not_said_from_the_hosts(tmp_path: Path) -> None:
    spec_file(tmp_path / "v.json", one={"deviceNodes": [NULL]})
    (node,) = inject(tmp_path, "vendor.com/device=one")["linux"]["devices"]
    assert (node["type"], node["major"], node["minor"]) == ("c", 1, 3)
    assert node["fileMode"] == stat.S_IMODE(os.stat("/dev/null").st_mode) and "uid" not in node


def test_a_node_that_is_fully_described_need_not_be_on_the_host(tmp_path: Path) -> None:
    spec_file(tmp_path / "v.json", one={"deviceNodes": [{"path": "/dev/none", "type": "c", "major": 5, "minor": 6}]})
    made = inject(tmp_path, "vendor.com/device=one")
    assert {"path": "/dev/none", "type": "c", "major": 5, "minor": 6} in made["linux"]["devices"]


def test_permissions_none_give_a_node_without_a_right(tmp_path: Path) -> None:
    spec_file(tmp_path / "v.json", one={"deviceNodes": [{**NULL, "permissions": "none"}]})
    assert "resources" not in inject(tmp_path, "vendor.com/device=one")["linux"]


def test_the_edits_of_a_file_are_made_once_for_all_its_devices(tmp_path: Path) -> None:
    edits = {"hooks": [{"hookName": "poststop", "path": "/bin/x"}]}
    spec_file(tmp_path / "v.json", common=edits, one={"env": ["ONE=1"]}, two={"env": ["TWO=2"]})
    made = inject(tmp_path, "vendor.com/device=one", "vendor.com/device=two", "vendor.com/device=one")
    assert made["process"]["env"][-2:] == ["ONE=1", "TWO=2"] and len(made["hooks"]["poststop"]) == 1


def test_mounts_are_sorted_so_that_none_hides_a_deeper_one(tmp_path: Path) -> None:
    spec_file(tmp_path / "v.json", one={"mounts": [{"hostPath": "/x", "containerPath": "/a"}]})
    made = oci()
    made["mounts"] = [{"destination": "/a/b"}, {"destination": "/"}]
    device_requests.inject(made, [DeviceRequest(driver="cdi", device_ids=["vendor.com/device=one"])], [str(tmp_path)])
    assert [mount["destination"] for mount in made["mounts"]] == ["/", "/a", "/a/b"]


def test_a_later_folder_goes_before_an_earlier_one(tmp_path: Path) -> None:
    for name in ("etc", "run"):
        spec_file(tmp_path / name / "v.json", one={"env": [f"FROM={name}"]})
    directories = [str(tmp_path / "etc"), str(tmp_path / "run"), str(tmp_path / "none")]
    registry = cdi.load(directories)
    assert registry.devices["vendor.com/device=one"].edits == {"env": ["FROM=run"]} and not registry.problems


def test_two_files_of_a_folder_with_the_same_device_take_it_away_and_a_later_folder_gives_it_again(
    tmp_path: Path,
) -> None:
    for name in ("a", "b"):
        spec_file(tmp_path / "etc" / f"{name}.yaml", one={"env": ["X=1"]}, devices={name: {"env": ["X=1"]}})
    registry = cdi.load([str(tmp_path / "etc")])
    assert sorted(registry.devices) == ["vendor.com/device=a", "vendor.com/device=b"]
    assert registry.problems == [
        f"conflicting device vendor.com/device=one (in {tmp_path}/etc/a.yaml, {tmp_path}/etc/b.yaml)"
    ]
    spec_file(tmp_path / "run" / "c.json", one={"env": ["X=2"]})
    assert "vendor.com/device=one" in cdi.load([str(tmp_path / "etc"), str(tmp_path / "run")]).devices


@pytest.mark.parametrize(
    ("version", "kind", "edits", "problem"),
    [
        ("0.2.0", "vendor.com/device", {"env": ["A=1"]}, "invalid cdiVersion '0.2.0'"),
        ("1.0.0", "vendor", {"env": ["A=1"]}, "invalid kind 'vendor'"),
        ("1.0.0", "vendor.com/-x", {"env": ["A=1"]}, "invalid kind 'vendor.com/-x'"),
        ("0.5.0", "vendor.com/a.b", {"env": ["A=1"]}, "a dot in the class needs cdiVersion 0.6.0"),
        ("0.4.0", "vendor.com/a", {"deviceNodes": [NULL]}, "hostPath of a device node needs cdiVersion 0.5.0"),
        ("0.6.0", "vendor.com/a", {"additionalGids": [5]}, "additionalGids needs cdiVersion 0.7.0"),
        ("0.3.0", "vendor.com/a", {"mounts": [{"hostPath": "/", "containerPath": "/", "type": "y"}]}, "a mount"),
        ("1.0.0", "vendor.com/a", {}, "no containerEdits"),
        ("1.0.0", "vendor.com/a", {"env": ["A"]}, "invalid environment variable 'A'"),
        ("1.0.0", "vendor.com/a", {"env": "A=1"}, "env has the wrong type"),
        ("1.0.0", "vendor.com/a", {"deviceNodes": [{"hostPath": "/x"}]}, "an entry of deviceNodes has no path"),
        ("1.0.0", "vendor.com/a", {"deviceNodes": [{"path": "/x", "type": "z"}]}, "invalid type 'z'"),
        ("1.0.0", "vendor.com/a", {"deviceNodes": [{"path": "/x", "permissions": "q"}]}, "invalid permissions 'q'"),
        ("1.0.0", "vendor.com/a", {"hooks": [{"hookName": "x", "path": "/x"}]}, "invalid hook name 'x'"),
        ("1.0.0", "vendor.com/a", {"netDevices": [{"name": "x"}]}, "unknown edit 'netDevices'"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_told_and_the_others_serve(
    tmp_path: Path, version: str, kind: str, edits: dict[str, Any], problem: str
) -> None:
    spec_file(tmp_path / "a.json", kind=kind, version=version, one=edits)
    spec_file(tmp_path / "b.json", kind="other.com/x", fine={"env": ["B=1"]})
    registry = cdi.load([str(tmp_path)])
    assert list(registry.devices) == ["other.com/x=fine"]
    assert len(registry.problems) == 1 and registry.problems[0].startswith(f"{tmp_path}/a.json: ")
    assert problem in registry.problems[0]


@pytest.mark.parametrize("text", ["{", "[]", '{"cdiVersion": "1.0.0", "kind": "a.com/b", "devices": []}', "\xff"])
def test_a_file_that_is_no_spec_is_a_problem_not_a_failure(tmp_path: Path, text: str) -> None:
    for name in ("a.json", "b.yaml"):
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    (tmp_path / "README.md").write_text("not looked at")
    registry = cdi.load([str(tmp_path)])
    assert not registry.devices and len(registry.problems) == 2


def test_an_unknown_device_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    spec_file(tmp_path / "v.json", one={"env": ["X=1"]})
    (tmp_path / "w.json").write_text("{")
    with pytest.raises(InvalidArgument) as caught:
        inject(tmp_path, "vendor.com/device=two", "vendor.com/device=one", "x.com/y=z")
    assert caught.value.message == (
        "CDI device injection failed: unresolvable CDI devices vendor.com/device=two, x.com/y=z"
    )
    assert "known: vendor.com/device=one" in str(caught.value.hint) and "w.json" in str(caught.value.hint)


def test_a_missing_node_of_the_host_is_named(tmp_path: Path) -> None:
    spec_file(tmp_path / "v.json", one={"deviceNodes": [{"path": "/dev/none-such"}]})
    with pytest.raises(InvalidArgument, match="failed to stat CDI host device '/dev/none-such' of .*: no such file"):
        inject(tmp_path, "vendor.com/device=one")


def test_a_node_of_another_type_than_the_hosts_is_refused(tmp_path: Path) -> None:
    spec_file(tmp_path / "v.json", one={"deviceNodes": [{**NULL, "type": "b"}]})
    with pytest.raises(InvalidArgument, match="host type mismatch"):
        inject(tmp_path, "vendor.com/device=one")


def test_resctrl_classes_are_refused(tmp_path: Path) -> None:
    spec_file(tmp_path / "v.json", version="0.7.0", one={"intelRdt": {"closID": "x"}})
    with pytest.raises(Unsupported, match="wants Intel RDT classes"):
        inject(tmp_path, "vendor.com/device=one")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vendor.com/class=name", True),
        ("nvidia.com/gpu=GPU-1:0", True),
        ("v/c=0", True),
        ("/dev/x=y", False),
        ("vendor.com/class", False),
        ("vendor.com=name", False),
        ("1vendor/class=name", False),
        ("vendor.com/class=name-", False),
    ],
)
def test_qualified_names(name: str, expected: bool) -> None:
    assert cdi.is_qualified(name) is expected


# ---------------------------------------------------------------------------
# --gpus
# ---------------------------------------------------------------------------


def env(made: dict[str, Any]) -> set[str]:
    return set(made["process"]["env"]) - {"PATH=/bin", "A=old"}


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"count": -1}, {"ALL=1"}),
        ({"count": 1}, {"G0=1"}),
        ({"count": 2}, {"G0=1", "G1=1"}),
        ({"device_ids": ["1"]}, {"G1=1"}),
        ({"device_ids": ["GPU-abc", "0"]}, {"U=1", "G0=1"}),
        ({"device_ids": ["nvidia.com/gpu=1"]}, {"G1=1"}),
        ({"device_ids": ["all"], "driver": "nvidia"}, {"ALL=1"}),
    ],
)
def test_gpus_are_cdi_devices_of_nvidias(tmp_path: Path, request_: dict[str, Any], expected: set[str]) -> None:
    devices = {"0": {"env": ["G0=1"]}, "1": {"env": ["G1=1"]}, "GPU-abc": {"env": ["U=1"]}, "all": {"env": ["ALL=1"]}}
    spec_file(tmp_path / "nvidia.json", kind="nvidia.com/gpu", devices=devices)
    made = inject(tmp_path, capabilities=[["gpu", "utility"]], **request_)
    assert env(made) == expected


def test_all_gpus_of_a_file_without_all_are_each_of_them(tmp_path: Path) -> None:
    spec_file(tmp_path / "amd.yaml", kind="amd.com/gpu", devices={"0": {"env": ["G0=1"]}, "1": {"env": ["G1=1"]}})
    assert env(inject(tmp_path, capabilities=[["gpu"]], count=-1)) == {"G0=1", "G1=1"}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"capabilities": [["gpu"]], "count": -1}, 'could not select device driver "" with capabilities: [[gpu]]'),
        ({"driver": "nvidia", "capabilities": [["gpu"]]}, 'device driver "nvidia" with capabilities: [[gpu]]'),
        ({"capabilities": [["tpu", "x"], ["y"]]}, 'device driver "" with capabilities: [[tpu x] [y]]'),
        ({"driver": "other"}, 'could not select device driver "other" with capabilities: []'),
        ({"driver": "cdi", "count": 1}, "unexpected count in CDI device request"),
        ({"driver": "cdi", "options": {"a": "b"}}, "unexpected options in CDI device request"),
    ],
)
def test_a_request_that_nobody_serves_is_refused_in_dockers_words(
    tmp_path: Path, request_: dict[str, Any], message: str
) -> None:
    with pytest.raises(ScowError) as caught:
        inject(tmp_path, **request_)
    assert message in caught.value.message
