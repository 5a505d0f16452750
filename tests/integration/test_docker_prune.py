"""Prune and disk usage through the real docker CLI and ``scow``, on a scowd of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import DOCKER, Daemon, busybox_tar

pytestmark = [pytest.mark.root, pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI")]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "engine").start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


def scow(daemon: Daemon, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scow.cli.main", "-H", f"unix://{daemon.socket}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, done
    return done


def ran(daemon: Daemon, name: str, *options: str, script: str = "true") -> str:
    """The id of a container that ran *script* and ended."""
    daemon.out("run", "--network", "none", "--name", name, *options, "busybox", "sh", "-c", script)
    return daemon.out("inspect", "-f", "{{.Id}}", name)


def unnamed(daemon: Daemon) -> str:
    """An image whose tag another one took: dangling."""
    daemon.docker("import", "-c", "LABEL old=1", "-", "twice:1", input=busybox_tar())
    old = daemon.out("image", "inspect", "-f", "{{.Id}}", "twice:1")
    daemon.docker("import", "-c", "LABEL old=2", "-", "twice:1", input=busybox_tar())
    assert daemon.out("images", "-q", "--no-trunc", "--filter", "dangling=true") == old
    return old


def test_each_prune_of_docker_removes_what_is_unused_and_tells_the_space(daemon: Daemon) -> None:
    id = ran(daemon, "ended", "-v", "/anonymous", "-v", "named:/n", script="dd if=/dev/zero of=/big bs=1k count=300")
    daemon.out("run", "-d", "--network", "none", "--name", "lives", "busybox", "sleep", "600")
    old = unnamed(daemon)

    pruned = daemon.out("container", "prune", "-f")
    assert f"Deleted Containers:\n{id}" in pruned
    assert "Total reclaimed space: 307.2kB" in pruned
    assert daemon.out("ps", "-a", "--format", "{{.Names}}") == "lives"

    assert len(daemon.out("volume", "ls", "-q").split()) == 2
    assert "Total reclaimed space: 0B" in daemon.out("volume", "prune", "-f")
    assert daemon.out("volume", "ls", "-q") == "named"
    assert "Deleted Volumes:\nnamed" in daemon.out("volume", "prune", "-af")

    pruned = daemon.out("image", "prune", "-f")
    assert f"deleted: {old}" in pruned
    assert daemon.out("images", "--format", "{{.Repository}}:{{.Tag}}").split() == ["twice:1", "busybox:latest"]
    pruned = daemon.out("image", "prune", "-af")
    assert "untagged: twice:1" in pruned
    assert daemon.out("images", "--format", "{{.Repository}}:{{.Tag}}") == "busybox:latest"
    assert daemon.out("network", "prune", "-f") == ""
    assert {"bridge", "host", "none"} <= set(daemon.out("network", "ls", "--format", "{{.Name}}").split())
    assert daemon.out("run", "--rm", "--network", "none", "busybox", "echo", "still works") == "still works"


def test_system_prune_takes_all_at_once_and_spares_what_is_used(daemon: Daemon) -> None:
    ran(daemon, "ended", "-v", "/anonymous", "-v", "named:/n")
    unnamed(daemon)
    daemon.out("create", "--name", "kept", "--label", "keep=1", "--network", "none", "busybox", "true")
    shown = daemon.out("system", "prune", "-af", "--volumes", "--filter", "label!=keep=1")
    assert "Deleted Containers:" in shown
    assert "Deleted Volumes:" in shown
    assert "untagged: twice:1" in shown
    assert daemon.out("ps", "-a", "--format", "{{.Names}}") == "kept"
    assert daemon.out("volume", "ls", "-q") == "named"
    assert daemon.out("images", "--format", "{{.Repository}}") == "busybox"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("container", "prune", "-f", "--filter", "color=red"), "invalid filter 'color'"),
        (("image", "prune", "-f", "--filter", "until=whenever"), "whenever"),
        (("volume", "prune", "-f", "--filter", "until=1h"), "invalid filter 'until'"),
    ],
)
def test_a_filter_that_is_not_known_is_refused_and_nothing_goes(
    daemon: Daemon, words: tuple[str, ...], text: str
) -> None:
    ran(daemon, "ended")
    done = daemon.docker(*words, check=False)
    assert done.returncode == 1
    assert text in done.stderr
    assert daemon.out("ps", "-aq")


def test_filters_choose_by_label_and_age(daemon: Daemon) -> None:
    for name in ("one", "two"):
        daemon.out("create", "--name", name, "--label", f"n={name}", "--network", "none", "busybox", "true")
    assert "Deleted Containers:" in daemon.out("container", "prune", "-f", "--filter", "label=n=one")
    assert daemon.out("container", "prune", "-f", "--filter", "until=1h") == "Total reclaimed space: 0B"
    assert daemon.out("ps", "-a", "--format", "{{.Names}}") == "two"
    assert daemon.out("image", "prune", "-af", "--filter", "until=24h") == "Total reclaimed space: 0B"


def test_prune_is_an_event_with_what_it_gave_back(daemon: Daemon) -> None:
    ran(daemon, "ended", script="echo x >/file")
    daemon.out("container", "prune", "-f")
    span = ("--since", "1", "--until", str(int(time.time()) + 1))
    lines = daemon.out("events", *span, "--filter", "event=prune", "--format", "{{json .}}").splitlines()
    events = [json.loads(line) for line in lines]
    assert [(event["Type"], event["Actor"]["Attributes"]) for event in events] == [("container", {"reclaimed": "2"})]


def test_a_dry_run_removes_nothing_and_the_real_one_what_it_showed(daemon: Daemon) -> None:
    id = ran(daemon, "ended", "-v", "/anonymous")
    old = unnamed(daemon)
    words = ("system", "prune", "--volumes")
    shown = scow(daemon, *words, "--dry-run").stdout
    kinds = [line.split()[0] for line in shown.splitlines()[1:] if line][:-1]
    assert kinds == ["container", "volume", "image"]
    assert id[:12] in shown
    assert old[7:19] in shown
    total = next(line for line in shown.splitlines() if line.startswith("Would reclaim: ")).split(": ")[1]
    assert len(daemon.out("ps", "-aq").split()) == 1
    assert scow(daemon, *words, check=False).returncode == 1  # nobody says yes
    assert len(daemon.out("ps", "-aq").split()) == 1
    done = scow(daemon, *words, "-f").stdout
    assert f"deleted: {old}" in done
    assert done.splitlines()[-1] == f"Total reclaimed space: {total}"
    assert scow(daemon, *words, "--dry-run").stdout == "Nothing to remove\n"


def test_what_came_into_use_after_the_plan_is_kept(daemon: Daemon) -> None:
    ran(daemon, "ended", "-v", "data:/d")
    daemon.docker("import", "-", "other:1", input=busybox_tar().replace(b"extra:x:77", b"extra:x:78"))
    status, plan = daemon.api("GET", "/scow/v1/prune?kind=container&kind=volume&kind=image&images=all&volumes=all")
    assert status == 200
    assert [item["Kind"] for item in plan["Items"]] == ["container", "volume", "image", "image"]
    daemon.out("create", "--name", "late", "--network", "none", "-v", "data:/d", "busybox", "true")
    daemon.out("tag", "other:1", "mine:1")
    status, outcome = daemon.api("POST", "/scow/v1/prune", {"Items": plan["Items"]})
    assert status == 200
    assert [item["Kind"] for item in outcome["Removed"]] == ["container"]
    assert sorted(kept["Kind"] for kept in outcome["Kept"]) == ["image", "image", "volume"]
    assert daemon.out("ps", "-a", "--format", "{{.Names}}") == "late"
    names = daemon.out("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert sorted(names) == ["busybox:latest", "mine:1", "other:1"]
    status, answer = daemon.api("GET", "/scow/v1/prune?kind=nonsense")
    assert status == 400
    assert "nonsense" in answer["message"]


def test_prune_removes_left_overs_and_partial_downloads(daemon: Daemon) -> None:
    content = daemon.root / "data" / "content"
    (content / "blobs" / "sha256" / ("1" * 64)).write_bytes(b"x" * 1000)
    (content / "ingest" / ("sha256-" + "2" * 64)).write_bytes(b"y" * 500)
    usage = daemon.api("GET", "/scow/v1/disk-usage")[1]
    assert [(left["Kind"], left["Size"]) for left in usage["Orphans"] + usage["Partial"]] == [
        ("blob", 1000),
        ("download", 500),
    ]
    assert "Total reclaimed space: 1.5kB" in scow(daemon, "system", "prune", "-f").stdout
    usage = daemon.api("GET", "/scow/v1/disk-usage")[1]
    assert usage["Orphans"] == usage["Partial"] == []
    assert daemon.out("run", "--rm", "--network", "none", "busybox", "echo", "fine") == "fine"


# Disk usage


def summary(daemon: Daemon) -> dict[str, Any]:
    """What `GET /scow/v1/disk-usage` says of each owner."""
    status, value = daemon.api("GET", "/scow/v1/disk-usage")
    assert status == 200
    return {row["Type"]: row for row in value["Summary"]}


def test_df_of_docker_counts_images_containers_and_volumes(daemon: Daemon) -> None:
    ran(daemon, "ended", "-v", "data:/d", script="dd if=/dev/zero of=/d/x bs=1k count=20; echo 12345 >/file")
    daemon.out("tag", "busybox", "second")
    lines = [line.split() for line in daemon.out("system", "df", "--format", "{{json .}}").splitlines()]
    rows = [json.loads(" ".join(line)) for line in lines]
    shown = {row["Type"]: (row["TotalCount"], row["Active"], row["Size"]) for row in rows}
    size = daemon.out("images", "--format", "{{.Size}}", "busybox")
    assert shown["Containers"] == ("1", "0", "6B")
    assert shown["Local Volumes"] == ("1", "1", "20.48kB")
    assert shown["Images"][:2] == ("1", "1")
    assert shown["Images"][2].startswith(size.rstrip("MB")[:3])
    detail = daemon.out("system", "df", "-v")
    assert "second" in detail
    assert "data" in detail


def test_df_chooses_types_and_has_the_shape_of_each_api_version(daemon: Daemon) -> None:
    assert set(daemon.api("GET", "/v1.45/system/df")[1]) == {
        "LayersSize",
        "Images",
        "Containers",
        "Volumes",
        "BuildCache",
    }
    assert set(daemon.api("GET", "/v1.45/system/df?type=volume")[1]) == {"Volumes"}
    assert daemon.api("GET", "/v1.41/system/df")[1]["Containers"] is None
    newest = daemon.api("GET", "/v1.52/system/df?verbose=1")[1]
    assert set(newest) == {"ImageUsage", "ContainerUsage", "VolumeUsage", "BuildCacheUsage"}
    assert newest["ImageUsage"]["TotalCount"] == len(newest["ImageUsage"]["Items"]) == 1
    assert newest["ImageUsage"]["Reclaimable"] == newest["ImageUsage"]["TotalSize"] > 0
    assert "Items" not in daemon.api("GET", "/v1.52/system/df")[1]["ImageUsage"]
    assert daemon.api("GET", "/system/df?type=nonsense")[0] == 400


def test_every_byte_below_the_data_root_has_an_owner(daemon: Daemon) -> None:
    ran(daemon, "ended", "-v", "data:/d", script="dd if=/dev/urandom of=/d/x bs=1k count=500; yes | head -c 90000 >/y")
    unnamed(daemon)
    (daemon.root / "data" / "content" / "ingest" / ("sha256-" + "3" * 64)).write_bytes(b"p" * 12345)
    end = time.monotonic() + 20
    while True:  # the storage driver deletes in the background
        told = sum(row["Size"] for row in summary(daemon).values())
        found = sum(path.lstat().st_size for path in (daemon.root / "data").rglob("*") if path.is_file())
        links = sum(path.lstat().st_size for path in (daemon.root / "data").rglob("*") if path.is_symlink())
        if abs(found - links - told) < 5000 or time.monotonic() > end:
            break
        time.sleep(0.2)
    assert abs(found - links - told) < 5000, (found, links, told)


def test_what_a_running_container_writes_is_seen_and_a_restart_remembers(daemon: Daemon) -> None:
    daemon.out("run", "-d", "--network", "none", "--name", "writer", "-v", "data:/d", "busybox", "sleep", "600")
    daemon.out("exec", "writer", "sh", "-c", "head -c 5000 /dev/zero >/f; head -c 700 /dev/zero >/d/g")
    rows = summary(daemon)
    assert (rows["containers"]["Size"], rows["volumes"]["Size"]) == (5000, 700)
    daemon.out("stop", "-t", "0", "writer")
    before = summary(daemon)
    daemon.stop()
    daemon.start()
    after = summary(daemon)
    for name in ("layers", "blobs", "containers", "volumes"):
        assert after[name] == before[name]
