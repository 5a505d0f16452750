"""images, inspect, history, tag and rmi through the docker CLI, docker-py and ``scow``; image tree and diff."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon import DOCKER, Daemon, busybox_tar

docker = pytest.importorskip("docker")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Any]:
    client = docker.DockerClient(base_url=f"unix://{daemon.socket}")
    yield client
    client.close()


def scow(daemon: Daemon, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scow.cli.main", "-H", f"unix://{daemon.socket}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, done
    return done


def imported(daemon: Daemon, name: str, *words: str, files: dict[str, bytes] | None = None) -> str:
    """The id of a small image *name* of one layer."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, data in (files or {name: name.encode()}).items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    daemon.docker("import", *words, "-", name, input=out.getvalue())
    return daemon.out("image", "inspect", "-f", "{{.Id}}", name)


def names(daemon: Daemon, *words: str) -> list[str]:
    return sorted(daemon.out("images", "--format", "{{.Repository}}:{{.Tag}}", *words).split())


def test_images_are_listed_as_each_filter_says(daemon: Daemon) -> None:
    first = imported(daemon, "list/first:1", "-c", "LABEL kind=a")
    second = imported(daemon, "list/second:2", "-c", "LABEL kind=b")
    try:
        assert names(daemon, "--filter", "label=kind") == ["list/first:1", "list/second:2"]
        assert names(daemon, "--filter", "label=kind=a") == ["list/first:1"]
        assert names(daemon, "--filter", "reference=list/*:2") == ["list/second:2"]
        assert names(daemon, "list/first") == ["list/first:1"]
        assert names(daemon, "--filter", "since=list/first:1") == ["list/second:2"]
        assert "list/second:2" not in names(daemon, "--filter", "before=list/second:2")
        assert names(daemon, "--filter", "until=1h") == []
        assert names(daemon, "--filter", "dangling=true") == []
        shown = daemon.out("images", "--no-trunc", "--digests", "--format", "{{.ID}} {{.Digest}}", "list/first")
        assert shown == f"{first} <none>"
        assert daemon.out("images", "-q", "list/second") == second[7:19]
        done = daemon.docker("images", "--filter", "color=red", check=False)
        assert done.returncode == 1
        assert "invalid filter 'color'" in done.stderr
        assert daemon.out("images", "list/first") == scow(daemon, "images", "list/first").stdout.strip()
    finally:
        daemon.out("rmi", "list/first:1", "list/second:2")


def test_inspect_and_history_answer_for_the_platform_that_is_there(daemon: Daemon) -> None:
    imported(daemon, "arm:1", "--platform", "linux/arm64", "-m", "made by hand", "-c", "LABEL a=b")
    try:
        value = json.loads(daemon.out("image", "inspect", "arm:1"))[0]
        assert (value["Architecture"], value["Os"], value["Config"]["Labels"]) == ("arm64", "linux", {"a": "b"})
        assert value["Comment"] == "made by hand"
        assert (value["Size"], value["Parent"], len(value["RootFS"]["Layers"])) == (5, "", 1)
        assert "VirtualSize" not in value
        assert daemon.api("GET", "/v1.43/images/arm:1/json")[1]["VirtualSize"] == 5
        status, history = daemon.api("GET", "/images/arm:1/history?platform=linux/arm64")
        assert (status, history[0]["Comment"], history[0]["Size"]) == (200, "made by hand", 5)
        wanted = '{"os":"linux","architecture":"s390x"}'.replace('"', "%22")
        for path in ("json", "history"):
            status, answer = daemon.api("GET", f"/images/arm:1/{path}?platform={wanted}")
            assert status == 404
            assert "wanted linux/s390x, actual: linux/arm64" in answer["message"]
        done = scow(daemon, "rmi", "--platform", "linux/s390x", "arm:1", check=False)
        assert done.returncode == 1
        assert "actual: linux/arm64" in done.stderr
    finally:
        daemon.out("rmi", "arm:1")


def test_tags_are_made_moved_and_refused(daemon: Daemon) -> None:
    first, second = imported(daemon, "tags:1"), imported(daemon, "tags:2")
    daemon.out("tag", "tags:1", "localhost:5000/deep/er:x")
    daemon.out("tag", second, "localhost:5000/deep/er:x")
    assert daemon.out("image", "inspect", "-f", "{{.Id}}", "localhost:5000/deep/er:x") == second
    for target in ("UPPER:1", "tags:1@sha256:" + "0" * 64, "a" * 300):
        assert daemon.docker("tag", "tags:1", target, check=False).returncode != 0
    assert daemon.docker("tag", "nothing:1", "tags:3", check=False).returncode == 1
    assert "Untagged: localhost:5000/deep/er:x" in daemon.out("rmi", "localhost:5000/deep/er:x")
    assert f"Deleted: {first}" in daemon.out("rmi", first[7:19])
    assert f"Deleted: {second}" in daemon.out("rmi", "tags:2")


def test_an_image_in_use_goes_only_by_force_and_never_while_it_runs(daemon: Daemon) -> None:
    daemon.docker("import", "-c", 'CMD ["sleep", "600"]', "-", "used:1", input=busybox_tar() + b"\0" * 512)
    id = daemon.out("image", "inspect", "-f", "{{.Id}}", "used:1")
    daemon.out("run", "-d", "--network", "none", "--name", "user", "used:1", "/bin/sleep", "600")
    try:
        assert daemon.docker("rmi", "used:1", check=False).returncode == 1
        done = daemon.docker("rmi", "-f", id, check=False)
        assert done.returncode == 1
        assert "cannot be forced" in done.stderr
        daemon.out("kill", "user")
        daemon.out("wait", "user")
        assert "must be forced" in daemon.docker("rmi", id, check=False).stderr
        assert f"Deleted: {id}" in daemon.out("rmi", "-f", id)
        assert daemon.out("start", "user") == "user"  # it stands on layers that stay for it
    finally:
        daemon.out("rm", "-f", "user")


def test_docker_py_lists_tags_inspects_prunes_and_removes(daemon: Daemon, client: Any) -> None:
    imported(daemon, "py:1", "-c", "LABEL py=1")
    (image,) = client.images.list(filters={"label": "py=1"})
    assert image.tags == ["py:1"]
    assert image.tag("py", "2")
    image.reload()
    assert image.tags == ["py:1", "py:2"]
    assert image.history()[0]["Size"] == 4
    assert client.images.prune(filters={"dangling": False, "label": "py=2"})["SpaceReclaimed"] == 0
    usage = client.df()
    assert {entry["Id"] for entry in usage["Images"]} >= {image.id}
    pruned = client.images.prune(filters={"dangling": False, "label": ["py=1"]})
    assert {"Deleted": image.id} in pruned["ImagesDeleted"]
    assert pruned["SpaceReclaimed"] > 4
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("py:1")
    assert client.containers.prune()["SpaceReclaimed"] == 0
    assert client.volumes.prune()["SpaceReclaimed"] == 0
    assert client.networks.prune()["NetworksDeleted"] == []


def test_the_tree_has_one_root_for_each_lowest_layer(daemon: Daemon) -> None:
    id = imported(daemon, "tree:1")
    daemon.out("tag", "tree:1", "tree:2")
    try:
        lines = scow(daemon, "image", "tree").stdout.splitlines()
        assert len(lines) == 2
        assert any(line.endswith("1 layer 6B  tree:1, tree:2") for line in lines)
        value = json.loads(scow(daemon, "image", "tree", "--format", "json", "tree:1").stdout)
        assert value["Images"] == {id: ["tree:1", "tree:2"]}
        assert scow(daemon, "image", "tree", "nothing", check=False).returncode == 1
    finally:
        daemon.out("rmi", "-f", id)


def test_the_diff_of_a_layer_lists_what_it_brings(daemon: Daemon) -> None:
    imported(daemon, "diff:1", files={"etc/a": b"12345", "b": b"67"})
    try:
        lines = scow(daemon, "image", "diff", "--changes", "diff:1").stdout.splitlines()
        assert lines[1].split()[1:5] == ["7B", "2", "0", "0"]
        assert "Total: 7B, wasted: 0B (0.0%)" in lines
        assert {"A /etc/a (5B)", "A /b (2B)"} <= set(lines)
        assert scow(daemon, "image", "diff", "nothing", check=False).returncode == 1
    finally:
        daemon.out("rmi", "diff:1")


def test_an_image_that_another_was_committed_from_is_kept_until_that_goes(daemon: Daemon) -> None:
    daemon.docker("import", "-c", "ENV PATH=/bin", "-", "below:1", input=busybox_tar() + b"\0" * 1024)
    base = daemon.out("image", "inspect", "-f", "{{.Id}}", "below:1")
    daemon.out(
        "run", "--name", "maker", "--network", "none", "below:1", "sh", "-c", "echo more >>/etc/group; rm /bin/ls"
    )
    daemon.out("commit", "maker", "above:1")
    daemon.out("rm", "maker")
    child = daemon.out("image", "inspect", "-f", "{{.Id}}", "above:1")
    assert daemon.out("image", "inspect", "-f", "{{.Parent}}", "above:1") == base
    done = daemon.docker("rmi", "-f", base, check=False)
    assert done.returncode == 1
    assert "(cannot be forced) - image has dependent child images" in done.stderr

    lines = scow(daemon, "image", "tree", "below:1", "above:1").stdout.splitlines()
    assert [line.split()[-1] for line in lines] == ["below:1", "above:1"]
    assert lines[1].startswith("└─ ")
    diff = json.loads(scow(daemon, "image", "diff", "--changes", "--format", "json", "above:1").stdout)
    assert {(change["Kind"], change["Path"]) for change in diff["Layers"][1]["Changes"]} >= {
        ("C", "/etc/group"),
        ("D", "/bin/ls"),
    }
    assert diff["Worst"][0]["Path"] == "/etc/group"
    assert diff["Wasted"] == diff["Layers"][0]["Wasted"] == diff["Worst"][0]["Size"] > 0

    assert daemon.out("rmi", "below:1") == "Untagged: below:1"
    assert base[7:19] not in daemon.out("images", "-q").split()
    assert base[7:19] in daemon.out("images", "-aq").split()
    assert daemon.out("image", "prune", "-f") == "Total reclaimed space: 0B"
    gone = daemon.out("rmi", "above:1")
    assert f"Deleted: {child}" in gone
    assert f"Deleted: {base}" in gone
