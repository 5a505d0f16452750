"""Ids and names of objects, and how a client's reference finds one."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Protocol, TypeVar

from scow.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+")
VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_HEX = re.compile(r"[0-9a-f]{1,64}")

_WORD = re.compile(r"\w+")
_ADJECTIVES = _WORD.findall(
    """able amber brave brisk calm clear clever cosy crisp deft eager early fair fleet fresh gentle glad golden grand
    happy hardy keen kind light lively lucid merry mild neat noble patient plain proud quick quiet ready serene sharp
    shiny silver smart snug solid steady still sturdy sunny swift tidy trusty vivid warm wise witty young"""
)
_BOATS = _WORD.findall(
    """barge bark boat brig canoe caravel carrack clipper cog coracle cutter dhow dinghy dory ferry fluyt frigate galley
    gondola hoy hulk jolly junk kayak keel ketch lighter lugger packet pinnace pontoon praam punt raft sampan schooner
    scow shallop skiff sloop smack snow tartane tender trawler tug umiak wherry xebec yacht yawl"""
)

T = TypeVar("T")


class Named(Protocol):
    """Has an id and a name."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...


def new_id() -> str:
    """A fresh id of 64 hex digits; never all digits in its first twelve, so that no host name is a number."""
    while True:
        value = secrets.token_hex(32)
        if not value[:12].isdigit():
            return value


def random_name(taken: Iterable[str]) -> str:
    """A readable name that is not in *taken*."""
    used = set(taken)
    while True:
        name = f"{secrets.choice(_ADJECTIVES)}_{secrets.choice(_BOATS)}"
        if name not in used:
            return name
        name += secrets.token_hex(2)
        if name not in used:
            return name


def check_container_name(name: str) -> str:
    """*name* without a leading slash; raises `InvalidArgument` in Docker's words."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return name.removeprefix("/")


def find(ref: str, what: str, by_id: Mapping[str, T], by_name: Mapping[str, str]) -> T:
    """The object of *by_id* that *ref* means: a full id, a name (*by_name* gives its id), or a unique id prefix.

    Raises `NotFound` ("No such container: x"), `InvalidArgument` for a prefix of several.
    """
    if ref in by_id:
        return by_id[ref]
    name = ref.removeprefix("/")
    if by_name.get(name) in by_id:  # a name that is reserved for a container being made has no object yet
        return by_id[by_name[name]]
    if _HEX.fullmatch(ref):
        matches = [key for key in by_id if key.startswith(ref)]
        if len(matches) == 1:
            return by_id[matches[0]]
        if matches:
            raise InvalidArgument(f"Multiple IDs found with provided prefix: {ref}")
    raise NotFound(f"No such {what}: {ref}")
