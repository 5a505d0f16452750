"""A plugin for engines of tests that takes OCI hooks from an annotation."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_PLUGIN = """
    import json
    from scow.hookspecs import hookimpl

    @hookimpl
    def scow_spec(spec, annotations):
        if "org.example.hooks" in annotations:
            spec["hooks"] = json.loads(annotations["org.example.hooks"])
"""


@contextmanager
def installed(root: Path) -> Iterator[None]:
    """What is started meanwhile has the plugin, which lies in *root*."""
    info = root / "site/hooks_of_tests-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hooks-of-tests\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[scow.plugins]\nhooks = hooks_of_tests\n")
    (root / "site/hooks_of_tests.py").write_text(textwrap.dedent(_PLUGIN))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(root / "site"), prepend=os.pathsep)
        yield


def shell(script: str, **more: Any) -> dict[str, Any]:
    """A hook that is a shell script."""
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/bin"], **more}


def with_hooks(*words: str, **kinds: Any) -> list[str]:
    """``docker run`` with these hooks."""
    given = json.dumps({kind: [hook] for kind, hook in kinds.items()})
    return ["run", "--network", "none", "--annotation", f"org.example.hooks={given}", *words]
