"""Where the command begins that is not prepared. It imports next to nothing: what makes processes starts anew, sealed,
at once."""

from __future__ import annotations

import os
import sys

_MAKERS = {"create", "run", "exec"}


def main() -> int:
    """The command line of this process, which is that of the script with its path before; answers the exit code."""
    open_stdio()
    del sys.argv[0]  # Python's own
    if not _MAKERS.isdisjoint(sys.argv):
        from scow_runtime_native.command import sealed

        try:
            sealed.ensure(sys.argv[1:])
        except OSError:
            return _main()  # which tries it once more, and tells the error
    return _main()


def open_stdio() -> None:
    """Descriptors 0 to 2 are open, so that nothing else gets these numbers: neither here nor in what begins anew."""
    while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def _main() -> int:
    from scow_runtime_native.command.main import main as run

    return run()
