"""HTTP exchanges with registries: pooled connections, time limits, retries, redirects. Knows nothing of tokens."""

from __future__ import annotations

import logging
import random
import re
import socket
import ssl
import threading
import time
import warnings
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
import urllib3.exceptions

from scow.errors import Unavailable
from scow_registry_dockerhub.answers import limit_reached, release
from scow_registry_dockerhub.connections import new_session
from scow_registry_dockerhub.endpoints import Endpoint, Endpoints, is_loopback
from scow_registry_dockerhub.targets import target_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scow_registry_dockerhub.proxies import Proxies
    from scow_registry_dockerhub.trust import Trust

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 4.0
ATTEMPTS = 4
SILENT_ATTEMPTS = 2  # a host that does not answer at all is given up sooner
LONGEST_WAIT_S = 30.0
SCHEME_LIFE_S = 300.0
_RETRIED = frozenset({429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_MOST_SESSIONS = 32
_CERTS_DIR = "certs_dir (by default /etc/docker/certs.d)"

# At debug level urllib3 writes down whole request targets, and those of a redirected blob hold a signature.
logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)


class Transport:
    """One pool of connections for all registries that are trusted alike. `close` ends waits between attempts, too.
    Thread-safe."""

    def __init__(
        self, endpoints: Endpoints, proxies: Proxies, *, pause_s: float = 0.5, timeout_s: float = 30.0
    ) -> None:
        self._endpoints, self._proxies = endpoints, proxies
        self._pause_s, self._timeout_s = pause_s, timeout_s
        self._closed = threading.Event()
        self._schemes: dict[str, tuple[str, float]] = {}  # of a host, and until when that is believed
        self._sessions: dict[Trust, requests.Session] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """No connection is left open, and nobody waits for the next attempt."""
        self._closed.set()
        with self._lock:
            for session in self._sessions.values():
                session.close()

    def url(self, endpoint: Endpoint, path: str) -> str:
        """The URL of *path* (``/v2/…``) at *endpoint*; finds out whether it speaks TLS where plain HTTP is allowed."""
        return f"{self._scheme(endpoint)}://{endpoint.netloc}{endpoint.prefix}{path}"

    def send(
        self,
        endpoint: Endpoint,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        body: Any = None,
        attempts: int = ATTEMPTS,
        read_timeout_s: float | None = None,
    ) -> requests.Response:
        """The answer, its body unread, within *read_timeout_s* where that is not the one of all requests.

        Connection errors, 429 and 5xx are tried again, with growing pauses or those that ``Retry-After`` asks for; the
        last such answer is returned. Raises `Unavailable` naming the host.
        """
        attempt = 0
        silence_s = read_timeout_s or self._timeout_s
        while True:
            attempt += 1
            try:
                response = self._follow(endpoint, method, url, dict(headers), body, silence_s)
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, UnicodeError) as error:
                failure = explain(urlsplit(url).netloc, error)
                self._schemes.pop(endpoint.netloc, None)
                most = min(attempts, SILENT_ATTEMPTS) if _is_silence(error) else attempts
                if attempt >= most or _is_certificate(error) or _is_alert(error):
                    # Not chained: what requests raises holds the whole URL, and with it signatures and tokens.
                    raise failure from None
                pause = self._backoff(attempt)
                log.debug("%s; trying again in %.1f s", failure, pause)
            else:
                if response.status_code not in _RETRIED or attempt >= attempts or limit_reached(response.headers):
                    return response
                asked = retry_after_s(response.headers.get("Retry-After", ""))
                if asked is not None and asked > LONGEST_WAIT_S:
                    return response
                pause = self._backoff(attempt) if asked is None else asked
                log.debug("registry %s answered %s; next in %.1f s", endpoint.netloc, response.status_code, pause)
                release(response)
            self.pause(pause)

    def back_off(self, attempt: int) -> None:
        """Waits after the failed *attempt* (from 1): longer each time. Raises `Unavailable` as `pause` does."""
        self.pause(self._backoff(attempt))

    def pause(self, seconds: float) -> None:
        """Waits; raises `Unavailable` where the backend is closed meanwhile."""
        if self._closed.wait(seconds):
            raise Unavailable("the registry backend is closed")

    def _backoff(self, attempt: int) -> float:
        return self._pause_s * float(1 << (attempt - 1)) * random.uniform(0.75, 1.25)

    def _follow(
        self, endpoint: Endpoint, method: str, url: str, headers: dict[str, str], body: Any, read_timeout_s: float
    ) -> requests.Response:
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._once(endpoint, method, url, headers, body, read_timeout_s)
            target = response.headers.get("Location", "")
            if response.status_code not in _REDIRECTS or not target or method not in ("GET", "HEAD"):
                return response
            release(response)
            url, before = target_of(endpoint.host, url, target), url
            self.check_target(before, url)
            if _origin(url) != _origin(before):
                headers.pop("Authorization", None)
        raise Unavailable(f"registry {endpoint.host} redirects without end")

    def _once(
        self, endpoint: Endpoint, method: str, url: str, headers: Mapping[str, str], body: Any, read_timeout_s: float
    ) -> requests.Response:
        parts = urlsplit(url)
        proxy = self._proxies.of(url)
        return self._session(self._endpoints.trust(parts.netloc, endpoint)).request(
            method,
            url,
            headers=dict(headers),
            data=body,
            stream=True,
            allow_redirects=False,
            timeout=(min(CONNECT_TIMEOUT_S, self._timeout_s), read_timeout_s),
            proxies={parts.scheme: proxy} if proxy else None,
        )

    def _session(self, trust: Trust) -> requests.Session:
        with self._lock:
            session = self._sessions.get(trust)
            if session is None:
                if not trust.verify:  # the administrator chose it; catch_warnings is of no use with threads
                    warnings.filterwarnings("ignore", category=urllib3.exceptions.InsecureRequestWarning)
                session = self._sessions[trust] = new_session(trust)
                if len(self._sessions) > _MOST_SESSIONS:  # certificates that were replaced since
                    self._sessions.pop(next(iter(self._sessions))).close()
            return session

    def check_target(self, before: str, target: str) -> None:
        """Raises `Unavailable` where *target*, which the host of *before* named, would be spoken to in the clear, or is
        on this machine while *before* is not: no registry is to reach what listens on loopback here."""
        parts = urlsplit(target)
        if is_loopback(parts.netloc) and not is_loopback(urlsplit(before).netloc):
            raise Unavailable(f"registry {urlsplit(before).netloc} redirects to this machine: {parts.netloc}")
        secure = parts.scheme == "https" or (parts.scheme == "http" and self._endpoints.plain_allowed(parts.netloc))
        if not secure or not parts.hostname:
            raise Unavailable(f"registry {urlsplit(before).netloc} redirects from https to {parts.scheme or 'nowhere'}")

    def _scheme(self, endpoint: Endpoint) -> str:
        if endpoint.scheme or not endpoint.plain:
            return endpoint.scheme or "https"
        known, until = self._schemes.get(endpoint.netloc, ("", 0.0))
        return known if until > time.monotonic() else self._probe(endpoint)

    def _remember(self, endpoint: Endpoint, scheme: str) -> str:
        self._schemes[endpoint.netloc] = (scheme, time.monotonic() + SCHEME_LIFE_S)
        return scheme

    def _probe(self, endpoint: Endpoint) -> str:
        """TLS where the host speaks it, whatever it is allowed; remembered for a while."""
        try:
            release(self._once(endpoint, "GET", f"https://{endpoint.netloc}/v2/", {}, None, CONNECT_TIMEOUT_S))
        except requests.exceptions.SSLError as error:
            if _is_certificate(error) or _is_alert(error):
                raise explain(endpoint.netloc, error) from None
            return self._remember(endpoint, "http")
        except (requests.RequestException, OSError) as error:
            if _is_connect_failure(error):
                return "http"  # the port is closed: nothing was learnt
            return self._remember(endpoint, "http")
        return self._remember(endpoint, "https")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def retry_after_s(value: str) -> float | None:
    """The seconds of a ``Retry-After`` header: a number or an HTTP date; None where there is none."""
    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError, TypeError, IndexError):  # what the parser raises for dates that are none
        return None


def explain(netloc: str, error: BaseException) -> Unavailable:
    """*error* as a sentence that names the host and the reason, and nothing of the URL's path or query."""
    name = netloc.rpartition("@")[2]
    causes = _causes(error)
    for cause in causes:
        if isinstance(cause, urllib3.exceptions.ProxyError):
            return Unavailable(f"cannot reach registry {name} through the proxy: {_proxy_failure(cause)}")
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Unavailable(
                f"registry {name} has no valid certificate: {cause.verify_message}",
                hint=f"put the authority's certificate into {name}/ca.crt in {_CERTS_DIR}",
            )
        if isinstance(cause, socket.gaierror | urllib3.exceptions.NameResolutionError):
            return Unavailable(f"cannot reach registry {name}: host name not found")
        if isinstance(cause, requests.ConnectTimeout | urllib3.exceptions.ConnectTimeoutError):
            return Unavailable(f"cannot reach registry {name}: no connection in time")
        if isinstance(cause, requests.ReadTimeout | urllib3.exceptions.ReadTimeoutError | TimeoutError):
            return Unavailable(f"registry {name} does not answer")
        if isinstance(cause, ssl.SSLError):
            return _tls_failure(name, cause)
        if isinstance(cause, OSError) and cause.errno and cause.strerror:
            return Unavailable(f"cannot reach registry {name}: {cause.strerror.lower()}")
    return Unavailable(f"the connection to registry {name} was lost")


def _tls_failure(name: str, error: ssl.SSLError) -> Unavailable:
    reason = (error.reason or "handshake failed").lower().replace("_", " ")
    hint = None
    if any(words in reason for words in ("certificate required", "handshake failure", "bad certificate")):
        hint = f"it may want a client certificate: {name}/client.cert and client.key in {_CERTS_DIR}"
    elif any(words in reason for words in ("wrong version number", "record layer failure", "http request")):
        hint = f"it may speak plain http, which registries: {{{name!r}: {{insecure: true}}}} in the config file allows"
    return Unavailable(f"cannot speak TLS with registry {name}: {reason}", hint=hint)


def _proxy_failure(error: urllib3.exceptions.ProxyError) -> str:
    """What went wrong, without the proxy's address, which may hold a password."""
    cause = error.original_error
    answered = re.search(r"Tunnel connection failed: (\d+ [\w -]+)", str(cause))
    if answered:
        return f"it answered {answered[1].strip().lower()}"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return "it cannot be reached" if isinstance(cause, urllib3.exceptions.NewConnectionError) else "no tunnel"


def _is_connect_failure(error: BaseException) -> bool:
    return any(
        isinstance(cause, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError)
        for cause in _causes(error)
    )


def _is_silence(error: BaseException) -> bool:
    return isinstance(error, requests.Timeout) or _is_connect_failure(error)


def _is_certificate(error: BaseException) -> bool:
    return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error))


def _is_alert(error: BaseException) -> bool:
    """Whether the other side said in TLS what it dislikes: it speaks it."""
    return any(isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or "") for cause in _causes(error))


def _causes(error: BaseException) -> list[BaseException]:
    """*error* and what it came from, innermost first."""
    found: list[BaseException] = []
    queue: list[object] = [error]
    while queue:
        item = queue.pop()
        if isinstance(item, BaseException) and item not in found:
            found.append(item)
            queue += [item.__cause__, item.__context__, getattr(item, "reason", None), *item.args]
    return found[::-1]
