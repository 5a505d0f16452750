"""The credentials that docker's command line keeps: ``~/.docker/config.json`` (or ``DOCKER_CONFIG``) and the helpers
that it names. What docker stored is found here, and the reverse (docker/cli: cli/config/configfile, credentials).

``credHelpers`` names a helper for one registry, ``credsStore`` one for all others; without, secrets stand in ``auths``.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from typing import Any

from scow.cli.credential_helper import Helper
from scow.errors import InvalidArgument, ScowError

HUB = "https://index.docker.io/v1/"
"""What Docker Hub is called in the file."""
VARIABLE = "DOCKER_AUTH_CONFIG"
"""Credentials for this run: the JSON of ``{"auths": {…}}``; they go before those of the file."""


@dataclass(frozen=True, slots=True)
class Auth:
    """The credentials for registry *address*. False where they name nobody; ``repr`` hides the secrets."""

    address: str
    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token)

    def body(self) -> dict[str, str]:
        """The API's ``AuthConfig``."""
        names = {"username": self.username, "password": self.password, "identitytoken": self.identity_token}
        return {**{name: value for name, value in names.items() if value}, "serveraddress": self.address}

    def header(self) -> str:
        """The value of ``X-Registry-Auth``."""
        return base64.urlsafe_b64encode(json.dumps(self.body()).encode()).decode()


class DockerConfig:
    """The file as it was read. `store` and `erase` write it, and keep everything else that it holds."""

    def __init__(self, path: str, data: dict[str, Any]) -> None:
        self.path = path
        self._data = data
        self._auths = _mapping(data, "auths", path)
        self._helpers = _mapping(data, "credHelpers", path)
        self._default = data.get("credsStore") or ("" if self._auths or self._helpers else _keyring())

    @classmethod
    def load(cls) -> DockerConfig:
        """The user's file, empty where there is none. Raises `InvalidArgument`, which quotes nothing of it."""
        path = os.path.join(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"), "config.json")
        try:
            with open(path, encoding="utf-8") as file:
                data = json.load(file)
        except (FileNotFoundError, NotADirectoryError):
            data = {}
        except OSError as error:
            raise InvalidArgument(f"cannot read credentials from {path}: {(error.strerror or '').lower()}") from None
        except (ValueError, RecursionError):
            raise InvalidArgument(f"cannot read credentials from {path}: not json") from None
        if not isinstance(data, dict):
            raise InvalidArgument(f"cannot read credentials from {path}: not a json object")
        return cls(path, data)

    def helper(self, address: str) -> Helper | None:
        """The program that keeps the secrets for *address*; None: the file itself does."""
        name = self._helpers.get(address) or self._default
        return Helper(str(name)) if name else None

    def get(self, address: str) -> Auth:
        """The credentials for *address* (false: none). Raises `InvalidArgument`, and `Unavailable` where a helper
        fails."""
        found = _find(_variable(), address)
        if found is not None:
            return _auth_of(found, address, VARIABLE)
        helper = self.helper(address)
        if helper is not None:
            username, secret = helper.get(address)
            token = username == Helper.TOKEN_USER
            return Auth(address, "" if token else username, "" if token else secret, secret if token else "")
        return _auth_of(_find(self._auths, address) or {}, address, self.path)

    def store(self, auth: Auth) -> bool:
        """The credentials are kept for their address. Answers whether they are in the file in clear text."""
        helper, entry = self.helper(auth.address), {}
        if helper is not None:
            secret = auth.identity_token or auth.password
            helper.store(auth.address, Helper.TOKEN_USER if auth.identity_token else auth.username, secret)
            if not self._helpers.get(auth.address):
                self._data["credsStore"] = self._default
        else:
            text = f"{auth.username}:{auth.password}" if auth.username or auth.password else ""
            entry = {"auth": base64.b64encode(text.encode()).decode()} if text else {}
            if auth.identity_token:
                entry["identitytoken"] = auth.identity_token
        self._auths[auth.address] = entry
        self._write()
        return helper is None

    def erase(self, address: str) -> None:
        """Nothing is kept for *address*. Raises `Unavailable` where its helper fails."""
        helper = self.helper(address)
        try:
            if helper is not None:
                helper.erase(address)
        finally:
            if self._auths.pop(address, None) is not None:
                self._write()

    def _write(self) -> None:
        """The file is replaced as a whole, mode 0600; where it is a symbolic link, what it leads to."""
        self._data["auths"] = self._auths
        path = os.path.realpath(self.path)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".config.json.", dir=os.path.dirname(path))
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(self._data, file, indent="\t", ensure_ascii=False)
                file.flush()
                _keep_owner(path, descriptor)
                os.fsync(descriptor)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


def address_of(host: str) -> str:
    """What registry *host* is called in the file."""
    return HUB if host == "docker.io" else host


def hostname(address: str) -> str:
    """The host of *address*, which may be a URL; every name of Docker Hub is ``docker.io``."""
    host = address.strip().split("://", 1)[-1].split("/", 1)[0]
    return "docker.io" if host in ("", "index.docker.io", "registry-1.docker.io") else host


def _find(auths: dict[str, Any], address: str) -> dict[str, Any] | None:
    """The entry for *address*, or else one for the same host (old files hold URLs)."""
    found = auths.get(address)
    if not isinstance(found, dict):
        same = (entry for name, entry in auths.items() if hostname(name) == hostname(address))
        found = next((entry for entry in same if isinstance(entry, dict)), None)
    return found


def _auth_of(entry: dict[str, Any], address: str, where: str) -> Auth:
    auth = Auth(address, *(str(entry.get(name) or "") for name in ("username", "password", "identitytoken")))
    if not entry.get("auth"):
        return auth
    try:
        username, colon, password = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        colon = ""
    if not colon:
        raise InvalidArgument(f"cannot read the credentials for {address} from {where}: not base64 of user:password")
    return replace(auth, username=username, password=password.strip("\0"))


def _mapping(data: dict[str, Any], name: str, path: str) -> dict[str, Any]:
    value = data.get(name) or {}
    if not isinstance(value, dict):
        raise InvalidArgument(f"cannot read credentials from {path}: {name} is not a json object")
    return value


def _variable() -> dict[str, Any]:
    text = os.environ.get(VARIABLE)
    if not text:
        return {}
    try:
        return _mapping(json.loads(text), "auths", VARIABLE)
    except (ValueError, AttributeError):
        raise InvalidArgument(f"cannot read credentials from {VARIABLE}: not a json object") from None


def _keyring() -> str:
    """The helper that docker takes where nothing is configured: for pass where pass is there, else for the desktop's
    keyring; ``""`` where that helper is not installed."""
    name = "pass" if shutil.which("pass") else "secretservice"
    try:
        return name if Helper(name).path() else ""
    except ScowError:
        return ""


def _keep_owner(path: str, descriptor: int) -> None:
    try:
        before = os.stat(path)
    except FileNotFoundError:
        return
    if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()) and os.geteuid() == 0:
        os.fchown(descriptor, before.st_uid, before.st_gid)
