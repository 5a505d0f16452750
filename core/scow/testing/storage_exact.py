"""The promises of a storage driver about whiteouts and roots in odd places; part of `StorageContract`."""

from __future__ import annotations

import io
import stat
from typing import TYPE_CHECKING

import pytest

from scow.testing.trees import add, layer_key, names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from scow.ports import Mount
    from scow.ports.storage import StorageDriver

    Look = Callable[[Sequence[Mount]], AbstractContextManager[Path]]


class ExactLayers:
    """Needs the fixtures of `StorageContract`."""

    def test_owner_and_mode_of_the_root_are_in_the_diff(self, driver: StorageDriver, look: Look) -> None:
        active = "a" * 64
        one = add(driver, "one", None, {"a": "1"})
        with look(driver.prepare(active, one)) as root:
            root.chmod(0o711)
        driver.apply(layer_key("copy"), one, layer_key("x"), io.BytesIO(b"".join(driver.diff(active))))
        with look(driver.view(layer_key("copy"))) as root:
            assert (stat.S_IMODE(root.stat().st_mode), names(root)) == (0o711, ["a"])

    def test_a_whiteout_of_nothing_shows_nothing(self, driver: StorageDriver, look: Look) -> None:
        one = add(driver, "one", None, {"file": "1", ".wh.no": "", "d/": None, "d/.wh.no": ""})
        two = add(driver, "two", one, {"e/": None, "e/.wh.no": "", "file/.wh.no": "", "no/.wh.no": ""})
        with look(driver.view(two)) as root:
            assert names(root) == ["d", "e", "file"]

    def test_an_opaque_root_shows_nothing_of_the_layers_below(self, driver: StorageDriver, look: Look) -> None:
        one = add(driver, "one", None, {"file": "1", "d/": None, "d/old": "1"})
        two = add(driver, "two", one, {".wh..wh..opq": "", "d/": None, "d/new": "2"})
        with look(driver.view(two)) as root:
            assert names(root) == ["d", "d/new"]

    def test_an_active_snapshot_is_viewed_while_it_is_mounted_and_goes_on(
        self, driver: StorageDriver, look: Look
    ) -> None:
        active = "a" * 64
        one = add(driver, "one", None, {"file": "1", "gone": "1", "d/": None, "d/old": "1"})
        with look(driver.prepare(active, one)) as root:
            (root / "new").write_text("2")
            (root / "gone").unlink()
            with look(driver.view(active)) as shown:
                assert names(shown) == ["d", "d/old", "file", "new"]
                with pytest.raises(OSError, match="[Rr]ead-only"):
                    (shown / "file").write_text("3")
            (root / "file").write_text("3")
            (root / "d" / "old").unlink()
        with look(driver.view(active)) as shown:
            assert (names(shown), (shown / "file").read_text()) == (["d", "file", "new"], "3")
