"""A home folder with docker's config, a credential helper on the path, and command lines that log in there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.unit.cli_server import FakeEngine, Reply, Request

DOCKER = shutil.which("docker")
USER, PASSWORD = "reader", "s3cret~?"
TOKEN_USER = "tokens"
"""The user to whom the engine gives an identity token in place of the password."""

_HELPER = """\
#!{python}
import json, os, sys
folder, verb, text = {folder!r}, sys.argv[1], sys.stdin.read()
with open(os.path.join(folder, "calls"), "a") as calls:
    calls.write(json.dumps([sys.argv[1:], text]) + "\\n")
path = os.path.join(folder, "secrets")
secrets = json.load(open(path)) if os.path.exists(path) else {{}}
if os.path.exists(os.path.join(folder, "locked")):
    print("the keyring is locked")
    sys.exit(1)
if verb == "get":
    if text not in secrets:
        print("credentials not found in native keychain")
        sys.exit(1)
    print(json.dumps(secrets[text]))
elif verb == "store":
    entry = json.loads(text)
    secrets[entry["ServerURL"]] = entry
elif verb == "erase":
    secrets.pop(text, None)
with open(path, "w") as file:
    json.dump(secrets, file)
"""


class Home:
    """A user's home in *folder*, with nothing in it. *path* is what ``PATH`` holds beside the system's own folders."""

    def __init__(self, folder: Path, engine: FakeEngine) -> None:
        self.folder, self.engine = folder, engine
        self.config = folder / ".docker" / "config.json"
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        self.variables: dict[str, str] = {}
        engine.on("POST", "/auth", _auth)

    def add_helper(self, name: str) -> Helper:
        """``docker-credential-<name>`` is on the path; answers what it keeps and how it was called."""
        folder = self.folder / f"keyring-{name}"
        folder.mkdir()
        program = self.bin / f"docker-credential-{name}"
        program.write_text(_HELPER.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)
        return Helper(folder)

    def write(self, data: Any) -> None:
        """The config file holds *data*."""
        self.config.parent.mkdir(exist_ok=True)
        self.config.write_text(data if isinstance(data, str) else json.dumps(data))

    def read(self) -> dict[str, Any]:
        """What the config file holds."""
        found: dict[str, Any] = json.loads(self.config.read_text())
        return found

    def scow(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """``scow`` as a process."""
        return self._run(
            [sys.executable, "-c", "from scow.cli.main import main; raise SystemExit(main())"], words, stdin
        )

    def docker(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """docker's own command line."""
        return self._run([DOCKER or "docker"], words, stdin)

    def environ(self) -> dict[str, str]:
        """For a command in this home."""
        return {"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.folder), **self.variables}

    def _run(self, command: list[str], words: tuple[str, ...], stdin: str) -> subprocess.CompletedProcess[str]:
        command = [*command, "-H", self.engine.host, *words]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30, env=self.environ())


class Helper:
    """The credential helper whose keyring is *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def secrets(self) -> dict[str, Any]:
        path = self._folder / "secrets"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    @property
    def calls(self) -> list[Any]:
        """Arguments and standard input of each call."""
        path = self._folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def lock(self) -> None:
        """It fails from now on."""
        (self._folder / "locked").touch()


def _auth(request: Request) -> Reply:
    given = request.json
    good = given.get("password") == PASSWORD or given.get("identitytoken") == "an identity"
    if not good:
        return Reply(401, {"message": "unauthorized: incorrect username or password"})
    token = "an identity" if given.get("username") == TOKEN_USER else ""
    return Reply(200, {"Status": "Login Succeeded", "IdentityToken": token})


def modes(folder: Path) -> dict[str, int]:
    """The permission bits of each file in *folder*."""
    return {entry.name: entry.stat().st_mode & 0o777 for entry in os.scandir(folder)}
