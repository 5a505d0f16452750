"""Modules from one file of compiled code (`scow_runtime_native.command.prepared`), so that none is looked for."""

from __future__ import annotations

import marshal
import os
import sys

TYPE_CHECKING = False  # `typing` itself is one of the modules that take long
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

Entry = tuple[str, bool, int, int, bytes]
"""Of a module: its source, whether it is a package, the source's time of change in ns, its size in bytes, the code."""

_Spec: Any = type(sys.__spec__)  # importlib.machinery's, which takes half a millisecond to import


def use(folder: str) -> None:
    """Modules come from ``code`` in *folder*. Where a source has changed since, they come from their sources, and
    ``start`` is gone: the next run prepares itself anew."""
    with open(f"{folder}/code", "rb") as file:
        entries: dict[str, Entry] = marshal.load(file)
    if all(map(_is_current, entries.values())):
        sys.meta_path.insert(0, Modules(entries))
    else:
        os.unlink(f"{folder}/start")


def _is_current(entry: Entry) -> bool:
    try:
        about = os.stat(entry[0])
    except OSError:
        return False
    return about.st_mtime_ns == entry[2] and about.st_size == entry[3]


class Modules:
    """A finder and loader (importlib.abc) of *entries*, by name."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The spec of *name*, None where it is not among them."""
        if name not in self._entries:
            return None
        origin, package, *_ = self._entries[name]
        spec: ModuleSpec = _Spec(name, self, origin=origin, is_package=package)
        spec.has_location = True
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(os.path.dirname(origin))
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """The default one."""

    def exec_module(self, module: ModuleType) -> None:
        """*module* is what its code makes it."""
        exec(marshal.loads(self._entries[module.__name__][4]), module.__dict__)  # noqa: S102
