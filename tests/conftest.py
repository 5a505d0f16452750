"""For all tests: what is skipped and why, and the guard that nothing is left on the host.

``--all`` runs what is marked ``slow`` as well (`make test-all`); what is marked ``root`` needs root. After the last
test with that mark, mounts, namespaces, devices, tables, cgroups and processes are compared with those before the
first.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # `from tests.daemon import Daemon`, whichever way pytest was started

from tests import leaks  # noqa: E402

os.environ.setdefault(leaks.MARK, str(os.getpid()))
for name in [name for name in os.environ if name.startswith("SCOW_") and name != leaks.MARK]:
    del os.environ[name]  # no setting of the developer's own engine reaches a test


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--all``."""
    parser.addoption("--all", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that cannot or should not run here are skipped with the reason; those that touch the host are guarded."""
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--all"):
            item.add_marker(pytest.mark.skip(reason="slow: runs with --all (make test-all)"))
        if item.get_closest_marker("root"):
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root: namespaces, mounts and network devices"))
            elif isinstance(item, pytest.Function):
                item.fixturenames.insert(0, "host_left_clean")


@pytest.fixture(scope="session")
def host_left_clean(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails at the end of the session if the host is not as it was before.

    Where another pytest runs at the same time the difference may be its own: then it is a warning, except for our
    processes and for mounts below our own folder.
    """
    base = tmp_path_factory.getbasetemp()
    before = leaks.take(base)
    yield
    lines = leaks.left(before, base)
    ours = [line for line in lines if line.startswith("process") or str(base) in line]
    if lines and not ours and leaks.others_at_work():
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.warn(f"left on the host, by us or by another pytest: {lines}", stacklevel=1)
        return
    assert not lines, "the tests left on the host:\n" + "\n".join(lines)
