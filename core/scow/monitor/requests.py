"""What operations of a monitor have in common: refusals, later answers, and the values in a request."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable
from typing import Any

from scow.monitor.control import Connection
from scow.monitor.process import Failure
from scow.monitor.protocol import Message
from scow.monitor.streams import Stdio

_prepared: list[Any] = []  # child modules


class Refused(Exception):
    """An operation cannot be done; *kind* tells the client which error to raise."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind


def child_module(name: str) -> Any:
    """The runtime's child module, imported by the zygote before the fork. Raises `Refused` for another."""
    module = sys.modules.get(name)
    if module is None:
        raise Refused(f"the zygote has not imported the child module {name}", "unsupported")
    return module


def prepare(modules: Iterable[Any], hints: Collection[str]) -> None:
    """Of those child *modules* that can make something before it is asked for, each has; *hints* says what the last
    containers were."""
    for module in modules:
        if hasattr(module, "prepare"):
            module.prepare(hints)
            _prepared.append(module)


def discard_prepared(module: Any) -> None:
    """What other child modules than *module* have prepared is gone."""
    for other in _prepared:
        if other is not module:
            other.discard()


def is_indirect(module: Any) -> bool:
    """Whether another program makes the child module's processes (`scow.ports.runtime`)."""
    return bool(vars(module).get("INDIRECT"))  # getattr makes an error where it is not there, and writes to 6 pages


def set_size(stdio: Stdio, size: Any) -> None:
    """The terminal will have *size* (rows, columns) where that is given and not zero."""
    if size and size[0] and size[1]:
        stdio.resize(int(size[0]), int(size[1]))


def answerer(connection: Connection, seq: Any, result: Callable[[], Message]) -> Callable[[Failure | None], None]:
    """What answers the request *seq* later: with what *result* answers then, or with a failure."""

    def answer(failure: Failure | None) -> None:
        if failure:
            connection.refuse(seq, failure["message"], failure["kind"], failure.get("errno", 0))
        else:
            connection.answer(seq, result())

    return answer
