"""Runs ``docker-credential-<name>``, which keeps secrets in a keyring: one word on its command line, everything else on
its standard input (docker/docker-credential-helpers)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

from scow.errors import InvalidArgument, NotFound, Unavailable

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ABSENT = ("credentials not found in native keychain", "no credentials server URL")
TIMEOUT_S = 120.0  # a keyring may ask its user


class Helper:
    """The helper *name*. Secrets go through pipes; errors quote what it says, but not where it was given a secret."""

    TOKEN_USER = "<token>"
    """The user of a secret that is an identity token."""

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidArgument(f"invalid name of a credential helper: {name!r}")
        self.program = f"docker-credential-{name}"

    def path(self) -> str:
        """Where the program is. Raises `NotFound`."""
        found = shutil.which(self.program)
        if not found:
            raise NotFound(
                f"{self.program} is not on the path",
                hint="install it, or remove credsStore or credHelpers from docker's config.json",
            )
        return found

    def get(self, address: str) -> tuple[str, str]:
        """User and secret for *address*, both empty where it has none. Raises `Unavailable`."""
        status, output = self._run("get", address)
        if status != 0:
            if any(words in output for words in _ABSENT):
                return "", ""
            raise self._failed("get", output)
        try:
            found = json.loads(output)
            return str(found["Username"]), str(found["Secret"])
        except (ValueError, LookupError, TypeError):  # not chained: the text may hold a secret
            raise Unavailable(f"{self.program} get answered no credentials in json") from None

    def store(self, address: str, username: str, secret: str) -> None:
        """It keeps them. Raises `Unavailable`."""
        status, _ = self._run("store", json.dumps({"ServerURL": address, "Username": username, "Secret": secret}))
        if status != 0:
            raise Unavailable(f"{self.program} did not store the credentials for {address}: it ended with {status}")

    def erase(self, address: str) -> None:
        """It keeps nothing for *address*. Raises `Unavailable`."""
        status, output = self._run("erase", address)
        if status != 0 and not any(words in output for words in _ABSENT):
            raise self._failed("erase", output)

    def _run(self, verb: str, text: str) -> tuple[int, str]:
        try:
            done = subprocess.run(
                [self.path(), verb], input=text.encode(), stdout=subprocess.PIPE, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{self.program} {verb} did not answer within {TIMEOUT_S:g} s") from None
        except OSError as error:
            raise Unavailable(f"cannot run {self.program}: {(error.strerror or '').lower()}") from None
        return done.returncode, done.stdout.decode("utf-8", "replace").strip()

    def _failed(self, verb: str, output: str) -> Unavailable:
        words = output.splitlines()[0][:200] if output else "it says nothing"
        return Unavailable(f"{self.program} {verb} failed: {words}")
