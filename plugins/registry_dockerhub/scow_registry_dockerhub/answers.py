"""What registries answer, as errors that say it in Docker's words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from scow.errors import InvalidArgument, NotFound, ScowError, Unauthorized, Unavailable

if TYPE_CHECKING:
    import requests

    from scow.reference import Reference
    from scow_registry_dockerhub.endpoints import Endpoint

MANIFEST_LIMIT_BYTES = 4 << 20
"""The largest manifest that registries must accept (distribution-spec, "Pushing manifests")."""


class BrokenOff(Unavailable):
    """An answer ended before its end: asked again, it may come whole."""


class Refused(Exception):
    """A registry's answer was not one of those wanted; *code* and *message* are the first of its error list."""

    def __init__(self, endpoint: Endpoint, status: int, code: str = "", message: str = "", wait: str = "") -> None:
        super().__init__(f"registry {endpoint.host} answered {status}")
        self.endpoint, self.status, self.code, self.message, self.wait = endpoint, status, code, message, wait

    @classmethod
    def of(cls, endpoint: Endpoint, response: requests.Response) -> Refused:
        """From *response*, whose body is read (a little) and closed."""
        code = message = ""
        try:
            first = json.loads(read_body(response, 1 << 16))["errors"][0]
            code, message = str(first.get("code") or ""), str(first.get("message") or "")
        except (ValueError, LookupError, TypeError, AttributeError, ScowError):
            pass  # many answer HTML or nothing: the status says enough
        return cls(endpoint, response.status_code, code, message, response.headers.get("Retry-After", ""))

    @property
    def reason(self) -> str:
        """``code: message`` as Docker prints it: ``denied: requested access to the resource is denied``."""
        text = ": ".join(part for part in (self.code.lower().replace("_", " "), self.message) if part)
        return text or {401: "unauthorized: authentication required", 403: "denied"}.get(self.status, str(self))

    def generic(self) -> ScowError:
        """The error where the operation has nothing better to say."""
        host = self.endpoint.host
        if self.status in (401, 403):
            return Unauthorized(f"registry {host}: {self.reason}", hint=f"log in with: docker login {host}")
        if self.status == 404:
            return NotFound(f"registry {host}: {self.reason}")
        if self.status == 429:
            hint = f"try again in {self.wait} s" if self.wait.isdigit() else "log in, or try again later"
            return Unavailable(f"registry {host}: {self.reason}", hint=hint)
        if self.status >= 500:
            return Unavailable(f"registry {host} answered {self.status}: {self.reason}")
        return InvalidArgument(f"registry {host} answered {self.status}: {self.reason}")


def pull_error(refused: Refused, ref: Reference) -> ScowError:
    """*refused* for somebody who reads *ref*."""
    if refused.status in (401, 403):
        return Unauthorized(
            f"pull access denied for {ref.familiar_name}, repository does not exist or may require 'docker login': "
            f"{refused.reason}",
            hint=f"check the name, or log in with: docker login {ref.host}",
        )
    if refused.status == 404:
        return NotFound(f"manifest for {ref.familiar} not found: manifest unknown: manifest unknown")
    return refused.generic()


def push_error(refused: Refused, ref: Reference) -> ScowError:
    """*refused* for somebody who writes to *ref*."""
    if refused.status in (401, 403):
        return Unauthorized(
            f"push access denied for {ref.familiar_name}: {refused.reason}",
            hint=f"log in with: docker login {ref.host}",
        )
    return refused.generic()


def read_body(response: requests.Response, limit_bytes: int) -> bytes:
    """The whole body, at most *limit_bytes*; the connection is free afterwards. Raises `Unavailable` when it is longer,
    `BrokenOff` when it ends early."""
    from requests import RequestException
    from urllib3.exceptions import HTTPError

    data = bytearray()
    try:
        for chunk in response.iter_content(1 << 16):
            data += chunk
            if len(data) > limit_bytes:
                raise Unavailable(f"a registry's answer is longer than {limit_bytes} bytes")
    except (RequestException, HTTPError, OSError):
        raise BrokenOff("a registry's answer broke off") from None
    finally:
        response.close()
    return bytes(data)
