"""Images through a real registry onto overlayfs: pull, push, import and remove with the drivers that Scow ships."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from scow.config import Config
from scow.content import ContentStore
from scow.engine.drivers import Drivers
from scow.engine.images import Images
from scow.engine.model import Image
from scow.errors import NotFound
from scow.events import Events
from scow.host import PluginHost
from scow.linux.mounts import mounted
from scow.ports import STORAGE
from scow.reference import Reference
from scow.state import State
from scow.testing.fakes_registry import make_image, make_tar
from scow.testing.trees import names
from tests.registry import HAVE_REGISTRY, running_registry

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not HAVE_REGISTRY, reason="needs docker-registry (Debian package)"),
]


class Kit:
    """Images of an engine of its own below *root*."""

    def __init__(self, root: Path, host: PluginHost, state: State, config: Config) -> None:
        self.root, self.host, self.drivers = root, host, Drivers(host)
        self.content = ContentStore(root / "content")
        self.messages: list[dict[str, Any]] = []
        self.images = Images(host, self.drivers, state, Events(state), self.content, config, in_use=lambda id: [])

    async def pull(self, ref: str, **options: Any) -> Image:
        return await self.images.pull(Reference.parse(ref), progress=self.messages.append, **options)

    def tree(self, image: Image) -> list[str]:
        at = self.root / "at"
        at.mkdir(exist_ok=True)
        with mounted(self.drivers.get(STORAGE).view(image.chain_id or ""), str(at)):
            return names(at)


def run(root: Path, test: Callable[[Kit], Awaitable[None]]) -> None:
    async def body() -> None:
        config = Config(data_root=root, run_root=root / "run")
        (root / "run").mkdir(parents=True)
        state = await State.open(root / "scow.db")
        host = PluginHost(config)
        try:
            await test(Kit(root, host, state, config))
        finally:
            await asyncio.to_thread(host.close)
            await state.close()

    asyncio.run(body())


def test_an_image_goes_round(tmp_path: Path) -> None:
    with running_registry(tmp_path) as registry:
        small = make_image({"etc/": None, "etc/a": "1", "gone": "x"}, {".wh.gone": "", "b": os.urandom(300_000)})
        registry.put("team/app", "1", small)

        async def test(kit: Kit) -> None:
            name = f"{registry.host}/team/app"
            image = await kit.pull(f"{name}:1")
            assert image.id == small.id
            assert kit.tree(image) == ["b", "etc", "etc/a"]
            await kit.images.tag(image.id, Reference.parse(f"{name}:2"))
            await kit.images.push(Reference.parse(f"{name}:2"), progress=kit.messages.append)
            assert [line.get("status") for line in kit.messages].count("Layer already exists") == 2
            await kit.images.remove(image.id, force=True)
            assert list(kit.content.list()) == []
            assert kit.drivers.get(STORAGE).list() == []
            assert (await kit.pull(f"{name}:2")).id == small.id
            with pytest.raises(NotFound, match=r"manifest for .*team/app:3 not found: manifest unknown"):
                await kit.pull(f"{name}:3")

        run(tmp_path / "engine", test)


def test_an_imported_image_goes_to_another_repository(tmp_path: Path) -> None:
    with running_registry(tmp_path) as registry:

        async def stream() -> AsyncIterator[bytes]:
            yield make_tar({"bin/": None, "bin/tool": b"#!" + os.urandom(100_000)})

        async def test(kit: Kit) -> None:
            target = Reference.parse(f"{registry.host}/own:1")
            image = await kit.images.import_tar(
                stream(), target, changes=["CMD /bin/tool"], message="", platform="", progress=kit.messages.append
            )
            assert kit.tree(image) == ["bin", "bin/tool"]
            await kit.images.push(target, progress=kit.messages.append)
            await kit.images.remove(str(target))
            again = await kit.pull(str(target))
            assert again.id == image.id
            assert again.config.config.cmd == ["/bin/sh", "-c", "/bin/tool"]

        run(tmp_path / "engine", test)


def test_many_images_at_once(tmp_path: Path) -> None:
    with running_registry(tmp_path) as registry:
        base = {f"base{n}": os.urandom(20_000) for n in range(10)}
        for number in range(6):
            registry.put(f"app{number}", "latest", make_image(dict(base), {f"own{number}": "1"}))

        async def test(kit: Kit) -> None:
            images = await asyncio.gather(*(kit.pull(f"{registry.host}/app{number}") for number in range(6)))
            for number, image in enumerate(images):
                assert f"own{number}" in kit.tree(image)
            assert len(kit.drivers.get(STORAGE).list()) == 7

        run(tmp_path / "engine", test)
