"""Requests to one registry on somebody's behalf: transport and tokens together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scow.errors import Unavailable
from scow_registry_dockerhub.answers import BrokenOff, Refused, read_body, release
from scow_registry_dockerhub.tokens import Tokens
from scow_registry_dockerhub.transport import ATTEMPTS, Transport

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    import requests

    from scow.ports.registry import Credentials
    from scow_registry_dockerhub.endpoints import Endpoint, Endpoints
    from scow_registry_dockerhub.proxies import Proxies


class Client:
    """Speaks the distribution protocol's requests. Thread-safe."""

    def __init__(self, endpoints: Endpoints, proxies: Proxies, *, pause_s: float, timeout_s: float) -> None:
        self.endpoints = endpoints
        self.transport = Transport(endpoints, proxies, pause_s=pause_s, timeout_s=timeout_s)
        self.tokens = Tokens(self.transport, endpoints)

    def request(
        self,
        endpoint: Endpoint,
        method: str,
        target: str,
        *,
        scopes: frozenset[str],
        credentials: Credentials | None,
        wanted: Collection[int] = (200,),
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        attempts: int | None = None,
        read_timeout_s: float | None = None,
    ) -> requests.Response:
        """The answer to *method* at *target* (``/v2/…``, or a whole URL that the registry gave), its body unread.

        Raises `Refused` where its status is not *wanted*, `Unauthorized` and `Unavailable`. Credentials go to the
        registry and its token server only: a whole URL elsewhere is asked without. Without *attempts* a registry is
        asked `ATTEMPTS` times, a mirror once: the registry stands behind it.
        """
        most = attempts or most_attempts(endpoint)
        foreign = not target.startswith("/")
        url = target if foreign else self.transport.url(endpoint, target)
        own = not foreign or url.startswith(self.transport.url(endpoint, "/"))
        given = dict(headers or {})
        if own and (authorization := self.tokens.header(endpoint, scopes, credentials)):
            given["Authorization"] = authorization

        def send() -> requests.Response:
            return self.transport.send(
                endpoint, method, url, given, body=body, attempts=most, read_timeout_s=read_timeout_s
            )

        response = send()
        if response.status_code == 401 and own:
            try:
                authorization = self.tokens.challenged(endpoint, response, scopes, credentials)
            except BaseException:
                release(response)
                raise
            if authorization and (body is None or isinstance(body, bytes)):  # else the caller begins again
                release(response)
                given["Authorization"] = authorization
                response = send()
        if response.status_code not in wanted:
            raise Refused.of(endpoint, response)
        return response

    def read(
        self,
        endpoint: Endpoint,
        target: str,
        limit_bytes: int,
        *,
        scopes: frozenset[str],
        credentials: Credentials | None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[requests.Response, bytes]:
        """The answer to ``GET`` *target* and its whole body, asked for again where that breaks off. Raises as
        `request`, and `Unavailable` for more than *limit_bytes*."""
        attempt = 0
        while True:
            response = self.request(endpoint, "GET", target, scopes=scopes, credentials=credentials, headers=headers)
            try:
                return response, read_body(response, limit_bytes)
            except BrokenOff:
                attempt += 1
                if attempt == most_attempts(endpoint):
                    raise Unavailable(f"the answer of registry {endpoint.host} broke off") from None
            self.transport.back_off(attempt)

    def close(self) -> None:
        """No connection is left open."""
        self.transport.close()


def most_attempts(endpoint: Endpoint) -> int:
    """How many times *endpoint* is asked for the same."""
    return 1 if endpoint.mirror else ATTEMPTS


def pull_scope(repository: str) -> frozenset[str]:
    """The scope to read *repository*."""
    return frozenset({f"repository:{repository}:pull"})


def push_scope(repository: str, mount_from: Iterable[str] = ()) -> frozenset[str]:
    """The scope to write *repository* and to mount blobs of the others."""
    return frozenset({f"repository:{repository}:pull,push", *(f"repository:{name}:pull" for name in mount_from)})
