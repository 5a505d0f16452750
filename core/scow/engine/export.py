"""The root of a container as one tar: ``docker export``."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING

from scow.layers import tree_diff
from scow.linux.mounts import mounted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from scow.ports import Mount

_GUARDS = ("nosymfollow", "nodev", "noexec", "nosuid")


def root_tar(mounts: Sequence[Mount], scratch: Path) -> Iterator[bytes]:
    """The tar of what *mounts* show, mounted below *scratch* meanwhile. Blocks.

    The container may run: it can swap a folder for a symbolic link between two of our calls, so that none may be
    followed there (Linux 5.14).
    """
    guarded = [replace(mount, options=(*mount.options, *_GUARDS)) for mount in mounts]
    with tempfile.TemporaryDirectory(dir=scratch) as at, mounted(guarded, at) as root:
        yield from tree_diff(root, None)
