"""``scow-runtime`` on a bundle of its own, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from scow_runtime_native.command.template import configuration
from tests.daemon import busybox_tar

PROGRAM = Path(sys.executable).with_name("scow-runtime")


class Bench:
    """A root for containers and one bundle, whose configuration `configure` writes."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.bundle = folder / "bundle"
        self.bundle.mkdir(parents=True)
        with tarfile.open(fileobj=BytesIO(busybox_tar())) as tar:
            tar.extractall(self.bundle / "rootfs")  # our own tar

    def configure(self, *args: str, **more: Any) -> dict[str, Any]:
        """The bundle runs *args*; *more* are further top-level members. Answers the configuration."""
        spec = configuration()
        spec["process"].update(terminal=False, args=list(args))
        spec.update(more)
        self.write(spec)
        return spec

    def write(self, spec: Any) -> None:
        (self.bundle / "config.json").write_text(json.dumps(spec))

    def __call__(
        self, *words: str, input: bytes | None = None, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(PROGRAM), "--root", str(self.root), *words],
            cwd=self.bundle,
            input=None if input is None else input.decode(),
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def create(self, id: str, *words: str) -> None:
        """As ``create``, whose container keeps the stdio: it goes to files, so that nothing waits for its end."""
        with open(self.bundle / "output", "ab") as out:
            subprocess.run(
                [str(PROGRAM), "--root", str(self.root), "create", *words, id],
                cwd=self.bundle,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=60,
                check=True,
            )

    def output(self) -> str:
        return (self.bundle / "output").read_text()

    def status(self, id: str) -> str:
        return str(json.loads(self("state", id, check=True).stdout)["status"])

    def wait(self, id: str, status: str) -> None:
        deadline = time.monotonic() + 20
        while (now := self.status(id)) != status:
            assert time.monotonic() < deadline, f"{id} is {now}, not {status}"
            time.sleep(0.02)

    def close(self) -> None:
        for name in os.listdir(self.root) if self.root.exists() else ():
            if not name.startswith("."):
                self("delete", "--force", name)
