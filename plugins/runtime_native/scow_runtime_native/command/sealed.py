"""The command's own interpreter is a file that no container can change (the family of CVE-2019-5736).

Until its execve a container's process is a fork of this one, and ``/proc/self/exe`` names the interpreter; a script
whose interpreter line says ``/proc/self/exe`` runs it once more, in the container. So commands that make processes run
from a sealed copy in memory (memfd_create(2), fcntl(2) ``F_ADD_SEALS``).
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
from scow_runtime_native.command.main import main
code = main()
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)
"""


def is_sealed() -> bool:
    """Whether this process runs from a sealed copy."""
    fd = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:  # EINVAL: a file of an ordinary filesystem
        return False
    finally:
        os.close(fd)


def ensure(words: list[str]) -> None:
    """Returns where this process runs from a sealed copy, else it begins anew as one, with the command line *words*.
    Raises `OSError`."""
    if is_sealed():
        return
    copy = _copy()
    home = sys.base_prefix if sys.base_prefix == sys.base_exec_prefix else f"{sys.base_prefix}:{sys.base_exec_prefix}"
    flags = ["-S", "-s", "-P"]
    arguments = ["scow-runtime", *flags, "-c", _BOOT.format(path=_path(), fd=copy), *words]
    os.set_inheritable(copy, True)
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    os.execve(f"/proc/self/fd/{copy}", arguments, {**kept, "PYTHONHOME": home})


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
