"""What clients send to log in at registries: Docker's ``X-Registry-Auth`` and ``AuthConfig``.

Secrets are kept in `Credentials`, whose ``repr`` hides them; no error here quotes what could not be read.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument
from scow.ports.registry import Credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

_LIMIT_BYTES = 1 << 20


def decode_registry_auth(header: str | None) -> Credentials | None:
    """The credentials in an ``X-Registry-Auth`` header (base64url of an ``AuthConfig``, padded or not).

    None where it is absent or names nobody. Raises `InvalidArgument`."""
    config = _decode("X-Registry-Auth", header)
    return None if config is None else credentials_of(config)


def decode_registry_config(header: str | None) -> dict[str, Credentials]:
    """The credentials of each registry host in a build's ``X-Registry-Config`` header. Raises `InvalidArgument`."""
    found: dict[str, Credentials] = {}
    for address, config in (_decode("X-Registry-Config", header) or {}).items():
        credentials = credentials_of(config)
        if credentials is not None:
            found[registry_host(address)] = credentials
    return found


def credentials_of(config: Any) -> Credentials | None:
    """The credentials in *config*, an ``AuthConfig`` as decoded from JSON; None where it names nobody.

    ``auth`` (base64 of ``user:password``) counts where ``username`` is absent. Raises `InvalidArgument`.
    """
    if not isinstance(config, dict) or not all(isinstance(value, str | None) for value in config.values()):
        raise InvalidArgument("invalid registry credentials: expected a json object of strings")
    if config.get("registrytoken"):
        raise InvalidArgument("invalid registry credentials: registrytoken is not supported", hint="use identitytoken")
    username, password = config.get("username") or "", config.get("password") or ""
    if not username and config.get("auth"):
        username, _, password = _from_base64("auth", config["auth"]).decode("utf-8", "replace").partition(":")
    identity = config.get("identitytoken") or ""
    if not username and not identity:
        return None
    return Credentials(username, password, identity)


def server_address_of(config: Mapping[str, Any]) -> str:
    """The registry host that an ``AuthConfig`` is for; ``docker.io`` where it says none."""
    return registry_host(str(config.get("serveraddress") or ""))


def registry_host(address: str) -> str:
    """The host in what clients call a server address: ``https://index.docker.io/v1/`` is ``docker.io``."""
    host = address.strip().split("://", 1)[-1].split("/", 1)[0]
    return "docker.io" if host in ("", "index.docker.io", "registry-1.docker.io") else host


def _decode(name: str, header: str | None) -> dict[str, Any] | None:
    if not header or not header.strip():
        return None
    if len(header) > _LIMIT_BYTES:
        raise InvalidArgument(f"invalid {name} header: longer than {_LIMIT_BYTES} bytes")
    try:
        value = json.loads(_from_base64(name, header))
    except (ValueError, RecursionError):
        # Not chained: the decoder's error holds the text.
        raise InvalidArgument(f"invalid {name} header: not json in base64url") from None
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InvalidArgument(f"invalid {name} header: not a json object")
    return value


def _from_base64(name: str, text: str) -> bytes:
    plain = text.strip().rstrip("=").replace("+", "-").replace("/", "_")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgument(f"invalid {name} header: not base64url") from None
