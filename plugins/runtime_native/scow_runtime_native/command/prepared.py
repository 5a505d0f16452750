"""What the first run leaves for later ones until the next boot, in a folder that only root can enter.

A run is over in a few milliseconds, of which Python would take two thirds: to start twice (the second time sealed, see
`sealed`) and to look for a hundred modules. So the first one leaves for the command at ``/a/b/scow-runtime``, below
`FOLDER`, the folder ``a/b/scow-runtime`` with

``start``
    what the command, a shell script, sources: it executes the sealed interpreter with ``boot.py``, where that is there;
``boot.py``
    goes on with the command line, after it has taken modules from
``code``
    their compiled code in one file, with the size and time of each source: where one has changed, nothing of it is
    used, and the next run prepares it anew.

The interpreter is sealed by a read-only overlay mount of its folder, which has no upper directory: nobody can write
through it, whatever he may remount, and its pages are those of the host's file (a copy in memory takes 3 ms and 7 MB).
"""

from __future__ import annotations

import fcntl
import marshal
import os
import shlex
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from scow.errors import Unavailable
from scow.linux import mounts
from scow_runtime_native.command.store import replace_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scow_runtime_native.command.modules import Entry

FOLDER = "/run/scow-runtime/.prepared"
_BOOT = """import gc, os, sys
gc.disable()
sys.path[:] = {path!r}
from scow_runtime_native.command.modules import use
use({folder!r})
from scow_runtime_native.command import entry, light_typing
entry.open_stdio()
light_typing.use()
from scow_runtime_native.command.main import main
code = main()
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)
"""
_START = """if [ -x {python} ]; then
    exec /usr/bin/env -i PYTHONHOME={home} {kept} {python} -S -s -P {boot} "$@"
fi
"""


class _Overlay(NamedTuple):
    """The recipe of the mount; see `scow.linux.mounts.Recipe`."""

    source: str
    target: str
    options: tuple[str, ...]
    type: str = "overlay"


def prepare(
    command: str, interpreter: str, home: str, kept: tuple[str, ...], modules: Iterable[str], at: str = FOLDER
) -> None:
    """Later runs of *command* begin prepared, with *home* as PYTHONHOME and no environment but the variables *kept*.
    *interpreter* is what this process would be without a seal; the present `sys.path` is kept, and the code of
    *modules*. All lies in the folder *at*, of which the script knows. Nothing happens while another run prepares.
    Raises `OSError`, `ScowError`."""
    folder = at + os.path.normpath(command)
    for part in (os.path.dirname(at), at, folder):
        os.makedirs(part, 0o700, exist_ok=True)  # which gives the mode to the last of them
    top = os.open(at, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        about = os.fstat(top)
        if about.st_uid or about.st_mode & 0o077:
            raise Unavailable(f"{at} is open to others than root", hint=f"chmod 0700 {at}")
        fcntl.flock(top, fcntl.LOCK_EX | fcntl.LOCK_NB)
        python = _sealed(interpreter, at)
        replace_file(f"{folder}/code", marshal.dumps(dict(_entries(modules))), 0o600)
        replace_file(f"{folder}/boot.py", _BOOT.format(path=sys.path, folder=folder).encode(), 0o600)
        start = _START.format(
            python=shlex.quote(python),
            home=shlex.quote(home),
            kept=" ".join(f'${{{name}+"{name}=${name}"}}' for name in kept),
            boot=shlex.quote(f"{folder}/boot.py"),
        )
        replace_file(f"{folder}/start", start.encode(), 0o600)
    except BlockingIOError:
        return
    finally:
        os.close(top)


def _sealed(interpreter: str, at: str) -> str:
    """The path of *interpreter* in a mount through which nobody can write to it."""
    folder, name = os.path.split(interpreter)
    about = os.stat(interpreter)
    point = f"{at}/python-{about.st_dev:x}-{about.st_ino:x}-{about.st_mtime_ns:x}"  # an upgrade makes a new one
    if not os.path.exists(f"{point}/mnt/{name}"):
        for part in ("mnt", "empty"):
            os.makedirs(f"{point}/{part}", 0o700, exist_ok=True)
        lower = "lowerdir=" + ":".join(_escaped(path) for path in (folder, f"{point}/empty"))  # it wants two
        mounts.mount_at(_Overlay("scow-runtime", f"{point}/mnt", ("ro", "nosuid", "nodev", lower)), f"{point}/mnt")
    return f"{point}/mnt/{name}"


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:")


def _entries(names: Iterable[str]) -> Iterator[tuple[str, Entry]]:
    """The code of each of the modules *names* that has a source."""
    for name in names:
        module = sys.modules[name]
        spec = module.__spec__ if isinstance(module, ModuleType) else None
        if spec and spec.name == name and spec.origin and isinstance(spec.loader, SourceFileLoader):
            yield name, _entry(name, spec.origin, spec.loader, spec.submodule_search_locations is not None)


def _entry(name: str, source: str, loader: SourceFileLoader, package: bool) -> Entry:
    about = os.stat(source)
    return source, package, about.st_mtime_ns, about.st_size, marshal.dumps(loader.get_code(name))
