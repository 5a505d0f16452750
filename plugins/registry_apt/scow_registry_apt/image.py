"""Image configs and manifests of what was built."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from scow.oci import OCI_CONFIG, OCI_MANIFEST, Descriptor, Platform
from scow_registry_apt.known import DEFAULT_PATH, KNOWN, Known

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scow_registry_apt.layers import Layer
    from scow_registry_apt.recipe import Recipe
    from scow_registry_apt.store import Store


def put_image(store: Store, recipe: Recipe, layers: Sequence[Layer], steps: Sequence[str]) -> Descriptor:
    """*store* holds config and manifest of *recipe*'s image; *steps* say how each layer came about. Answers the
    manifest's descriptor."""
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    where = Platform.host()
    document: dict[str, Any] = {
        "created": created,
        "architecture": where.architecture,
        "os": where.os,
        "config": _config(recipe),
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": created, "created_by": step} for step in steps],
    }
    if where.variant:
        document["variant"] = where.variant
    config = store.put(OCI_CONFIG, _encode(document))
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.to_json(),
        "layers": [layer.descriptor.to_json() for layer in layers],
    }
    return store.put(OCI_MANIFEST, _encode(manifest))


def _config(recipe: Recipe) -> dict[str, Any]:
    known = KNOWN.get(recipe.leading, Known())
    config: dict[str, Any] = {
        "Env": [f"PATH={DEFAULT_PATH}", *known.env],
        "Cmd": list(known.command) or (["sh"] if recipe.leading == "busybox" else ["bash"]),
        "Labels": {"org.opencontainers.image.title": recipe.name, "org.opencontainers.image.version": recipe.suite},
    }
    if known.ports:
        config["ExposedPorts"] = {port: {} for port in known.ports}
    for name, value in (("User", known.user), ("WorkingDir", known.working_dir), ("StopSignal", known.stop_signal)):
        if value:
            config[name] = value
    return config


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
