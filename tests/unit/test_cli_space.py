"""``scow system df``, ``prune``, ``image tree`` and ``diff`` against a fake engine: what is asked, shown and sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from scow.cli.main import root
from tests.unit.cli_server import FakeEngine, Reply, serve

ID, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
CONTAINER = "c" * 64
IMAGE_ITEM = {"Kind": "image", "Id": ID, "Names": ["docker.io/library/x:1"], "CreatedNs": 5, "Size": 1000}
CONTAINER_ITEM = {"Kind": "container", "Id": CONTAINER, "Names": ["web"], "CreatedNs": 6, "Size": -1}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with serve(tmp_path / "s") as engine:
        yield engine


def scow(engine: FakeEngine, *words: str, answer: str | None = None) -> Result:
    result = CliRunner().invoke(root, ["-H", engine.host, *words], input=answer, standalone_mode=False)
    result.exit_code = result.exit_code or int(result.return_value or 0)
    return result


def planned(engine: FakeEngine, *items: dict[str, Any], **outcome: Any) -> None:
    engine.on("GET", "/scow/v1/prune", {"Items": list(items), "Reclaimable": 2000})
    engine.on("POST", "/scow/v1/prune", {"Removed": list(items), "Images": [], "SpaceReclaimed": 2000, **outcome})


def test_a_dry_run_shows_the_plan_and_sends_nothing(engine: FakeEngine) -> None:
    planned(engine, CONTAINER_ITEM, IMAGE_ITEM)
    result = scow(engine, "system", "prune", "--dry-run", "-a", "--filter", "label=x")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines() if line] == [
        ["KIND", "ID", "NAME", "SIZE"],
        ["container", "c" * 12, "web", "N/A"],
        ["image", "a" * 12, "x:1", "1kB"],
        ["Would", "reclaim:", "2kB"],
    ]
    assert engine.sent("POST", "/scow/v1/prune") == []
    (request,) = engine.sent("GET", "/scow/v1/prune")
    assert json.loads(request.query["filters"]) == {"label": ["x"]}
    assert request.query["images"] == "all"


@pytest.mark.parametrize(("answer", "code", "sent"), [("y\n", 0, 1), ("n\n", 1, 0), ("", 1, 0)])
def test_what_was_shown_is_what_is_sent_once_it_is_confirmed(
    engine: FakeEngine, answer: str, code: int, sent: int
) -> None:
    planned(engine, IMAGE_ITEM, Images=[{"Untagged": "x:1"}, {"Deleted": ID}])
    result = scow(engine, "image", "prune", answer=answer)
    assert result.exit_code == code
    requests = engine.sent("POST", "/scow/v1/prune")
    assert [request.json for request in requests] == [{"Items": [IMAGE_ITEM]}] * sent
    assert ("Deleted Images:\nuntagged: x:1\n" in result.stdout) is bool(sent)
    assert ("Total reclaimed space: 2kB" in result.stdout) is bool(sent)
    assert "will remove these 1 objects" in result.stderr


def test_with_force_nobody_is_asked_and_what_was_kept_is_said(engine: FakeEngine) -> None:
    planned(engine, CONTAINER_ITEM, Kept=[{"Kind": "volume", "Id": "v", "Reason": "in use"}])
    result = scow(engine, "container", "prune", "-f")
    assert result.exit_code == 1
    assert result.stdout == f"Deleted Containers:\n{CONTAINER}\n\nTotal reclaimed space: 2kB\n"
    assert "kept volume v: in use" in result.stderr


def test_where_nothing_is_unused_nothing_is_asked(engine: FakeEngine) -> None:
    engine.on("GET", "/scow/v1/prune", {"Items": [], "Reclaimable": 0})
    for words in (("volume", "prune", "-a"), ("network", "prune")):
        result = scow(engine, *words)
        assert (result.exit_code, result.stdout) == (0, "Total reclaimed space: 0B\n")
    volume, network = engine.sent("GET", "/scow/v1/prune")
    assert (volume.query, network.query) == ({"kind": "volume", "volumes": "all"}, {"kind": "network"})


def usage(**lists: Any) -> dict[str, Any]:
    summary = [
        {"Type": "layers", "Count": 3, "Active": 1, "Size": 4000, "Reclaimable": 1000},
        {"Type": "partial", "Count": 0, "Active": 0, "Size": 0, "Reclaimable": 0},
    ]
    empty: dict[str, Any] = {name: [] for name in ("Images", "Containers", "Volumes", "Orphans", "Partial")}
    return {"Summary": summary, **empty, **lists}


def test_df_shows_a_line_for_each_owner(engine: FakeEngine) -> None:
    engine.on("GET", "/scow/v1/disk-usage", usage())
    lines = [line.split("  ") for line in scow(engine, "system", "df").stdout.splitlines()]
    assert [[cell.strip() for cell in line if cell] for line in lines] == [
        ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"],
        ["Images", "3", "1", "4kB", "1kB (25%)"],
        ["Partial Downloads", "0", "0", "0B", "0B"],
    ]
    shown = scow(engine, "system", "df", "--format", "{{.Type}}: {{.Size}}").stdout
    assert shown == "Images: 4kB\nPartial Downloads: 0B\n"


def test_df_in_detail(engine: FakeEngine) -> None:
    image = {"Id": ID, "RepoTags": ["h:5000/a/b:1", "c:2"], "RepoDigests": [], "Created": 1, "Size": 3000}
    image |= {"SharedSize": 1000, "UniqueSize": 2000, "BlobsSize": 900, "Containers": 1}
    unnamed = {**image, "Id": OTHER, "RepoTags": []}
    box = {"Id": CONTAINER, "Name": "web", "Image": "c:2", "Command": "sh -c " + "x" * 40, "Created": 1}
    box |= {"State": "running", "Mounts": 2, "SizeRw": -1, "Files": 10, "Measured": ""}
    volume = {"Name": "v", "Driver": "local", "Containers": 1, "Size": 5, "Measured": ""}
    orphan = {"Kind": "blob", "Id": OTHER, "Size": 7}
    engine.on(
        "GET",
        "/scow/v1/disk-usage",
        usage(Images=[image, unnamed], Containers=[box], Volumes=[volume], Orphans=[orphan]),
    )
    text = scow(engine, "system", "df", "-v").stdout
    rows = [line.split() for line in text.splitlines()]
    assert rows[3][:3] == ["h:5000/a/b", "1", "a" * 12]
    assert rows[5][:3] == ["<none>", "<none>", "b" * 12]
    assert rows[3][-5:] == ["3kB", "1kB", "2kB", "900B", "1"]
    assert any(row[:2] == ["c" * 12, "c:2"] and "N/A" in row for row in rows)
    assert ["v", "1", "5B"] in rows
    assert ["blob", OTHER, "7B"] in rows
    assert json.loads(scow(engine, "system", "df", "-v", "--format", "json").stdout)["Orphans"] == [orphan]


def node(chain: str, size: int, *layers: dict[str, Any], images: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"ChainId": chain, "Size": size, "CreatedBy": f"RUN {size}", "Images": list(images), "Layers": list(layers)}


def test_the_tree_puts_lonely_layers_together_and_names_images(engine: FakeEngine) -> None:
    one, two = node("x1", 10, images=(ID,)), node("x2", 5, node("x3", 6, images=(OTHER,)))
    base = node("b1", 1000, node("b2", 1000, one, two))
    engine.on("GET", "/scow/v1/images/tree", {"Layers": [base], "Images": {ID: ["a:1", "a:2"], OTHER: []}})
    result = scow(engine, "image", "tree", "a:1")
    assert result.stdout.splitlines() == [
        "b2 2 layers 2kB  RUN 1000",
        "├─ x1 1 layer 10B  a:1, a:2",
        "└─ x3 2 layers 11B  " + "b" * 12,
    ]
    assert engine.sent("GET", "/scow/v1/images/tree")[0].query == {"name": "a:1"}


def test_the_diff_shows_each_layer_and_the_worst_paths(engine: FakeEngine) -> None:
    layer = {"DiffId": ID, "ChainId": OTHER, "CreatedBy": "RUN  x", "Added": 3, "Changed": 2, "Deleted": 1}
    layer |= {"Size": 1000, "Wasted": 250, "Changes": [{"Kind": "A", "Path": "/p", "Size": 4}]}
    worst = [{"Path": "/var/big", "Size": 250, "Times": 1}]
    found = {"Layers": [layer], "Size": 1000, "Wasted": 250, "Worst": worst}
    engine.on("GET", "/scow/v1/images/h:5000/a/diff", found)
    lines = scow(engine, "image", "diff", "--changes", "h:5000/a").stdout.splitlines()
    assert lines[1].split() == ["b" * 12, "1kB", "3", "2", "1", "250B", "RUN", "x"]
    assert "Total: 1kB, wasted: 250B (25.0%)" in lines
    assert any(line.split() == ["250B", "1", "/var/big"] for line in lines)
    assert "A /p (4B)" in lines
    assert json.loads(scow(engine, "image", "diff", "--format", "json", "h:5000/a").stdout) == found


def test_the_platform_is_passed_on(engine: FakeEngine) -> None:
    engine.on("GET", "/images/x/json", {"Id": ID})
    engine.on("GET", "/images/x/history", Reply(200, []))
    engine.on("DELETE", "/images/x", Reply(200, []))
    scow(engine, "image", "inspect", "--platform", "linux/arm64", "x")
    scow(engine, "history", "--platform", "linux/arm64", "x")
    scow(engine, "rmi", "--platform", "linux/arm64", "x")
    sent = [request.query for request in engine.requests if request.path.startswith("/images")]
    assert sent == [{"platform": "linux/arm64"}, {"platform": "linux/arm64"}, {"platforms": "linux/arm64"}]
