"""YAML as config files have it: the C loader, and a key that is given twice is an error instead of a riddle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from scow.errors import InvalidArgument, Unavailable

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]  # the C loader is there or not
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.MarkedYAMLError(None, None, f"the key {key!r} is given twice", key_node.start_mark)
            if isinstance(key, str) and key != "<<":
                seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read(file: Path) -> Any:
    """The document in *file*. Raises `InvalidArgument` with the line of a mistake, `Unavailable` if unreadable."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise Unavailable(f"{file} cannot be read: {exc}") from exc
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader by inheritance)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise InvalidArgument(f"{file}{line}: {getattr(exc, 'problem', None) or exc}") from exc
