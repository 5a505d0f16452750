"""The promises of a storage driver, as a test class to inherit from.

::

    class TestZfs(StorageContract):
        @pytest.fixture
        def make_driver(self, tmp_path):
            return lambda: ZfsDriver(context("zfs", tmp_path / "state"))

Every call of *make_driver* makes a driver with the same state directory, as after a restart. What a snapshot holds is
looked at through the driver's own recipes, so the tests need root (or an override of *look*).
"""

from __future__ import annotations

import hashlib
import inspect
import io
import os
import stat
import tarfile
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from scow.errors import Conflict, DriverUnusable, InvalidArgument, NotFound
from scow.linux.mounts import mounted
from scow.ports.storage import StorageDriver
from scow.testing.fakes_registry import FileTree, make_tar
from scow.testing.storage_exact import ExactLayers
from scow.testing.storage_making import LayersInTheMaking
from scow.testing.trees import add, described, entry, layer_key, names, stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from scow.ports import Mount

    Look = Callable[[Sequence[Mount]], AbstractContextManager[Path]]

ACTIVE = "c0ffee" + "0" * 58


class StorageContract(LayersInTheMaking, ExactLayers):
    """Override the fixture *make_driver*; *look*, *many_layers* and *has_owners* where the driver needs it."""

    @pytest.fixture
    def make_driver(self) -> Callable[[], StorageDriver]:
        """A driver on the test's own state directory."""
        raise NotImplementedError("override the fixture make_driver")

    @pytest.fixture
    def many_layers(self) -> int:
        """How many layers one chain may have at least; engines promise 128."""
        return 128

    @pytest.fixture
    def has_owners(self) -> bool:
        """Whether files keep the owners and device numbers of the tar."""
        return os.geteuid() == 0

    @pytest.fixture
    def look(self, tmp_path: Path) -> Look:
        """Shows the root that recipes describe, for as long as a block lasts."""
        place = tmp_path / "look"
        place.mkdir()

        @contextmanager
        def show(mounts: Sequence[Mount]) -> Iterator[Path]:
            with mounted(mounts, str(place)):
                yield place

        return show

    @pytest.fixture
    def driver(self, make_driver: Callable[[], StorageDriver]) -> Iterator[StorageDriver]:
        """One that this host can serve; the tests of another are skipped with what it lacks."""
        driver = make_driver()
        try:
            driver.check()
        except DriverUnusable as error:
            driver.close()
            pytest.skip(str(error))
        yield driver
        driver.close()

    # The contract itself

    def test_it_has_the_protocol_and_its_signatures(self, driver: StorageDriver) -> None:
        assert isinstance(driver, StorageDriver)
        for name, method in inspect.getmembers(StorageDriver, inspect.isfunction):
            if not name.startswith("_"):
                wanted = list(inspect.signature(method).parameters)[1:]
                assert list(inspect.signature(getattr(driver, name)).parameters) == wanted, name

    def test_closing_twice_is_no_error(self, driver: StorageDriver) -> None:
        driver.close()
        driver.close()

    def test_status_is_rows_of_text(self, driver: StorageDriver) -> None:
        assert all(isinstance(name, str) and isinstance(value, str) for name, value in driver.status())

    def test_keys_that_are_no_names_are_refused(self, driver: StorageDriver) -> None:
        for key in ("../../etc", "a/b", "", ".", ".."):
            with pytest.raises((InvalidArgument, NotFound)):
                driver.prepare(key, None)
            with pytest.raises((InvalidArgument, NotFound)):
                driver.stat(key)

    # Layers

    def test_a_layer_is_shown_as_its_tar_says(self, driver: StorageDriver, look: Look, has_owners: bool) -> None:
        files: FileTree = {
            "etc": entry(tarfile.DIRTYPE, mode=0o750, mtime=1000),
            "etc/file": "text",
            "bin": entry(tarfile.DIRTYPE),
            "bin/su": entry(mode=0o4755, uid=12, gid=34, mtime=1234567890),
            "bin/hard": entry(tarfile.LNKTYPE, linkname="bin/su"),
            "bin/soft": entry(tarfile.SYMTYPE, linkname="../etc/file"),
            "a" * 90 + "/" + "b" * 120: "long",
        }
        key = add(driver, "one", None, files)
        with look(driver.view(key)) as root:
            assert (root / "etc/file").read_text() == (root / "bin/soft").read_text() == "text"
            assert stat.S_IMODE((root / "etc").stat().st_mode) == 0o750
            assert (root / "etc").stat().st_mtime == 1000
            su = (root / "bin/su").stat()
            assert (stat.S_IMODE(su.st_mode), su.st_mtime, su.st_nlink) == (0o4755, 1234567890, 2)
            if has_owners:
                assert (su.st_uid, su.st_gid) == (12, 34)
            assert (root / ("a" * 90) / ("b" * 120)).read_text() == "long"

    def test_a_view_cannot_be_written(self, driver: StorageDriver, look: Look) -> None:
        key = add(driver, "one", None, {"file": "1"})
        with look(driver.view(key)) as root, pytest.raises(OSError, match="[Rr]ead-only"):
            (root / "file").write_text("2")

    def test_applying_again_changes_nothing(self, driver: StorageDriver, look: Look) -> None:
        key = add(driver, "one", None, {"file": "1"})
        assert driver.apply(key, None, layer_key("x"), stream({"file": "2"})) == driver.usage(key)
        with look(driver.view(key)) as root:
            assert (root / "file").read_text() == "1"

    def test_a_missing_parent_is_not_found(self, driver: StorageDriver) -> None:
        with pytest.raises(NotFound):
            add(driver, "two", layer_key("nothing"), {"file": "1"})
        with pytest.raises(NotFound):
            driver.prepare(ACTIVE, layer_key("nothing"))
        assert driver.list() == []

    def test_moved_replaced_and_deleted_files(self, driver: StorageDriver, look: Look) -> None:
        one = add(driver, "one", None, {"a": "1", "d/": None, "d/x": "1", "d/y": "1", "f": "1", "o/": None, "o/x": "1"})
        two = add(
            driver,
            "two",
            one,
            {"b": "1", ".wh.a": "", "d": "now a file", "f/": None, "f/x": "2", "o/.wh..wh..opq": "", "o/y": "2"},
        )
        with look(driver.view(two)) as root:
            assert names(root) == ["b", "d", "f", "f/x", "o", "o/y"]
            assert (root / "d").read_text() == "now a file"
        with look(driver.view(one)) as root:
            assert names(root) == ["a", "d", "d/x", "d/y", "f", "o", "o/x"]

    def test_what_a_layer_deleted_another_makes_anew(self, driver: StorageDriver, look: Look) -> None:
        one = add(driver, "one", None, {"d/": None, "d/old": "1"})
        two = add(driver, "two", one, {".wh.d": ""})
        three = add(driver, "three", two, {"d/": None, "d/new": "3"})
        with look(driver.view(three)) as root:
            assert names(root) == ["d", "d/new"]

    def test_a_whiteout_spares_what_its_own_layer_brings(self, driver: StorageDriver, look: Look) -> None:
        one = add(driver, "one", None, {"d/": None, "d/old": "1", "f": "1"})
        orders: list[FileTree] = [
            {"d/": None, "d/new": "2", ".wh.d": ""},
            {".wh.d": "", "d/": None, "d/new": "2"},
        ]
        for number, files in enumerate(orders, 2):
            key = add(driver, str(number), one, files)
            with look(driver.view(key)) as root:
                assert names(root) == ["d", "d/new", "f"]

    def test_directories_that_a_layer_leaves_out_keep_their_attributes(self, driver: StorageDriver, look: Look) -> None:
        one = add(driver, "one", None, {"tmp": entry(tarfile.DIRTYPE, mode=0o1777, mtime=500), "tmp/a": "1"})
        two = add(driver, "two", one, {"tmp/b": "2"})
        with look(driver.view(two)) as root:
            assert names(root) == ["tmp", "tmp/a", "tmp/b"]
            assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777

    def test_the_roots_own_attributes_reach_the_container(self, driver: StorageDriver, look: Look) -> None:
        key = add(driver, "one", None, {"./": entry(tarfile.DIRTYPE, mode=0o711), "file": "1"})
        two = add(driver, "two", key, {"other": "1"})
        with look(driver.prepare(ACTIVE, two)) as root:
            assert stat.S_IMODE(root.stat().st_mode) == 0o711

    @pytest.mark.parametrize(
        "name",
        ["../escape", "d/../../escape", "/../escape", ".wh...", "d/.wh..", ".wh."],
    )
    def test_a_hostile_tar_is_refused_and_leaves_nothing(self, driver: StorageDriver, name: str) -> None:
        with pytest.raises(InvalidArgument):
            add(driver, "bad", None, {"good": "1", name: "evil"})
        with pytest.raises(NotFound):
            driver.stat(layer_key("bad"))
        assert driver.list() == []

    def test_a_tar_that_breaks_off_leaves_nothing(self, driver: StorageDriver) -> None:
        data = make_tar({f"file{n}": "x" * 5000 for n in range(20)})
        with pytest.raises(InvalidArgument):
            driver.apply(layer_key("bad"), None, layer_key("x"), io.BytesIO(data[:50000]))
        assert driver.list() == []

    def test_a_stream_that_fails_leaves_nothing(self, driver: StorageDriver) -> None:
        class Failing(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                if self.tell() > 20000:
                    raise OSError("the disk fell over")
                return super().read(min(size or 0, 4096))

        data = make_tar({f"file{n}": "x" * 5000 for n in range(20)})
        with pytest.raises(OSError, match="fell over"):
            driver.apply(layer_key("bad"), None, layer_key("x"), Failing(data))
        assert driver.list() == []
        add(driver, "bad", None, {"file": "1"})

    def test_the_stream_is_read_to_its_end(self, driver: StorageDriver) -> None:
        source = io.BytesIO(make_tar({"file": "1"}) + bytes(300_000))
        driver.apply(layer_key("one"), None, layer_key("x"), source)
        assert source.read() == b""

    # Active snapshots

    def test_writes_stay_in_the_active_snapshot(self, driver: StorageDriver, look: Look) -> None:
        key = add(driver, "one", None, {"file": "1", "gone": "1"})
        with look(driver.prepare(ACTIVE, key)) as root:
            (root / "file").write_text("2")
            (root / "gone").unlink()
            (root / "new").write_text("3")
        with look(driver.view(key)) as root:
            assert (names(root), (root / "file").read_text()) == (["file", "gone"], "1")
        with look(driver.mounts(ACTIVE)) as root:
            assert (names(root), (root / "file").read_text()) == (["file", "new"], "2")

    def test_an_active_snapshot_can_begin_with_nothing(self, driver: StorageDriver, look: Look) -> None:
        with look(driver.prepare(ACTIVE, None)) as root:
            assert names(root) == []
            (root / "file").write_text("1")

    def test_preparing_twice_is_a_conflict(self, driver: StorageDriver) -> None:
        key = add(driver, "one", None, {"file": "1"})
        mounts = driver.prepare(ACTIVE, key)
        with pytest.raises(Conflict):
            driver.prepare(ACTIVE, key)
        assert driver.mounts(ACTIVE) == mounts
        driver.remove(ACTIVE)
        assert driver.prepare(ACTIVE, key)

    def test_nothing_is_built_on_an_active_snapshot(self, driver: StorageDriver) -> None:
        driver.prepare(ACTIVE, None)
        with pytest.raises(InvalidArgument):
            driver.prepare(ACTIVE + "-init", ACTIVE)
        with pytest.raises(InvalidArgument):
            add(driver, "two", ACTIVE, {"file": "1"})

    def test_many_are_prepared_at_once(self, driver: StorageDriver) -> None:
        key = add(driver, "one", None, {"file": "1"})
        failures: list[Exception] = []

        def prepare(number: int) -> None:
            try:
                for n in range(10):
                    driver.prepare(f"{number:032x}{n:032x}", key)
            except Exception as error:  # noqa: BLE001
                failures.append(error)

        threads = [threading.Thread(target=prepare, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(driver.list()) == 51

    def test_a_commit_makes_a_layer_of_the_changes(self, driver: StorageDriver, look: Look) -> None:
        one = add(driver, "one", None, {"file": "1", "gone": "1"})
        with look(driver.prepare(ACTIVE, one)) as root:
            (root / "file").write_text("changed")
            (root / "gone").unlink()
        usage = driver.commit(layer_key("two"), ACTIVE)
        assert usage.size_bytes >= len("changed")
        assert driver.stat(layer_key("two")).parent == one
        with pytest.raises(NotFound):
            driver.stat(ACTIVE)
        with look(driver.view(layer_key("two"))) as root:
            assert (names(root), (root / "file").read_text()) == (["file"], "changed")

    def test_a_commit_takes_no_others_place(self, driver: StorageDriver) -> None:
        one = add(driver, "one", None, {"file": "1"})
        driver.prepare(ACTIVE, one)
        with pytest.raises(Conflict):
            driver.commit(one, ACTIVE)
        with pytest.raises(NotFound):
            driver.commit(layer_key("two"), "f" * 64)
        assert not driver.stat(ACTIVE).committed

    def test_the_diff_applied_elsewhere_gives_the_same_tree(self, driver: StorageDriver, look: Look) -> None:
        one = add(driver, "one", None, {"d/": None, "d/a": "1", "gone": "1", "was/": None, "was/x": "1"})
        with look(driver.prepare(ACTIVE, one)) as root:
            (root / "gone").unlink()
            (root / "new").write_text("2" * 3000)
            os.link(root / "new", root / "hard")
            (root / "soft").symlink_to("new")
            (root / "d/a").chmod(0o600)
            for path in ((root / "was/x"), (root / "was")):
                path.unlink() if path.is_file() else path.rmdir()
            (root / "was").mkdir()
            os.mkfifo(root / "was" / "fifo")
            (root / ("n" * 200)).write_text("long")
        data = b"".join(driver.diff(ACTIVE))
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert ".wh.gone" in tar.getnames()
        copy = layer_key("copy")
        driver.apply(copy, one, "sha256:" + hashlib.sha256(data).hexdigest(), io.BytesIO(data))
        with look(driver.mounts(ACTIVE)) as root:
            wanted = described(root)
        with look(driver.view(copy)) as root:
            assert described(root) == wanted

    # Removal, look-ups, restarts

    def test_a_parent_in_use_stays(self, driver: StorageDriver) -> None:
        one = add(driver, "one", None, {"file": "1"})
        driver.prepare(ACTIVE, one)
        with pytest.raises(Conflict):
            driver.remove(one)
        driver.remove(ACTIVE)
        driver.remove(one)
        driver.remove(one)
        assert driver.list() == []
        for call in (driver.stat, driver.view, driver.usage, driver.mounts):
            with pytest.raises(NotFound):
                call(one)

    def test_the_list_has_parents_before_children(self, driver: StorageDriver) -> None:
        one = add(driver, "one", None, {"a": "1"})
        two = add(driver, "two", one, {"b": "1"})
        driver.prepare(ACTIVE, two)
        assert [snapshot.key for snapshot in driver.list()] == [one, two, ACTIVE]
        assert [snapshot.parent for snapshot in driver.list()] == [None, one, two]
        assert [snapshot.committed for snapshot in driver.list()] == [True, True, False]

    def test_usage_is_that_of_the_snapshot_alone(self, driver: StorageDriver, look: Look) -> None:
        one = add(driver, "one", None, {"big": "x" * 100_000})
        two = add(driver, "two", one, {"small": "y" * 100})
        assert driver.usage(one).size_bytes >= 100_000
        assert driver.usage(two).size_bytes < 100_000
        before = driver.usage(ACTIVE).size_bytes if driver.prepare(ACTIVE, two) else 0
        with look(driver.mounts(ACTIVE)) as root:
            (root / "new").write_bytes(b"z" * 50_000)
        assert driver.usage(ACTIVE).size_bytes - before >= 50_000

    def test_a_restart_changes_nothing(
        self, driver: StorageDriver, make_driver: Callable[[], StorageDriver], look: Look
    ) -> None:
        one = add(driver, "one", None, {"file": "1"})
        with look(driver.prepare(ACTIVE, one)) as root:
            (root / "mine").write_text("2")
        before, usage = driver.list(), driver.usage(one)
        driver.close()
        again = make_driver()
        try:
            assert (again.list(), again.usage(one)) == (before, usage)
            with look(again.mounts(ACTIVE)) as root:
                assert names(root) == ["file", "mine"]
            with pytest.raises(Conflict):
                again.prepare(ACTIVE, one)
        finally:
            again.close()

    def test_many_layers(self, driver: StorageDriver, look: Look, many_layers: int) -> None:
        parent: str | None = None
        for number in range(many_layers):
            parent = add(driver, f"layer {number}", parent, {f"file{number}": "1", "top": str(number)})
        with look(driver.prepare(ACTIVE, parent)) as root:
            assert len(names(root)) == many_layers + 1
            assert (root / "top").read_text() == str(many_layers - 1)
