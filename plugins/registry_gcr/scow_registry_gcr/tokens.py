"""Access tokens: from a service account's key, application default credentials or the metadata server."""

from __future__ import annotations

import datetime
import functools
import os
import threading
from typing import Any

from scow.errors import InvalidArgument, ScowError, Unauthorized, Unavailable

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
SPARE_S = 2700.0
"""A token, which lives an hour, is renewed when it is good for less than this: a long transfer has to end in it."""
TIMEOUT_S = 8.0  # a hook is to answer within 30 s
PRODUCT_NAME = "/sys/class/dmi/id/product_name"


class AccessTokens:
    """The access tokens of one Google account: that of *key_file*, or without one that of the application default
    credentials (``GOOGLE_APPLICATION_CREDENTIALS``, gcloud's file, the metadata server). Thread-safe."""

    def __init__(self, key_file: str) -> None:
        self._key_file = key_file
        self._lock = threading.Lock()
        self._stamp: object = None
        self._credentials: Any = None

    def get(self) -> str:
        """A token that is good for a while; ``""`` where this host has no account. A changed file counts at once.
        Raises `Unauthorized`, `Unavailable`, `InvalidArgument`."""
        with self._lock:
            path = self._key_file or _default_file()
            if not path and not _metadata_server_likely():
                return ""
            stamp = (path, _changed(path))
            if self._credentials is None or stamp != self._stamp:
                self._credentials, self._stamp = self._find(), stamp
            if self._credentials is None:
                return ""
            if _left_s(self._credentials) < SPARE_S:
                _renew(self._credentials)
            return str(self._credentials.token)

    def _find(self) -> Any:
        import google.auth
        from google.auth import exceptions
        from google.oauth2 import service_account

        if self._key_file:
            return _of_key(service_account, self._key_file)
        try:
            found, _ = google.auth.default(scopes=SCOPES, request=_request())
        except exceptions.DefaultCredentialsError as error:
            if _default_file():
                raise Unauthorized(f"invalid google credentials in {_default_file()}: {_words(error)}") from None
            return None
        return found


def _of_key(service_account: Any, path: str) -> Any:
    try:
        return service_account.Credentials.from_service_account_file(path, scopes=SCOPES)
    except OSError as error:
        raise InvalidArgument(f"cannot read service account key {path}: {error.strerror}") from None
    except ValueError:  # not chained, not quoted: the text may hold parts of the key
        raise InvalidArgument(
            f"{path} is not the key of a google service account", hint="expected the json file that google gave out"
        ) from None


def _renew(credentials: Any) -> None:
    from google.auth import exceptions

    try:
        credentials.refresh(_request())
    except exceptions.TransportError as error:
        raise Unavailable(f"cannot reach google: {_words(error)}") from None
    except exceptions.GoogleAuthError as error:
        raise _refused(error) from None


def _refused(error: Any) -> ScowError:
    message = f"google refused an access token: {_words(error)}"
    return Unavailable(message) if getattr(error, "retryable", False) else Unauthorized(message)


def _request() -> Any:
    from google.auth.transport.requests import Request

    return functools.partial(Request(), timeout=TIMEOUT_S)


def _left_s(credentials: Any) -> float:
    """Seconds until the token expires; 0 where there is none. google-auth keeps UTC without a zone."""
    if not credentials.token or credentials.expiry is None:
        return 0.0
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    return float((credentials.expiry - now).total_seconds())


def _words(error: Exception) -> str:
    """The first part of a google-auth error: the rest is the whole answer of a server."""
    return str(error.args[0] if error.args else error).rstrip(".")


def _default_file() -> str:
    """The file of the application default credentials; ``""`` where there is none."""
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if named:
        return named
    folder = os.environ.get("CLOUDSDK_CONFIG") or os.path.expanduser("~/.config/gcloud")
    path = os.path.join(folder, "application_default_credentials.json")
    return path if os.path.exists(path) else ""


def _metadata_server_likely() -> bool:
    """Whether to look for a metadata server: elsewhere nobody answers, and each look takes many seconds."""
    if os.environ.get("GCE_METADATA_HOST") or os.environ.get("GCE_METADATA_ROOT"):
        return True
    try:
        with open(PRODUCT_NAME, encoding="utf-8", errors="replace") as file:
            return file.read().startswith("Google")
    except OSError:
        return False


def _changed(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns if path else None
    except OSError:
        return None
