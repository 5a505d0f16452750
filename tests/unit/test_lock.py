from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scow.errors import Conflict, Unavailable
from scow.lock import DataRootLock


def test_a_second_daemon_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    root = tmp_path / "data"
    lock = DataRootLock.acquire(root)
    with pytest.raises(Conflict, match=f"{root} is in use by scowd with pid {os.getpid()}"):
        DataRootLock.acquire(root)
    lock.close()
    lock.close()
    DataRootLock.acquire(root).close()


def test_a_killed_daemon_leaves_no_lock(tmp_path: Path) -> None:
    program = (
        "import sys, os; from pathlib import Path; from scow.lock import DataRootLock\n"
        "lock = DataRootLock.acquire(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)]).returncode == -9
    DataRootLock.acquire(tmp_path).close()


def test_a_root_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="cannot be made"):
        DataRootLock.acquire(tmp_path / "file" / "data")
