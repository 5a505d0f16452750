"""Who asks: answers a registry's challenge with a token (distribution's token specification) or with a password."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from scow.errors import Unauthorized, Unavailable
from scow.ports.registry import Credentials
from scow_registry_dockerhub.answers import Refused, read_body, release
from scow_registry_dockerhub.challenge import Challenge, parse_challenges
from scow_registry_dockerhub.endpoints import is_loopback
from scow_registry_dockerhub.targets import target_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import requests

    from scow_registry_dockerhub.endpoints import Endpoint, Endpoints
    from scow_registry_dockerhub.transport import Transport

CLIENT_ID = "scow"
_SHORTEST_LIFE_S = 60  # what a token without expires_in lives (token specification)
_ANYBODY = Credentials()
_LOCKS = 32


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token, good until *expires_at* (monotonic seconds), and the refresh token that came with it."""

    value: str = field(repr=False)
    expires_at: float
    refresh: str = field(default="", repr=False)


class Tokens:
    """The challenges of each endpoint and the tokens that answered them. Thread-safe; askers of one token wait for
    one request."""

    def __init__(self, transport: Transport, endpoints: Endpoints, clock: Callable[[], float] = time.monotonic) -> None:
        self._transport = transport
        self._endpoints = endpoints
        self._clock = clock
        self._challenges: dict[str, Challenge] = {}
        self._tokens: dict[tuple[object, ...], Token] = {}
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def header(self, endpoint: Endpoint, scopes: frozenset[str], credentials: Credentials | None) -> str:
        """The ``Authorization`` that *endpoint* wanted the last time; ``""`` where it never asked."""
        challenge = self._challenges.get(endpoint.netloc)
        return "" if challenge is None else self._answer(endpoint, challenge, scopes, credentials)

    def challenged(
        self,
        endpoint: Endpoint,
        response: requests.Response,
        scopes: frozenset[str],
        credentials: Credentials | None,
    ) -> str:
        """The ``Authorization`` that answers the 401 *response*; ``""`` where there is none to give.

        A token that was refused is not used again. Raises `Unauthorized` where the credentials are refused.
        """
        offered = parse_challenges(response.headers.get("WWW-Authenticate", ""))
        for challenge in offered:
            if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                self._challenges[endpoint.netloc] = challenge
                wider = _with_asked(scopes, challenge.parameters.get("scope", ""))
                self._tokens.pop(self._key(challenge, wider, credentials), None)
                return self._answer(endpoint, challenge, wider, credentials)
            if challenge.scheme == "basic":
                self._challenges[endpoint.netloc] = challenge
                return self._answer(endpoint, challenge, scopes, credentials)
        return ""

    def refresh_token(self, endpoint: Endpoint, credentials: Credentials) -> str:
        """A refresh token to keep in place of the password, where *endpoint* gives any; the challenge is known."""
        challenge = self._challenges.get(endpoint.netloc)
        if challenge is None or challenge.scheme != "bearer" or credentials.identity_token:
            return ""
        return self._request(endpoint, challenge, frozenset(), credentials, offline=True).refresh

    def _answer(
        self, endpoint: Endpoint, challenge: Challenge, scopes: frozenset[str], credentials: Credentials | None
    ) -> str:
        if challenge.scheme == "basic":
            return _basic(credentials) if credentials is not None and credentials.username else ""
        key = self._key(challenge, scopes, credentials)
        with self._locks[hash(key) % _LOCKS]:
            token = self._tokens.get(key)
            if token is None or token.expires_at <= self._clock():
                self._drop_expired()
                token = self._tokens[key] = self._request(endpoint, challenge, scopes, credentials)
        return f"Bearer {token.value}"

    def _drop_expired(self) -> None:
        for key, token in list(self._tokens.items()):
            if token.expires_at <= self._clock():
                self._tokens.pop(key, None)

    @staticmethod
    def _key(challenge: Challenge, scopes: frozenset[str], credentials: Credentials | None) -> tuple[object, ...]:
        parameters = challenge.parameters
        return parameters.get("realm"), parameters.get("service"), scopes, credentials or _ANYBODY

    def _request(
        self,
        endpoint: Endpoint,
        challenge: Challenge,
        scopes: frozenset[str],
        credentials: Credentials | None,
        *,
        offline: bool = False,
    ) -> Token:
        realm = challenge.parameters["realm"]
        self._check_realm(endpoint, realm)
        service = challenge.parameters.get("service", "")
        headers: dict[str, str] = {}
        fields: list[tuple[str, str]] = [("service", service)] if service else []
        if credentials is not None and credentials.identity_token:
            fields += [("grant_type", "refresh_token"), ("refresh_token", credentials.identity_token)]
            fields += [("client_id", CLIENT_ID), ("scope", " ".join(sorted(scopes)))]
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            response = self._transport.send(endpoint, "POST", realm, headers, body=urlencode(fields).encode())
        else:
            fields += [("scope", scope) for scope in sorted(scopes)]
            if credentials is not None and credentials.username:
                fields.append(("account", credentials.username))
                headers["Authorization"] = _basic(credentials)
            if offline:
                fields += [("offline_token", "true"), ("client_id", CLIENT_ID)]
            query = ("&" if urlsplit(realm).query else "?") + urlencode(fields) if fields else ""
            response = self._transport.send(endpoint, "GET", realm + query, headers)
        return self._read(endpoint, response, credentials)

    def _read(self, endpoint: Endpoint, response: requests.Response, credentials: Credentials | None) -> Token:
        if response.status_code in (400, 401, 403) and credentials is not None:
            release(response)
            raise Unauthorized(
                f"registry {endpoint.host}: unauthorized: incorrect username or password",
                hint=f"log in with: docker login {endpoint.host}",
            )
        if response.status_code != 200:
            raise Refused.of(endpoint, response)
        try:
            answer: Mapping[str, Any] = json.loads(read_body(response, 1 << 20))
            value = answer.get("token") or answer.get("access_token")
            life_s = float(answer.get("expires_in") or _SHORTEST_LIFE_S)
            refresh = str(answer.get("refresh_token") or "")
        except (ValueError, TypeError, AttributeError, RecursionError):
            value = None
        if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable():
            raise Unavailable(f"the token server of registry {endpoint.host} answered without a token")
        return Token(value, self._clock() + life_s - min(10.0, life_s / 10), refresh)

    def _check_realm(self, endpoint: Endpoint, realm: str) -> None:
        parts = urlsplit(target_of(endpoint.host, realm, ""))
        if is_loopback(parts.netloc) and not is_loopback(endpoint.netloc):
            raise Unavailable(f"registry {endpoint.host} wants credentials to be sent to this machine: {parts.netloc}")
        if parts.scheme == "https" and parts.hostname:
            return
        if parts.scheme != "http" or not self._endpoints.plain_allowed(parts.netloc):
            raise Unavailable(
                f"registry {endpoint.host} wants credentials to be sent to {parts.netloc or 'nowhere'} without TLS"
            )


def _basic(credentials: Credentials | None) -> str:
    if credentials is None:
        return ""
    return "Basic " + base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()


def _with_asked(scopes: frozenset[str], asked: str) -> frozenset[str]:
    """*scopes*, and what a challenge asks for beyond them: ``repository:x:pull`` is part of ``…:pull,push``."""
    held: defaultdict[str, set[str]] = defaultdict(set)
    for scope in scopes:
        resource, _, actions = scope.rpartition(":")
        held[resource].update(actions.split(","))
    more = set()
    for scope in asked.split():
        resource, _, actions = scope.rpartition(":")
        if not held[resource].issuperset(actions.split(",")):
            more.add(scope)
    return scopes | more
