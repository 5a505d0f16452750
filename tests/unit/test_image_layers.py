"""What images share, what each layer does, and what the layers above it waste."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest

from scow.engine.image_diff import Change, ChunkReader, Comparison, ImageDiff, LayerDiff
from scow.engine.image_layers import ImageLayers
from scow.errors import InvalidArgument
from scow.oci import chain_ids
from scow.testing.fakes_registry import FileTree, make_tar
from tests.unit.usage_kit import BASE, Engine, run


def compared(*layers: FileTree) -> ImageDiff:
    """The comparison of *layers*, with all changes."""
    comparison = Comparison(with_changes=True)
    for number, files in enumerate(layers):
        comparison.add(LayerDiff(f"d{number}", f"c{number}", ""), io.BytesIO(make_tar(files)))
    return comparison.result()


def counts(layer: LayerDiff) -> tuple[int, int, int]:
    return layer.added, layer.changed, layer.deleted


def test_layers_are_counted_by_who_stands_on_them(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        one, two = await engine.brought("a"), await engine.brought("b")
        layers = engine.images.layers
        assert [layer.chain_id for layer in layers.of(one.id)] == chain_ids(list(one.diff_ids))
        assert {layer.chain_id for layer in layers.freed_by([one.id])} == {one.chain_id}
        assert len(layers.freed_by([one.id, two.id])) == 3
        again = engine.kit.again().layers
        assert again.total_bytes == layers.total_bytes
        await engine.images.remove("a")
        await engine.images.remove("b")
        assert (layers.total_bytes, layers.of(one.id), (one.chain_id or "") in layers) == (0, (), False)

    run(tmp_path, test)


def test_the_tree_shows_images_that_share_under_what_they_share(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        one, two = await engine.brought("a"), await engine.brought("b")
        more = await engine.brought("c", {"c": "1"}, {"d": "1"})
        alone = await engine.brought("scratch", BASE, {"x": "y" * 100_000})
        (base,) = engine.images.tree()
        assert base.size_bytes == one.layer_sizes[0]
        assert base.created_by == "layer 0"
        assert [node.images for node in base.layers][0] == []  # the largest first: the one of scratch
        assert {tuple(node.images) for node in base.layers[1:]} == {(one.id,), (two.id,), ()}
        (node,) = engine.images.tree(["c"])
        while node.layers:
            (node,) = node.layers
        assert node.images == [more.id]
        assert alone.id in str(engine.images.tree())

    run(tmp_path, test)


def test_an_image_without_layers_is_in_no_tree() -> None:
    assert ImageLayers().of("sha256:none") == ()


def test_what_a_layer_replaces_and_deletes_is_wasted() -> None:
    found = compared(
        {"etc/": None, "etc/a": "1" * 10, "var/": None, "var/cache/": None, "var/cache/big": "x" * 1000, "keep": "k"},
        {"etc/a": "2" * 20, "new": "n"},
        {"var/.wh.cache": "", "etc/a": "3" * 30},
    )
    first, second, third = found.layers
    assert [counts(layer) for layer in found.layers] == [(6, 0, 0), (1, 1, 0), (0, 1, 1)]
    assert (first.size_bytes, first.wasted_bytes) == (1011, 1010)
    assert (second.size_bytes, second.wasted_bytes) == (21, 20)
    assert (third.size_bytes, third.wasted_bytes) == (30, 0)
    assert (found.size_bytes, found.wasted_bytes) == (1062, 1030)
    assert [(waste.path, waste.size_bytes, waste.times) for waste in found.worst] == [
        ("/var/cache/big", 1000, 1),
        ("/etc/a", 30, 2),
    ]
    assert Change("D", "/var/cache", 1000) in third.changes
    assert Change("C", "/etc/a", 20) in second.changes


def test_an_opaque_folder_hides_what_lies_below_it_and_not_what_it_brings() -> None:
    found = compared(
        {"d/": None, "d/old": "o" * 5, "d/sub/": None, "d/sub/old": "s" * 7},
        {"d/": None, "d/new": "n", "d/.wh..wh..opq": "", "d/sub/new": "m" * 3},
    )
    assert found.layers[0].wasted_bytes == 12
    assert found.layers[1].wasted_bytes == 0
    assert {change.path for change in found.layers[1].changes if change.kind == "D"} == {"/d/old", "/d/sub"}


def test_a_deletion_of_what_is_not_there_and_of_what_the_layer_brings_counts_nothing() -> None:
    found = compared({"a": "1"}, {"b": "2", ".wh.b": "", ".wh.c": ""})
    assert counts(found.layers[1]) == (1, 0, 0)
    assert found.wasted_bytes == 0


def test_a_folder_that_becomes_a_file_loses_its_content() -> None:
    found = compared({"d/": None, "d/x": "12345"}, {"d": "file"})
    assert found.layers[0].wasted_bytes == 5
    assert counts(found.layers[1]) == (0, 1, 0)


def test_hostile_names_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="outside the root"):
        compared({"../x": "1"})
    with pytest.raises(InvalidArgument):
        Comparison(False).add(LayerDiff("", "", ""), io.BytesIO(b"no tar" * 1000))


def test_names_that_are_no_text_are_shown_all_the_same() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        tar.addfile(tarfile.TarInfo("caf\xe9"))
    comparison = Comparison(with_changes=True)
    comparison.add(LayerDiff("", "", ""), io.BytesIO(out.getvalue()))
    assert [change.path for change in comparison.result().layers[0].changes] == ["/caf\\xe9"]


def test_what_is_left_of_the_bytes_is_what_the_merged_tree_holds() -> None:
    """Random layers: bytes minus waste is the size of the files that remain."""
    dice = random.Random(7)
    for _ in range(200):
        merged: dict[str, int] = {}
        layers: list[FileTree] = []
        for _ in range(dice.randrange(1, 5)):
            files: dict[str, Any] = {}
            for path in dice.sample(["a", "b", "d/x", "d/y", "d/e/z", "f/g"], 3):
                if dice.random() < 0.3:
                    folder, _, base = path.rpartition("/")
                    files[f"{folder}/.wh.{base}".lstrip("/")] = ""
                    merged.pop(path, None)
                else:
                    size = dice.randrange(1, 50)
                    files[path], merged[path] = "x" * size, size
            if dice.random() < 0.2 and not any(name.startswith("d/") for name in files):
                files[".wh.d"] = ""
                merged = {path: size for path, size in merged.items() if not path.startswith("d/")}
            layers.append(files)
        found = compared(*layers)
        assert found.size_bytes - found.wasted_bytes == sum(merged.values())


def test_the_diff_of_an_image_reads_blobs_or_where_they_are_gone_snapshots(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        image = await engine.brought("a", {"data": "y" * 100}, {".wh.data": "", "new": "1"})
        found = await engine.images.diff("a", with_changes=True)
        assert [layer.created_by for layer in found.layers] == ["layer 0", "layer 1", "layer 2"]
        assert [layer.diff_id for layer in found.layers] == list(image.diff_ids)
        assert (found.layers[0].wasted_bytes, found.layers[1].wasted_bytes) == (5000, 100)
        for layer in engine.images.blobs.manifest(image).layers:
            engine.kit.content.delete(layer.digest)
        assert await engine.images.diff(image.id, with_changes=True) == found
        assert (await engine.images.diff("a")).layers[0].changes == []

    run(tmp_path, test)


def test_pieces_are_read_as_a_stream() -> None:
    assert ChunkReader([b"ab", b"", b"cde"]).read() == b"abcde"
    reader = ChunkReader([b"abc", b"", b"d"])
    assert [reader.read(2), reader.read(2), reader.read(2), reader.read(2)] == [b"ab", b"c", b"d", b""]
