"""The command's own interpreter is a file that no container can change (the family of CVE-2019-5736).

Until its execve a container's process is a fork of this one, and ``/proc/self/exe`` names the interpreter; a script
whose interpreter line says ``/proc/self/exe`` runs it once more, in the container. So commands that make processes run
from a sealed copy in memory (memfd_create(2), fcntl(2) ``F_ADD_SEALS``), or through a mount that nobody can write
through (`scow_runtime_native.command.prepared`).
"""

from __future__ import annotations

import fcntl
import os
import sys

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_KEPT = ("LANG", "LC_ALL", "LC_CTYPE", "TMPDIR")  # a container that may trace reads what its processes have in memory
# No collector for a process that ends soon, and no tidying up at its end: both take milliseconds.
_BOOT = """import gc, os, sys
gc.disable()
os.close({fd})
sys.path[:] = {path!r}
from scow_runtime_native.command import light_typing
light_typing.use()
from scow_runtime_native.command.main import main
code = main()
sys.stdout.flush()
sys.stderr.flush()
from scow_runtime_native.command.sealed import prepare
prepare({command!r}, {interpreter!r}, {home!r})
os._exit(code)
"""


def is_sealed() -> bool:
    """Whether nobody can write to what this process runs."""
    fd = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:  # EINVAL: a file of an ordinary filesystem
        return _is_of_lower_directories_only(fd)
    finally:
        os.close(fd)


def _is_of_lower_directories_only(fd: int) -> bool:
    """Whether the file is of an overlay that has no upper directory: it cannot be mounted writable (overlayfs.rst)."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        id = next(line.split()[1] for line in file if line.startswith(b"mnt_id:"))
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            if line.split(None, 1)[0] == id:
                type, _, options = line.partition(b" - ")[2].split(b" ", 2)
                return type == b"overlay" and b"upperdir=" not in options
    return False


def ensure(words: list[str]) -> None:
    """Returns where this process runs sealed, else it begins anew from a copy, with the command line *words*. Raises
    `OSError`."""
    if is_sealed():
        return
    copy = _copy()
    home = sys.base_prefix if sys.base_prefix == sys.base_exec_prefix else f"{sys.base_prefix}:{sys.base_exec_prefix}"
    boot = _BOOT.format(
        path=_path(), fd=copy, command=sys.argv[0], interpreter=os.path.realpath("/proc/self/exe"), home=home
    )
    os.set_inheritable(copy, True)
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    arguments = ["scow-runtime", "-S", "-s", "-P", "-c", boot, *words]
    os.execve(f"/proc/self/fd/{copy}", arguments, {**kept, "PYTHONHOME": home})


def prepare(command: str, interpreter: str, home: str) -> None:
    """The next run of *command* begins prepared, where that is a path and this host lets us; else as this one did."""
    from scow.errors import ScowError
    from scow_runtime_native.command import commands, entry, execs, foreground, lifecycle, modules, runtime  # noqa: F401

    if not command.startswith("/"):
        return
    names = [*sys.modules]  # without what only the next import wants
    try:
        from scow_runtime_native.command import prepared

        prepared.prepare(command, interpreter, home, _KEPT, names)
    except (OSError, ScowError):
        return  # without overlayfs, or without a /run: nothing is lost but the time


def _path() -> list[str]:
    """The folders of `sys.path`, those of the standard library and of our own packages first: each that comes before is
    looked into for each import."""
    import scow

    ours = {os.path.dirname(os.path.dirname(__file__)), *scow.__path__}
    library = os.path.dirname(os.__file__)
    standard = [path for path in sys.path if path.startswith(library) and "-packages" not in path]
    first = [*standard, *sorted(map(os.path.dirname, ours))]
    return [*first, *(path for path in sys.path if path not in first)]


def _copy() -> int:
    """A descriptor of a sealed copy of the running interpreter."""
    fd = os.memfd_create("scow-runtime", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    source = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    size, done = os.fstat(source).st_size, 0
    while done < size:
        count = os.sendfile(fd, source, done, size - done)
        if not count:
            raise OSError(f"the interpreter shrank to {done} bytes while it was copied")
        done += count
    os.close(source)
    os.fchmod(fd, 0o555)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd
