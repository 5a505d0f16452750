"""Connections to registries: TLS by a context of ours, larger blocks, and time to send."""

from __future__ import annotations

from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import requests
import requests.adapters
import urllib3.connection
import urllib3.connectionpool

from scow import __version__

if TYPE_CHECKING:
    import socket
    import ssl

    from scow_registry_dockerhub.trust import Trust

SEND_TIMEOUT_S = 60.0
"""How long a registry may take nothing of an upload. urllib3 would give it the time to connect, which is short."""
_BLOCK = 1 << 18
_POOL = 64  # kept connections to one host: as many as parts of blobs may be under way


def new_session(trust: Trust) -> requests.Session:
    """A pool of connections that are made with *trust*: without cookies, redirects, ~/.netrc and proxies of its own."""
    session = _Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers["Accept-Encoding"] = "identity"  # digests are of the bytes as they are sent
    session.headers["User-Agent"] = f"scow/{__version__}"
    adapter = _Adapter(trust.context())
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


class _Session(requests.Session):
    """Follows no redirect, and does not look where one would lead: `Transport` does."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None


class _TimeToSend:
    """urllib3 gives a connection the time to connect, both when it is made and when it is used again."""

    sock: socket.socket | None

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self._give()

    def putrequest(self, *arguments: Any, **options: Any) -> None:
        self._give()
        super().putrequest(*arguments, **options)  # type: ignore[misc]

    def _give(self) -> None:
        if self.sock is not None:
            self.sock.settimeout(SEND_TIMEOUT_S)


class _HttpConnection(_TimeToSend, urllib3.connection.HTTPConnection):
    pass


class _HttpsConnection(_TimeToSend, urllib3.connection.HTTPSConnection):
    pass


class _HttpPool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


_POOLS = {"http": _HttpPool, "https": _HttpsPool}


class _Adapter(requests.adapters.HTTPAdapter):
    """Retries are ours, TLS is spoken by *context* alone, and uploads are read in blocks larger than urllib3's
    16 KiB."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(pool_connections=16, pool_maxsize=_POOL)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, blocksize=_BLOCK, ssl_context=self._context, **pool)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, blocksize=_BLOCK, ssl_context=self._context, **options)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        return super().build_connection_pool_key_attributes(request, verify, cert)[0], {}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """The context does."""
