"""Devices and paths as the runtime spec has them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from scow.errors import InvalidArgument
from scow.testing.runtime import BUSYBOX, Lab

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists(BUSYBOX), reason=f"needs {BUSYBOX} (Debian: busybox-static)"),
]


def devices(*nodes: dict[str, Any], mounts: tuple[str, ...] = ()) -> Callable[[dict[str, Any]], None]:
    """The container has *nodes*; the mounts at *mounts* are left out."""

    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["devices"].extend(nodes)
        spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] not in mounts]

    return change


def node(path: str, kind: str = "c", major: int = 1, minor: int = 3, **more: Any) -> dict[str, Any]:
    return {"path": path, "type": kind, "major": major, "minor": minor, **more}


def test_devices_of_every_type_with_mode_and_owner(lab: Lab) -> None:
    nodes = (
        node("/dev/c", fileMode=0o640, uid=33, gid=34),
        node("/dev/u", "u"),
        node("/dev/b", "b", 7, 0, fileMode=0o600),
        {"path": "/dev/p", "type": "p", "fileMode": 0o622},
        node("/dev/below/it/c", fileMode=0o444),
        node("/elsewhere/c"),
    )
    script = (
        "for f in /dev/c /dev/u /dev/b /dev/p /dev/below/it/c /elsewhere/c; do stat -c '%F %a %t:%T %u:%g' $f; done"
    )
    assert lab.sh(script, change=devices(*nodes)).splitlines() == [
        "character special file 640 1:3 33:34",
        "character special file 666 1:3 0:0",
        "block special file 600 7:0 0:0",
        "fifo 622 0:0 0:0",
        "character special file 444 1:3 0:0",
        "character special file 666 1:3 0:0",
    ]


def test_a_device_in_place_of_a_default_one(lab: Lab) -> None:
    change = devices(node("/dev/zero", fileMode=0o600, major=1, minor=5))
    assert lab.sh("stat -c %a /dev/zero", change=change) == "600\n"


def test_a_node_of_the_image_that_is_the_device_is_kept_and_another_file_is_an_error(lab: Lab) -> None:
    """Without a tmpfs at /dev the image's own is used (config-linux.md, "Devices")."""
    no_dev = ("/dev", "/dev/pts", "/dev/mqueue", "/dev/shm")
    os.mknod(lab.lower / "dev/same", 0o20640, os.makedev(1, 3))
    (lab.lower / "dev/file").write_text("a file of the image\n")
    (lab.lower / "dev/null").write_text("not the null device\n")
    output = lab.sh("stat -c %a /dev/same; test -c /dev/null", change=devices(node("/dev/same"), mounts=no_dev))
    assert output == "640\n"
    failure = lab.refused("true", change=devices(node("/dev/file"), mounts=no_dev))
    assert failure["stage"] == "making devices"
    assert failure["error"] == "device /dev/file: another file is there already (the image or a mount has it)"


def test_masked_and_read_only_paths_of_the_spec(lab: Lab) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["maskedPaths"] = ["/etc/group", "/tmp", "/no/such/path"]
        spec["linux"]["readonlyPaths"] = ["/root", "/no/such/path"]

    (lab.lower / "tmp/secret").touch()
    script = "wc -c < /etc/group; ls -A /tmp; touch /tmp/x 2>/dev/null || echo no; touch /root/x 2>/dev/null || echo no"
    assert lab.sh(script, change=change) == "0\nno\nno\n"


def test_intel_rdt_is_refused(lab: Lab) -> None:

    with pytest.raises(InvalidArgument, match="the native runtime has no linux.intelRdt") as caught:
        lab.make("true", change=lambda spec: spec["linux"].update(intelRdt={"closID": "x"}))
    assert caught.value.hint == "runc and crun have it, by the runtime oci"


def test_host_and_domain_name_need_a_namespace_of_the_containers_own(lab: Lab) -> None:

    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != "uts"]
        spec.update(hostname="mine")

    with pytest.raises(InvalidArgument, match="hostname 'mine': the container has the host's UTS namespace"):
        lab.make("true", change=change)


def test_annotations_change_nothing(lab: Lab) -> None:
    assert lab.sh("echo fine", change=lambda spec: spec.update(annotations={"a": "b", "": "x"})) == "fine\n"
