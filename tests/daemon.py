"""A scowd of its own for a test: temporary roots, its own bridge, subnet, nft table and cgroup parent."""

from __future__ import annotations

import http.client
import io
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import yaml

DOCKER = shutil.which("docker")
BUSYBOX = shutil.which("busybox")


def busybox_tar() -> bytes:
    """The tar of a root filesystem with a static busybox and a link for each of its applets."""
    assert BUSYBOX is not None, "install busybox-static"
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for folder in ("bin", "etc", "root", "tmp", "proc", "sys", "dev", "var", "home"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(info)
        _file(tar, "bin/busybox", Path(BUSYBOX).read_bytes(), 0o755)
        for applet in applets:
            if applet != "busybox":
                info = tarfile.TarInfo(f"bin/{applet}")
                info.type, info.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(info)
        _file(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nmail:x:8:12:mail:/home:/bin/sh\n")
        _file(tar, "etc/group", b"root:x:0:\nmail:x:12:\nextra:x:77:mail\n")
    return out.getvalue()


def _file(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    tar.addfile(info, io.BytesIO(content))


class Daemon:
    """Started by `start`, stopped by `stop`; `cleanup` removes every container and checks that nothing is left."""

    def __init__(self, root: Path, **config: Any) -> None:
        tag = secrets.token_hex(3)
        self.root = root
        self.socket = root / "run" / "scow.sock"
        self.log = root / "scowd.log"
        self.pid = 0
        self.process: subprocess.Popen[bytes] | None = None
        number = int(tag[:4], 16)
        self.config = {
            "data_root": str(root / "data"),
            "run_root": str(root / "run"),
            "hosts": [f"unix://{self.socket}"],
            "engine_name": f"t{tag}",
            "bridge_name": f"sct{tag}",
            "nft_table": f"scow_t{tag}",
            "subnet_pool": f"10.{200 + number % 50}.{number // 50 % 256}.0/24",
            "cgroup_parent": f"scow-t{tag}",
            "debug": True,
            **config,
        }
        self.config_file = root / "scow.yaml"
        root.mkdir(parents=True, exist_ok=True)
        self.config_file.write_text(yaml.safe_dump(self.config))

    def start(self, timeout_s: float = 20.0) -> Daemon:
        """It answers ``_ping``."""
        out = self.log.open("ab")
        command = [sys.executable, "-m", "scow.daemon", "--config", str(self.config_file)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/")
        out.close()
        self.pid = self.process.pid
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                if self.api("GET", "/_ping")[0] == 200:
                    return self
            except OSError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.005)
        raise AssertionError(f"scowd did not start:\n{self.log.read_text()[-3000:]}")

    def stop(self, sig: int = signal.SIGTERM) -> None:
        """It is gone; containers run on."""
        if self.process is not None:
            self.process.send_signal(sig)
            self.process.wait(20)
            self.process = None

    def docker(self, *words: str, input: bytes | None = None, check: bool = True, timeout_s: float = 60) -> Any:
        """The docker CLI against this daemon; answers the finished process with text output."""
        assert DOCKER is not None
        done = subprocess.run(
            [DOCKER, "-H", f"unix://{self.socket}", *words], input=input, capture_output=True, timeout=timeout_s
        )
        result = subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
        if check and result.returncode:
            tail = self.log.read_text()[-3000:]
            raise AssertionError(f"docker {' '.join(words)}: {result.returncode}\n{result.stderr}\n--- scowd\n{tail}")
        return result

    def out(self, *words: str, **options: Any) -> str:
        """What the docker CLI prints, stripped."""
        return str(self.docker(*words, **options).stdout).strip()

    def api(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request; the status and the decoded body."""
        directory = os.open(self.socket.parent, os.O_PATH)
        connection = http.client.HTTPConnection("scow", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(30)
        try:
            connection.sock.connect(f"/proc/self/fd/{directory}/{self.socket.name}")
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            with connection.getresponse() as answer:  # closed also where the daemon dies in the middle of it
                payload = answer.read()
        finally:
            os.close(directory)
            connection.close()
        try:
            return answer.status, json.loads(payload)
        except ValueError:
            return answer.status, payload

    def import_busybox(self, name: str = "busybox") -> None:
        """The image *name* is there."""
        self.docker("import", "-c", 'CMD ["sh"]', "-c", "ENV PATH=/bin", "-", name, input=busybox_tar())

    def cleanup(self) -> None:
        """Every container is removed and the daemon stopped."""
        if self.process is not None and self.process.poll() is None:
            ids = self.out("ps", "-aq").split()
            if ids:
                self.docker("rm", "-f", "-v", *ids)
            self.stop()
