"""One request of a client, with its parameters as typed values, and how it is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from aiohttp import web

from scow import __version__
from scow.credentials import decode_registry_auth
from scow.engine.system import API_VERSION
from scow.errors import InvalidArgument
from scow.types import decode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multidict import MultiMapping

    from scow.engine.engine import Engine
    from scow.ports.registry import Credentials

M = TypeVar("M", bound=msgspec.Struct)

HEADERS = {
    "Api-Version": API_VERSION,
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": f"Scow/{__version__} (linux)",
}
_JSON_HEADERS = {**HEADERS, "Content-Type": "application/json"}
_FALSE = frozenset({"", "0", "no", "false", "none"})  # moby api/server/httputils/form.go: BoolValue


class Call:
    """A request: *args* are the variable parts of its path, *version* the API version that the client speaks."""

    __slots__ = ("engine", "request", "args", "version", "_query")

    def __init__(
        self, engine: Engine, request: web.BaseRequest, args: Mapping[str, str], version: tuple[int, int]
    ) -> None:
        self.engine = engine
        self.request = request
        self.args = args
        self.version = version
        self._query: MultiMapping[str] = request.query

    def text(self, name: str, default: str = "") -> str:
        """Query parameter *name*."""
        return self._query.get(name, default)

    def texts(self, name: str) -> list[str]:
        """Every value of query parameter *name*."""
        return list(self._query.getall(name, []))

    def flag(self, name: str, default: bool = False) -> bool:
        """Query parameter *name* as Docker reads booleans: anything but ``0``, ``no``, ``false``, ``none`` is true."""
        value = self._query.get(name)
        return default if value is None else value.strip().lower() not in _FALSE

    def number(self, name: str) -> int | None:
        """Query parameter *name* as an integer, None where it is absent or empty; raises `InvalidArgument`."""
        value = self._query.get(name, "")
        if not value:
            return None
        try:
            return int(value)
        except ValueError:
            raise InvalidArgument(f"invalid value {value!r} for {name}: not a number") from None

    def filters(self) -> dict[str, list[str]]:
        """The ``filters`` parameter: a JSON map of lists, or of maps whose members are true (clients before 1.22)."""
        text = self._query.get("filters", "")
        if not text:
            return {}
        try:
            return _filters(msgspec.json.decode(text))
        except (msgspec.DecodeError, TypeError):
            raise InvalidArgument(f"invalid filter: {text!r}", hint='expected {"name":["value"]}') from None

    async def body(self, model: type[M]) -> M:
        """The request's JSON body as *model*; an empty body gives its defaults. Raises `InvalidArgument`.

        As in Docker a body must be declared as JSON: what a web page can make a browser send without asking is not.
        """
        body = await self.request.read()
        declared = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if body and declared != "application/json":
            raise InvalidArgument(f"unsupported Content-Type header ({declared}): must be 'application/json'")
        return decode(body, model)

    def credentials(self) -> Credentials | None:
        """What ``X-Registry-Auth`` holds (base64url JSON); None where it names nobody. Raises `InvalidArgument`."""
        return decode_registry_auth(self.request.headers.get("X-Registry-Auth"))


def _filters(value: Any) -> dict[str, list[str]]:
    if not isinstance(value, dict):
        raise TypeError
    found: dict[str, list[str]] = {}
    for name, values in value.items():
        if isinstance(values, dict):
            values = [key for key, wanted in values.items() if wanted]
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            raise TypeError
        found[name] = values
    return found


def answer(value: Any, status: int = 200) -> web.Response:
    """*value* as a JSON response."""
    return web.Response(body=msgspec.json.encode(value) + b"\n", status=status, headers=_JSON_HEADERS)


def empty(status: int = 204) -> web.Response:
    """A response without a body."""
    return web.Response(status=status, headers=HEADERS)
