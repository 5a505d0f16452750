"""``--userns auto`` in an engine of its own: ids for each container, kept for life, and owners on disk that stay."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import BUSYBOX, DOCKER, Daemon, busybox_tar

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI"),
    pytest.mark.skipif(BUSYBOX is None, reason="needs a static busybox"),
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine"), userns_user="scow-nobody").start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


def create(daemon: Daemon, *cmd: str, name: str = "", userns: str = "auto", **host: Any) -> tuple[int, Any]:
    body = {"Image": "busybox", "Cmd": list(cmd), "HostConfig": {"UsernsMode": userns, **host}}
    return daemon.api("POST", f"/containers/create?name={name}", body)


def up(daemon: Daemon, name: str, *cmd: str, **host: Any) -> str:
    status, answer = create(daemon, *(cmd or ("sleep", "100")), name=name, **host)
    assert status == 201, answer
    status, failure = daemon.api("POST", f"/containers/{answer['Id']}/start")
    assert status == 204, failure
    return str(answer["Id"])


def run(daemon: Daemon, name: str, script: str, **host: Any) -> str:
    """The output of a container that ends by itself."""
    up(daemon, name, "sh", "-ec", script, **host)
    assert daemon.out("wait", name) == "0", daemon.docker("logs", name).stderr
    output = daemon.out("logs", name)
    daemon.docker("rm", "-v", name)
    return output


def pid(daemon: Daemon, name: str) -> int:
    return int(daemon.out("inspect", "-f", "{{.State.Pid}}", name))


def first_uid(daemon: Daemon, name: str) -> int:
    return int(Path(f"/proc/{pid(daemon, name)}/uid_map").read_text().split()[1])


def test_each_container_has_ids_of_its_own_and_inspect_says_so(daemon: Daemon) -> None:
    for name in ("one", "two"):
        up(daemon, name)
    first, second = first_uid(daemon, "one"), first_uid(daemon, "two")
    assert abs(first - second) >= 65536 and min(first, second) >= 0x70000000
    assert daemon.out("inspect", "-f", "{{.HostConfig.UsernsMode}}", "one") == "auto"
    assert daemon.out("exec", "one", "id", "-u") == "0"
    daemon.docker("rm", "-f", "one", "two")


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        (["--annotation", "scow.userns=auto"], "auto"),
        (["--label", "scow.userns=auto"], "auto"),
        (["--annotation", "scow.userns=host", "--label", "scow.userns=auto"], "host"),
        (["--userns", "host", "--label", "scow.userns=auto"], "host"),
    ],
)
def test_the_docker_cli_says_it_by_annotation_or_label(daemon: Daemon, flags: list[str], mode: str) -> None:
    daemon.out("run", "-d", "--name", "said", *flags, "busybox", "sleep", "100")
    assert daemon.out("inspect", "-f", "{{.HostConfig.UsernsMode}}", "said") == mode
    assert daemon.out("exec", "said", "id", "-u") == "0"
    assert (first_uid(daemon, "said") != 0) is (mode == "auto")
    daemon.docker("rm", "-f", "said")


def test_a_mode_that_there_is_not_or_that_an_image_says_gives_nothing(daemon: Daemon, tmp_path: Path) -> None:
    refused = daemon.docker("create", "--label", "scow.userns=private", "busybox", check=False)
    assert "label scow.userns: invalid userns mode: private" in refused.stderr
    (tmp_path / "image.tar").write_bytes(busybox_tar())
    daemon.out("import", "--change", "LABEL scow.userns=auto", str(tmp_path / "image.tar"), "labelled")
    daemon.out("run", "-d", "--name", "unsaid", "labelled", "sleep", "100")
    assert daemon.out("inspect", "-f", '{{index .Config.Labels "scow.userns"}}', "unsaid") == "auto"
    assert first_uid(daemon, "unsaid") == 0
    daemon.docker("rm", "-f", "unsaid")


def test_a_restart_keeps_the_ids_and_removal_frees_them(daemon: Daemon) -> None:
    up(daemon, "kept")
    ids = first_uid(daemon, "kept")
    daemon.docker("stop", "-t", "0", "kept")
    up(daemon, "other")
    assert first_uid(daemon, "other") != ids
    daemon.docker("start", "kept")
    assert first_uid(daemon, "kept") == ids
    daemon.docker("rm", "-f", "kept")
    up(daemon, "next")
    assert first_uid(daemon, "next") == ids
    daemon.docker("rm", "-f", "other", "next")


def test_a_killed_daemon_knows_the_ids_again(daemon: Daemon) -> None:
    up(daemon, "before")
    create(daemon, "sleep", "100", name="stopped")
    ids = first_uid(daemon, "before")
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert first_uid(daemon, "before") == ids
    assert daemon.out("exec", "before", "sh", "-c", "id -u; touch /made; stat -c %u /made").split() == ["0", "0"]
    up(daemon, "after")
    daemon.docker("start", "stopped")
    assert len({first_uid(daemon, name) // 65536 for name in ("before", "stopped", "after")}) == 3
    daemon.docker("rm", "-f", "before", "after", "stopped")


def test_volumes_hold_0_based_owners_and_are_shared_with_any_container(daemon: Daemon) -> None:
    script = "echo hello > /data/file; mkdir -p /data/sub; chown 33:33 /data/sub; stat -c '%u' /data/file"
    assert run(daemon, "writer", script, Binds=["vol:/data"]) == "0"
    folder = Path(daemon.out("volume", "inspect", "-f", "{{.Mountpoint}}", "vol"))
    assert ((folder / "file").stat().st_uid, (folder / "sub").stat().st_uid) == (0, 33)
    look = "cat /data/file; stat -c '%u' /data/file /data/sub"
    assert run(daemon, "reader", look, Binds=["vol:/data:ro"]).split() == ["hello", "0", "33"]
    assert run(daemon, "plain", look, Binds=["vol:/data"], userns="host").split() == ["hello", "0", "33"]
    daemon.docker("volume", "rm", "vol")


def test_binds_are_nobodys_unless_idmapped(daemon: Daemon, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("content")
    script = "stat -c '%u %g' /plain/file /mapped/file; touch /plain/x 2>/dev/null || echo refused; touch /mapped/x"
    output = run(daemon, "binds", script, Binds=[f"{tmp_path}:/plain", f"{tmp_path}:/mapped:idmap"])
    assert output.splitlines() == ["65534 65534", "0 0", "refused"]
    assert (tmp_path / "x").stat().st_uid == 0
    status, answer = create(daemon, "true", userns="host", Binds=[f"{tmp_path}:/mapped:idmap"])
    assert status == 400 and "idmap needs a user namespace" in answer["message"]


def test_the_engines_files_are_the_containers(daemon: Daemon) -> None:
    script = "stat -c %u /etc/hosts /etc/hostname /etc/resolv.conf; echo '10.0.0.1 x' >> /etc/hosts; hostname"
    assert run(daemon, "files", script).split()[:3] == ["0", "0", "0"]


def test_a_published_port_and_a_network_of_its_own(daemon: Daemon) -> None:
    ports = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}]}
    body = {
        "Image": "busybox",
        "Cmd": ["sh", "-c", "mkdir /www; echo served > /www/index.html; httpd -f -p 80 -h /www"],
        "ExposedPorts": {"80/tcp": {}},
        "HostConfig": {"UsernsMode": "auto", "PortBindings": ports},
    }
    status, answer = daemon.api("POST", "/containers/create?name=web", body)
    assert status == 201, answer
    daemon.docker("start", "web")
    address = daemon.out("port", "web", "80").splitlines()[0]
    deadline = time.monotonic() + 10
    while True:
        done = subprocess.run(["curl", "-fsS", f"http://{address}/"], capture_output=True, text=True, check=False)
        if done.returncode == 0 or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert done.stdout == "served\n", done.stderr
    daemon.docker("rm", "-f", "web")


def test_a_container_that_joins_another_one_has_its_ids(daemon: Daemon) -> None:
    owner = up(daemon, "owner")
    joins = {"NetworkMode": "container:owner", "PidMode": "container:owner"}
    up(daemon, "joined", **joins)
    assert first_uid(daemon, "joined") == first_uid(daemon, "owner")
    assert os.readlink(f"/proc/{pid(daemon, 'joined')}/ns/user") == os.readlink(f"/proc/{pid(daemon, 'owner')}/ns/user")
    assert daemon.out("exec", "joined", "sh", "-c", "ps | grep -c ' sleep 100$'; id -u").split() == ["2", "0"]
    up(daemon, "hosted", userns="host")
    status, answer = create(daemon, "true", NetworkMode="container:hosted")
    assert status == 400 and "has no user namespace" in answer["message"]
    daemon.docker("rm", "-f", "joined", "hosted", owner)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ({"Privileged": True}, "privileged mode is incompatible with user namespaces"),
        ({"NetworkMode": "host"}, "cannot share the host's network namespace when user namespaces are enabled"),
        ({"PidMode": "host"}, "cannot share the host PID namespace when user namespaces are enabled"),
        ({"IpcMode": "host"}, "cannot share the host IPC namespace when user namespaces are enabled"),
        ({"UsernsMode": "other"}, "invalid userns mode"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(daemon: Daemon, host: dict[str, Any], message: str) -> None:
    status, answer = create(daemon, "true", **{"userns": "auto", **host} if "UsernsMode" not in host else host)
    assert status == 400 and message in answer["message"], answer


def test_an_unmappable_filesystem_is_named(daemon: Daemon) -> None:
    status, answer = create(daemon, "true", name="unmappable", Binds=["/proc/sys:/x:idmap"])
    assert status == 201, answer
    status, answer = daemon.api("POST", "/containers/unmappable/start")
    assert status >= 400 and "/proc/sys cannot be idmapped: the filesystem (proc)" in answer["message"], answer
    daemon.docker("rm", "unmappable")


def test_setgroups_cannot_be_abused(daemon: Daemon, tmp_path: Path) -> None:
    """CVE-2014-8989: a group that is denied a file must not be dropped by an unprivileged user namespace."""
    tmp_path.chmod(0o755)
    (tmp_path / "denied").write_text("x")
    script = (
        "grep ^Groups /proc/self/status; cat /proc/self/setgroups; "
        "su mail -s /bin/sh -c 'unshare -Ur sh -c \"cat /proc/self/setgroups\"'"
    )
    output = run(daemon, "groups", script, SecurityOpt=["seccomp=unconfined"])
    assert output.split() == ["Groups:", "0", "allow", "deny"]


def test_the_start_does_not_grow_with_the_image(daemon: Daemon, tmp_path: Path) -> None:
    daemon.docker("create", "--name", "base", "busybox", "true")
    files = tmp_path / "files.tar"
    program = (
        "import io,sys,tarfile\n"
        "from tests.daemon import busybox_tar\n"
        "data=io.BytesIO(busybox_tar())\n"
        "out=tarfile.open(sys.argv[1],'w')\n"
        "source=tarfile.open(fileobj=data)\n"
        "for m in source: out.addfile(m, source.extractfile(m) if m.isreg() else None)\n"
        "for n in range(20000): out.addfile(tarfile.TarInfo(f'var/d{n%100}/f{n}'), io.BytesIO())\n"
        "out.close()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(files)], check=True, cwd=Path(__file__).parents[2])
    daemon.docker("import", str(files), "big")
    daemon.docker("rm", "base")

    def seconds(image: str) -> float:
        body = {"Image": image, "Cmd": ["/bin/true"], "HostConfig": {"UsernsMode": "auto", "NetworkMode": "none"}}
        _, answer = daemon.api("POST", "/containers/create", body)
        begun = time.perf_counter()
        status, told = daemon.api("POST", f"/containers/{answer['Id']}/start")
        assert status == 204, told
        took = time.perf_counter() - begun
        daemon.api("DELETE", f"/containers/{answer['Id']}?force=1")
        return took

    pairs = [(seconds("busybox"), seconds("big")) for _ in range(15)]
    small, big = (min(column) for column in zip(*pairs, strict=True))  # what the machine's other work adds is not ours
    assert big < small + 0.005, pairs


def test_no_ids_left_is_a_clear_error(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "engine", userns="auto", userns_size=1 << 27, userns_user="scow-nobody").start()
    try:
        daemon.import_busybox()
        up(daemon, "first", userns="")
        assert json.loads(daemon.out("inspect", "first"))[0]["HostConfig"]["UsernsMode"] == "auto"
        status, answer = create(daemon, "true", userns="")
        assert status == 503 and "no range of 134217728 uids is left" in answer["message"], answer
        assert create(daemon, "true", userns="host")[0] == 201
    finally:
        daemon.cleanup()
