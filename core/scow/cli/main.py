"""The entry point ``scow``: global options, the table of commands, and the last line of every error."""

from __future__ import annotations

import os
import sys

import click

from scow.cli.commands import TABLE
from scow.cli.failures import report
from scow.cli.grammar import LazyGroup
from scow.cli.session import Session
from scow.errors import ScowError

USAGE = 125
INTERRUPTED = 130


@click.group(
    "scow",
    cls=LazyGroup,
    table=TABLE,
    context_settings={"max_content_width": 100},
    invoke_without_command=True,
    help="A container engine for Linux: docker's grammar on a microkernel of plugins.",
)
@click.option("-H", "--host", metavar="string", help="Daemon to talk to: unix:///path or tcp://name:port.")
@click.option("-v", "--version", "show_version", is_flag=True, help="Print the version and exit.")
@click.pass_context
def root(ctx: click.Context, host: str | None, show_version: bool) -> None:
    ctx.obj = Session(host)
    ctx.call_on_close(ctx.obj.close)
    if show_version:
        from scow import __version__

        click.echo(f"Scow version {__version__}")
        ctx.exit(0)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


root.open_to_plugins = True


def main() -> int:
    """Run the command line; answers docker's exit code: 125 for usage, 1 or 125 for the engine, the container's own."""
    try:
        code = root.main(prog_name="scow", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "scow"
        report(ScowError(_lower(error.format_message()), hint=f"see '{path} --help'"))
        return USAGE
    except click.ClickException as error:
        report(ScowError(_lower(error.format_message())))
        return USAGE
    except ScowError as error:
        _flush()
        report(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _flush()
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away: not an error of ours
        _silence_stdout()
        return 1
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        report(ScowError(f"{(error.strerror or str(error)).lower()}{where}"))
        return 1
    return code if isinstance(code, int) else 0


def _lower(message: str) -> str:
    return (message[:1].lower() + message[1:]).rstrip(".").replace("\n", " ")


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()


def _silence_stdout() -> None:
    """Nothing is written when the interpreter flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
