"""Docker Hub's search (``GET /v1/search`` of its index), which some other registries have too."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from scow.errors import Unavailable, Unsupported
from scow.ports.registry import SearchResult
from scow_registry_dockerhub.answers import Refused

if TYPE_CHECKING:
    from scow.ports.registry import Credentials
    from scow_registry_dockerhub.client import Client
    from scow_registry_dockerhub.endpoints import Endpoint

_LIMIT_BYTES = 4 << 20


def search(
    client: Client, endpoint: Endpoint, term: str, limit: int, credentials: Credentials | None
) -> list[SearchResult]:
    """At most *limit* repositories that *term* finds, best first. Raises `Unsupported` where *endpoint* has none."""
    target = "/v1/search?" + urlencode({"q": term, "n": limit})
    try:
        _, data = client.read(endpoint, target, _LIMIT_BYTES, scopes=frozenset(), credentials=credentials)
    except Refused as refused:
        if refused.status == 404:
            raise Unsupported(f"registry {endpoint.host} has no search") from None
        raise refused.generic() from None
    try:
        found = json.loads(data)["results"]
        return [_result(entry) for entry in found[:limit]]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise Unavailable(f"registry {endpoint.host} answered no list of search results") from None


def _result(entry: dict[str, Any]) -> SearchResult:
    return SearchResult(
        str(entry["name"]),
        str(entry.get("description") or ""),
        int(entry.get("star_count") or 0),
        bool(entry.get("is_official")),
        bool(entry.get("is_automated")),
    )
