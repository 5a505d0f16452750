"""Where the console script begins. It imports next to nothing: what makes processes starts anew, sealed, at once."""

from __future__ import annotations

import sys

_MAKERS = {"create", "run", "exec"}


def main() -> int:
    """The command line of this process; answers the exit code."""
    if not _MAKERS.isdisjoint(sys.argv):
        from scow_runtime_native.command import sealed

        try:
            sealed.ensure(sys.argv[1:])
        except OSError:
            return _main()  # which tries it once more, and tells the error
    return _main()


def _main() -> int:
    from scow_runtime_native.command.main import main as run

    return run()
