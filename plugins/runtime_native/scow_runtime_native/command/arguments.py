"""The command line: flags as Go programs take them, for callers that were written against runc.

``--flag value``, ``--flag=value``, ``-f value``, and a single dash before a long name. Flags may follow arguments,
except where the rest is the command line of a container. A table and thirty lines, because click costs as much as all
else that a command does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

_TRUE, _FALSE = ("true", "1", "t"), ("false", "0", "f")


class Flag:
    """One flag. *kind*: ``switch``, ``value``, ``number`` or ``list`` (may be given several times)."""

    def __init__(self, names: str, help: str, kind: str = "value", default: Any = None) -> None:
        """*names*: the long name, and after a comma a one-letter one."""
        self.name, _, self.short = names.partition(",")
        self.help = help
        self.kind = kind
        self.default = default if default is not None else {"switch": False, "value": ""}.get(kind)

    @property
    def key(self) -> str:
        """The name in the result of `parse`."""
        return self.name.replace("-", "_")


class Grammar:
    """The flags and arguments of one command. *most* is how many arguments it takes (-1: any number); *rest* is
    whether everything from the first argument on belongs to a container."""

    def __init__(
        self, usage: str, help: str, flags: Sequence[Flag] = (), least: int = 0, most: int = 0, rest: bool = False
    ) -> None:
        self.usage = usage
        self.help = help
        self.flags = (*flags, Flag("help,h", "show this", "switch"))
        self.least = least
        self.most = most
        self.rest = rest

    def parse(self, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """The values of all flags by `Flag.key`, and the arguments. Raises `InvalidArgument`."""
        values: dict[str, Any] = {flag.key: [] if flag.kind == "list" else flag.default for flag in self.flags}
        arguments: list[str] = []
        waiting = list(reversed(words))
        while waiting:
            word = waiting.pop()
            if word == "--":
                arguments += reversed(waiting)
                break
            if word == "-" or not word.startswith("-"):
                arguments.append(word)
                if self.rest:
                    arguments += reversed(waiting)
                    break
                continue
            self._take(word, waiting, values)
        if not values["help"]:
            self._check(arguments)
        return values, arguments

    def _take(self, word: str, waiting: list[str], values: dict[str, Any]) -> None:
        name, equals, value = word.lstrip("-").partition("=")
        flag = next((flag for flag in self.flags if name in (flag.name, flag.short) and name), None)
        if flag is None:
            raise InvalidArgument(f"unknown flag {word!r}", hint=f"usage: {self.usage}")
        if flag.kind == "switch":
            values[flag.key] = _switch(flag.name, value) if equals else True
            return
        if not equals:
            if not waiting:
                raise InvalidArgument(f"flag --{flag.name} needs a value", hint=f"usage: {self.usage}")
            value = waiting.pop()
        if flag.kind == "list":
            values[flag.key].append(value)
        else:
            values[flag.key] = _number(flag.name, value) if flag.kind == "number" else value

    def _check(self, arguments: list[str]) -> None:
        if len(arguments) < self.least:
            raise InvalidArgument("too few arguments", hint=f"usage: {self.usage}")
        if 0 <= self.most < len(arguments):
            raise InvalidArgument(f"unexpected argument {arguments[self.most]!r}", hint=f"usage: {self.usage}")

    def text(self) -> str:
        """What ``--help`` prints."""
        rows = [(f"--{flag.name}" + (f", -{flag.short}" if flag.short else ""), flag.help) for flag in self.flags]
        width = max(len(names) for names, _ in rows) + 2
        lines = "".join(f"  {names.ljust(width)}{help}\n" for names, help in rows)
        return f"{self.help}\n\nusage: {self.usage}\n\n{lines}"


def _switch(name: str, value: str) -> bool:
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise InvalidArgument(f"flag --{name}: {value!r} is neither true nor false")


def _number(name: str, value: str) -> int:
    try:
        return int(value, 0)
    except ValueError:
        raise InvalidArgument(f"flag --{name}: {value!r} is not a number") from None
