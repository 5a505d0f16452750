"""Makes an image of what a container changed: ``docker commit``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scow.engine.image_changes import apply_changes, image_config
from scow.engine.manifests import make_config, make_manifest, manifest_in_store, parse_config
from scow.engine.merge import merge
from scow.engine.model import Image
from scow.engine.progress import LayerProgress
from scow.engine.times import rfc3339
from scow.engine.unpack_stored import StoredLayers
from scow.errors import Conflict, NotFound, ScowError, Unavailable
from scow.oci import OCI_CONFIG, OCI_LAYER, Descriptor, chain_ids, digest_of
from scow.ports import STORAGE
from scow.state import CloseIntent, OpenIntent
from scow.tar_writer import END

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from scow.content import Staged
    from scow.engine.containers import Containers
    from scow.engine.live import Live
    from scow.engine.pull_layers import Parts
    from scow.ports.storage import StorageDriver
    from scow.types import ContainerConfig

INTENT = "commit"
_KEPT = ("architecture", "os", "variant", "os.version", "os.features")
_EMPTY = digest_of(END)  # a layer without members: as in Docker, none is added then


@dataclass(frozen=True, slots=True)
class Wish:
    """What ``docker commit`` is told. *config* stands for the container's; *changes* are Dockerfile instructions;
    *tags* are full references; with *pause* a running container stands still meanwhile."""

    config: ContainerConfig | None
    changes: list[str]
    author: str
    message: str
    tags: list[str]
    pause: bool


class Commit:
    """One commit of the container *live*."""

    def __init__(self, parts: Parts, containers: Containers, live: Live, wish: Wish) -> None:
        self._parts, self._containers, self._live, self._wish = parts, containers, live, wish
        self._now_ns = time.time_ns()
        self._layers = StoredLayers(parts)
        self._stored: list[str] = []  # blobs that may not have been there before

    async def run(self) -> Image:
        """The image is stored. Raises `Conflict` for a container that is being removed, `NotFound` where its image is
        gone, `InvalidArgument` for bad changes; nothing is changed then."""
        record, wish = self._live.record, self._wish
        if record.state.status in ("removing", "dead"):
            raise Conflict(f"You cannot commit container {record.id} which is being removed")
        base = self._parts.store.by_id(record.image_id)
        if base is None:
            raise _no_base(record.image_id)
        config = merge(apply_changes(wish.config or record.config, wish.changes), record.config)
        async with self._standing_still() if wish.pause else contextlib.nullcontext():
            staged = await self._stage_changes()
        try:
            return await self._store(base, staged, config)
        except BaseException:
            await self._layers.undo()
            await self._parts.collector.remove_unneeded(self._stored)
            raise
        finally:
            staged.discard()

    @contextlib.asynccontextmanager
    async def _standing_still(self) -> AsyncIterator[None]:
        """Inside the block the container does not run: we paused it, or it did not run anyway. Should the daemon be
        killed meanwhile, the next one lets it go on (`scow.engine.reconcile`)."""
        containers, live = self._containers, self._live
        intent = OpenIntent(f"{INTENT}:{live.record.id}", INTENT, live.record.id, b"")
        async with contextlib.AsyncExitStack() as undo:
            if live.record.state.status == "running":
                await containers.state.commit(intent, durable=False)
                undo.push_async_callback(containers.state.commit, CloseIntent(intent.id), durable=False)
                with contextlib.suppress(Conflict):  # it ended by itself
                    await containers.lifecycle.pause(live)
                    undo.push_async_callback(go_on, containers, live)
            yield

    async def _stage_changes(self) -> Staged:
        """The layer of what the container changed, not yet a blob. The thread has ended, also after a cancel."""
        record, content = self._live.record, self._parts.content

        def diff(storage: StorageDriver) -> Staged:
            try:
                return content.stage(storage.diff(record.id))
            except FileNotFoundError as error:
                raise Conflict(f"container {record.id} changed while it was committed: {error}") from error
            except OSError as error:
                if isinstance(error, ScowError):
                    raise
                raise Unavailable(f"cannot store the changes of container {record.id}: {error}") from error

        driver = record.storage_driver
        call = asyncio.ensure_future(self._parts.drivers.call(STORAGE, driver, "diff", diff, deadline_s=None))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.wait([call])
            if not call.cancelled() and call.exception() is None:
                call.result().discard()
            raise

    async def _store(self, base: Image, staged: Staged, config: ContainerConfig) -> Image:
        parts, content = self._parts, self._parts.content
        below = manifest_in_store(await asyncio.to_thread(content.read, base.manifest_digest), base.manifest_digest)
        empty = staged.digest == _EMPTY
        layers = () if empty else (Descriptor(OCI_LAYER, staged.digest, staged.size_bytes),)
        diff_ids = (*base.diff_ids, *(layer.digest for layer in layers))
        raw = make_config(await asyncio.to_thread(self._document, base, config, diff_ids))
        blob = Descriptor(OCI_CONFIG, digest_of(raw), len(raw))
        manifest = make_manifest(blob, [*below.layers, *layers])
        chains = chain_ids(list(diff_ids))
        held = [blob.digest, digest_of(manifest), *(layer.digest for layer in (*below.layers, *layers)), *chains]
        with parts.leases.hold(held):
            await parts.leases.settled()
            if parts.store.by_id(base.id) is None:  # its layers may have gone with it
                raise _no_base(base.id)
            self._stored = [blob.digest, digest_of(manifest), *(layer.digest for layer in layers)]
            if layers:
                await asyncio.to_thread(staged.publish)
            line = [LayerProgress(lambda message: None, layer.digest) for layer in layers]
            sizes = await self._layers.unpack(layers, diff_ids[len(base.diff_ids) :], base.chain_id, line)
            for data in (raw, manifest):
                await asyncio.to_thread(content.put, data)
            image = Image(
                id=blob.digest,
                manifest_digest=digest_of(manifest),
                created_ns=self._now_ns,
                pulled_ns=self._now_ns,
                config=parse_config(raw, (*below.layers, *layers)),
                diff_ids=diff_ids,
                chain_id=chains[-1] if chains else None,
                size_bytes=base.size_bytes + sum(sizes),
                layer_sizes=(*base.layer_sizes, *sizes),
                origins=base.origins,
                parent=base.id,
            )
            async with parts.leases.settling:
                return await parts.store.put(image, tags=self._wish.tags)

    def _document(self, base: Image, config: ContainerConfig, diff_ids: Sequence[str]) -> dict[str, Any]:
        """The image config: the base's with what is new, and a line of history."""
        before = json.loads(self._parts.content.read(base.id))
        entry: dict[str, Any] = {
            "created": rfc3339(self._now_ns),
            "created_by": " ".join(self._live.record.config.cmd or []),
            "author": self._wish.author,
            "comment": self._wish.message,
            "empty_layer": len(diff_ids) == len(base.diff_ids),
        }
        return {
            **{name: before[name] for name in _KEPT if before.get(name)},
            "created": rfc3339(self._now_ns),
            "author": self._wish.author,
            "config": image_config(config),
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
            "history": [*(before.get("history") or []), {name: value for name, value in entry.items() if value}],
        }


async def go_on(containers: Containers, live: Live) -> None:
    """The container is not paused."""
    with contextlib.suppress(Conflict):  # it was killed, or somebody else let it go on
        await containers.lifecycle.unpause(live)


def _no_base(id: str) -> NotFound:
    hint = "the container's image was removed: there is nothing to add a layer to"
    return NotFound(f"No such image: {id}", hint=hint)
