"""Docker's command-line grammar on click: ``--flag=false``, ``-it``, ``-e=x``, commands that are imported when used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import click

from scow.cli.failures import cannot_start
from scow.errors import ScowError

F = TypeVar("F", bound=Callable[..., Any])
_TRUE = {"1", "t", "true"}
_FALSE = {"0", "f", "false"}


class Decorator(Protocol):
    """Adds one parameter to a command's function."""

    def __call__(self, function: F, /) -> F: ...


class Entry(NamedTuple):
    """Where a command lives, and its line in the help of the group: nothing of it is imported for that."""

    module: str
    attribute: str
    help: str


class Flag(click.Option):
    """A switch that can also be said as ``--name=true`` and ``--name=false``."""

    @property
    def off(self) -> str:
        return self.secondary_opts[0]

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        hidden, self.secondary_opts = self.secondary_opts, []
        try:
            return super().get_help_record(ctx)
        finally:
            self.secondary_opts = hidden


class Command(click.Command):
    """A command; with *runs* its exit codes are those of a container (125, 126, 127), else 1 stands for failure."""

    def __init__(self, *args: Any, runs: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.runs = runs

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._plain(ctx, list(args)))

    def _plain(self, ctx: click.Context, args: list[str]) -> list[str]:
        """*args* in click's grammar."""
        options = {name: p for p in self.get_params(ctx) if isinstance(p, click.Option) for name in p.opts}
        plain: list[str] = []
        position = 0
        while position < len(args):
            arg = args[position]
            position += 1
            if arg == "--":
                return [*plain, arg, *args[position:]]
            if arg.startswith("--"):
                name, equals, value = arg.partition("=")
                option = options.get(name)
                if equals and isinstance(option, Flag):
                    plain.append(_switch(option, name, value, ctx))
                    continue
                plain.append(arg)
                takes_value = not equals and option is not None and not option.is_flag
            elif arg.startswith("-") and arg != "-":
                words, takes_value = _cluster(arg, options, ctx)
                plain += words
            else:
                plain.append(arg)
                if not ctx.allow_interspersed_args:
                    return [*plain, *args[position:]]
                continue
            if takes_value and position < len(args):
                plain.append(args[position])
                position += 1
        return plain

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ScowError as error:
            if self.runs:
                raise cannot_start(error) from error
            error.exit_code = 1
            raise


def _cluster(arg: str, options: Mapping[str, click.Option], ctx: click.Context) -> tuple[list[str], bool]:
    """``-itp80:80`` as separate words, and whether the last one still wants its value."""
    words: list[str] = []
    letters = arg[1:]
    for index, letter in enumerate(letters):
        option, rest = options.get("-" + letter), letters[index + 1 :]
        if option is None:
            return [*words, "-" + letters[index:]], False
        if len(rest) > 1 and rest.startswith("="):
            if isinstance(option, Flag):
                return [*words, _switch(option, "-" + letter, rest[1:], ctx)], False
            return [*words, "-" + letter, rest[1:]], False
        words.append("-" + letter)
        if not option.is_flag:
            return ([*words, rest], False) if rest else (words, True)
    return words, False


def _switch(option: Flag, name: str, value: str, ctx: click.Context) -> str:
    if value.lower() in _TRUE:
        return name
    if value.lower() in _FALSE:
        return option.off
    raise click.UsageError(f"invalid argument {value!r} for {name!r}: not true or false", ctx)


class LazyGroup(click.Group):
    """A group whose commands are named by *table*, in sections, and imported when they are asked for."""

    def __init__(self, *args: Any, table: Mapping[str, Mapping[str, Entry]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table
        self.aliases: dict[str, str] = {"list": "ls", "remove": "rm"}
        self.open_to_plugins = False

    def entry(self, name: str) -> Entry | None:
        name = self.aliases.get(name, name)
        return next((section[name] for section in self.table.values() if name in section), None)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in self.table.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.entry(cmd_name)
        if entry is None:
            return self._of_plugin(cmd_name)
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def _of_plugin(self, name: str) -> click.Command | None:
        if not self.open_to_plugins:
            return None
        from scow.cli.plugin_commands import find

        return find(name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            where = ctx.command_path
            raise click.UsageError(f"{args[0]!r} is not a {where} command", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(len(name) for name in self.list_commands(ctx))
        for title, section in self.table.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), entry.help) for name, entry in section.items()])


def command(name: str, *, runs: bool = False, interspersed: bool = True) -> Callable[[Callable[..., Any]], Command]:
    """Decorator: a `Command`; without *interspersed* options end at the first argument."""
    return click.command(
        name,
        cls=Command,
        runs=runs,
        context_settings={"allow_interspersed_args": interspersed, "max_content_width": 100},
    )


def flag(*names: str, help: str = "", default: bool = False, hidden: bool = False) -> Decorator:
    """A switch: ``-i``, ``--interactive``, and ``--interactive=false``."""
    long = next(name for name in names if name.startswith("--"))
    shorts = [name for name in names if name != long]
    declared = [*shorts, f"{long}/--!{long[2:]}", long[2:].replace("-", "_")]
    return click.option(*declared, cls=Flag, default=default, help=help, hidden=hidden)


def text(
    *names: str, help: str = "", default: str | None = None, metavar: str = "string", hidden: bool = False
) -> Decorator:
    """An option with a value, None when absent."""
    return click.option(*names, type=str, default=default, help=help, metavar=metavar, hidden=hidden)


def number(*names: str, help: str = "", default: int | None = None) -> Decorator:
    """An option with a whole number."""
    return click.option(*names, type=int, default=default, help=help, metavar="int")


def many(*names: str, help: str = "", metavar: str = "list", hidden: bool = False) -> Decorator:
    """An option that can be given several times."""
    return click.option(*names, type=str, multiple=True, help=help, metavar=metavar, hidden=hidden)


def objects(name: str, *, required: bool = True) -> Decorator:
    """One or more names as arguments (*required*), or any number."""
    return click.argument(
        name, nargs=-1, required=required, metavar=f"{name.upper()}..." if required else f"[{name.upper()}...]"
    )
