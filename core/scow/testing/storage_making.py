"""The promises of a storage driver about layers whose parents are made at the same time; part of `StorageContract`."""

from __future__ import annotations

import io
import stat
import tarfile
import threading
from typing import TYPE_CHECKING

import pytest

from scow.errors import Unavailable
from scow.testing.fakes_registry import make_tar
from scow.testing.trees import add, entry, layer_key, names, stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from scow.ports import Mount
    from scow.ports.storage import StorageDriver

    Look = Callable[[Sequence[Mount]], AbstractContextManager[Path]]


class LayersInTheMaking:
    """Needs the fixtures of `StorageContract`."""

    def test_a_layer_is_applied_while_its_parent_is_made(self, driver: StorageDriver, look: Look) -> None:
        ready = threading.Event()
        data = make_tar({"d/new": "2", ".wh.gone": ""})
        arguments = (layer_key("two"), layer_key("one"), layer_key("x"), io.BytesIO(data), ready.wait)
        above = threading.Thread(target=driver.apply, args=arguments)
        above.start()
        try:
            add(driver, "one", None, {"d": entry(tarfile.DIRTYPE, mode=0o750), "d/old": "1", "gone": "1"})
        finally:
            ready.set()
            above.join()
        assert driver.stat(layer_key("two")).parent == layer_key("one")
        with look(driver.view(layer_key("two"))) as root:
            assert names(root) == ["d", "d/new", "d/old"]
            assert stat.S_IMODE((root / "d").stat().st_mode) == 0o750

    def test_a_parent_that_fails_fails_the_layer_above_it(self, driver: StorageDriver) -> None:
        def never() -> None:
            raise Unavailable("the layer below came to nothing")

        with pytest.raises(Unavailable, match="came to nothing"):
            driver.apply(layer_key("two"), layer_key("one"), layer_key("x"), stream({"file": "1"}), never)
        assert driver.list() == []
