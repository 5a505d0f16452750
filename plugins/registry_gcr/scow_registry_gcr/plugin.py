"""The plugin: answers the hook `scow_registry_credentials` for Google's registries."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument
from scow.hookspecs import hookimpl
from scow.ports.registry import Credentials
from scow_registry_gcr.tokens import AccessTokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scow.ports import DriverContext

USER = "oauth2accesstoken"  # whose password is an access token, at every one of Google's registries
_GOOGLE = re.compile(r"([a-z0-9-]+\.)?gcr\.io|([a-z0-9-]+-)?docker(\.[a-z0-9-]+\.rep)?\.pkg\.dev")


class GcrCredentials:
    """Knows the credentials of gcr.io and Artifact Registry. google-auth is imported when it is needed."""

    def __init__(self, context: DriverContext) -> None:
        key_file, hosts = _options(context.options)
        self._hosts = hosts
        self._tokens = AccessTokens(key_file)

    @hookimpl
    def scow_registry_credentials(self, host: str) -> Credentials | None:
        """An access token; None for hosts that are not Google's, and where there is no Google account."""
        if host not in self._hosts and _GOOGLE.fullmatch(host) is None:
            return None
        token = self._tokens.get()
        return Credentials(USER, token) if token else None


def _options(options: Mapping[str, Any]) -> tuple[str, frozenset[str]]:
    unknown = sorted(set(options) - {"key_file", "hosts"})
    if unknown:
        raise InvalidArgument(f"unknown option {unknown[0]!r} of plugin.gcr; valid: hosts, key_file")
    key_file, hosts = options.get("key_file") or "", options.get("hosts") or []
    if not isinstance(key_file, str):
        raise InvalidArgument("key_file of plugin.gcr: expected a path")
    if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
        raise InvalidArgument("hosts of plugin.gcr: expected a list of registry hosts")
    return key_file, frozenset(hosts)
