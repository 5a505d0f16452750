"""``scow help``."""

from __future__ import annotations

import click

from scow.cli.grammar import command, flag


@command("help")
@flag("--all", help="Also list the commands that plugins bring")
@click.argument("words", metavar="[COMMAND]...", nargs=-1)
@click.pass_context
def help_(ctx: click.Context, /, all: bool, words: tuple[str, ...]) -> None:
    """Show the help of Scow or of a command."""
    assert ctx.parent is not None
    target: click.Command = ctx.parent.command
    context = ctx.parent
    for word in words:
        found = target.get_command(context, word) if isinstance(target, click.Group) else None
        if found is None:
            raise click.UsageError(f"{' '.join(words)!r} is not a {context.command_path} command", ctx.parent)
        context = click.Context(found, info_name=word, parent=context)
        target = found
    click.echo(target.get_help(context))
    if all:
        from scow.cli.plugin_commands import installed

        click.echo("\nCommands of plugins:")
        for entry in installed():
            click.echo(f"  {entry.name:<10} {entry.dist.name if entry.dist else entry.value}")
