"""How containers are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from scow.engine.model import Container
from scow.state import Put

if TYPE_CHECKING:
    from scow.state import Record

KIND = "container"


def put(record: Container) -> Put:
    """The change that stores *record*."""
    return Put(KIND, record.id, record.name, msgspec.json.encode(record))


def read(row: Record) -> Container:
    """The container in a row of the state."""
    return msgspec.json.decode(row.data, type=Container)
