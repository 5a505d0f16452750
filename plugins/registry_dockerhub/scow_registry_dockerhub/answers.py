"""What registries answer, as errors that say it in Docker's words."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from scow.errors import InvalidArgument, NotFound, ScowError, Unauthorized, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import requests

    from scow.reference import Reference
    from scow_registry_dockerhub.endpoints import Endpoint

MANIFEST_LIMIT_BYTES = 4 << 20
"""The largest manifest that registries must accept (distribution-spec, "Pushing manifests")."""

_SHORT_BYTES = 1 << 16


class BrokenOff(Unavailable):
    """An answer ended before its end: asked again, it may come whole."""


class Refused(Exception):
    """A registry's answer was not one of those wanted; *code* and *message* are the first of its error list, *wait* its
    ``Retry-After`` and *limit* the rate that it allows, in words."""

    def __init__(
        self, endpoint: Endpoint, status: int, code: str = "", message: str = "", wait: str = "", limit: str = ""
    ) -> None:
        super().__init__(f"registry {endpoint.host} answered {status}")
        self.endpoint, self.status, self.code, self.message = endpoint, status, code, message
        self.wait, self.limit = wait, limit

    @classmethod
    def of(cls, endpoint: Endpoint, response: requests.Response) -> Refused:
        """From *response*, whose body is read (a little) and closed."""
        code = message = ""
        try:
            first = json.loads(read_body(response, 1 << 16))["errors"][0]
            code, message = str(first.get("code") or ""), str(first.get("message") or "")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, ScowError):
            pass  # many answer HTML or nothing: the status says enough
        wait, limit = response.headers.get("Retry-After", ""), rate_limit(response.headers)
        return cls(endpoint, response.status_code, code, message, wait, limit)

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
            return Unavailable(f"registry {host}: {self.reason}", hint=self._limit_hint())
        if self.status >= 500:
            return Unavailable(f"registry {host} answered {self.status}: {self.reason}")
        return InvalidArgument(f"registry {host} answered {self.status}: {self.reason}")

    def _limit_hint(self) -> str:
        later = f"try again in {self.wait} s" if self.wait.isdigit() else "try again later"
        told = f"{self.limit}; " if self.limit else ""
        return f"{told}{later}, or log in with: docker login {self.endpoint.host}"


def rate_limit(headers: Mapping[str, str]) -> str:
    """What Docker Hub says of its limit (``ratelimit-limit: 100;w=21600``): ``100 pulls in 6 h are allowed to
    192.0.2.1``; ``""`` where an answer says nothing of it."""
    found = re.fullmatch(r"(\d{1,9});w=(\d{1,9})", headers.get("ratelimit-limit", "").strip())
    if found is None:
        return ""
    hours, minutes = divmod(int(found[2]) // 60, 60)
    span = f"{hours} h" if not minutes else f"{hours * 60 + minutes} min"
    source = headers.get("docker-ratelimit-source", "")
    whom = f" to {source}" if re.fullmatch(r"[0-9A-Za-z.:-]{1,64}", source) else ""
    return f"{found[1]} pulls in {span} are allowed{whom}"


def limit_reached(headers: Mapping[str, str]) -> bool:
    """Whether Docker Hub says that no pull is left (``ratelimit-remaining: 0;w=21600``): asking again is of no use."""
    return headers.get("ratelimit-remaining", "").partition(";")[0].strip() == "0"


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


def release(response: requests.Response) -> None:
    """Nobody needs the body of *response*: its connection is free for others, or closed where that body is long."""
    length = response.headers.get("Content-Length", "")
    if response.request.method == "HEAD" or (length.isdecimal() and int(length) <= _SHORT_BYTES):
        response.raw.drain_conn()
    response.close()


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
