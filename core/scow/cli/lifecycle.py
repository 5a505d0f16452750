"""Commands that do one thing to each of several containers: stop, restart, kill, pause, unpause, rename, rm, wait."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click

from scow.cli.client import path_of
from scow.cli.failures import report
from scow.cli.grammar import command, flag, number, objects, text
from scow.cli.session import Session, write
from scow.errors import ScowError, Unavailable


def _name(name: str, _: object) -> str:
    return name


def each(names: Iterable[str], act: Callable[[str], object], *, show: Callable[[str, Any], str] = _name) -> int:
    """*act* on every name; prints *show* of each success, reports each failure; the exit code is 1 after a failure."""
    failed = 0
    for name in names:
        try:
            write(show(name, act(name)))
        except Unavailable:
            raise
        except ScowError as error:
            report(error)
            failed = 1
    return failed


def _path(name: str, verb: str = "") -> str:
    return f"/containers/{path_of(name)}" + (f"/{verb}" if verb else "")


@command("stop")
@text("-s", "--signal", help="Signal to send to the container")
@number("-t", "--timeout", help="Seconds to wait before killing the container")
@number("--time", help="Deprecated: use --timeout")
@objects("container")
@click.pass_obj
def stop(
    context: Session, /, container: tuple[str, ...], signal: str | None, timeout: int | None, time: int | None
) -> int:
    """Stop one or more running containers."""
    seconds = time if timeout is None else timeout
    return each(container, lambda name: context.client.post(_path(name, "stop"), signal=signal, t=seconds))


@command("restart")
@text("-s", "--signal", help="Signal to send to the container")
@number("-t", "--timeout", help="Seconds to wait before killing the container")
@number("--time", help="Deprecated: use --timeout")
@objects("container")
@click.pass_obj
def restart(
    context: Session, /, container: tuple[str, ...], signal: str | None, timeout: int | None, time: int | None
) -> int:
    """Restart one or more containers."""
    seconds = time if timeout is None else timeout
    return each(container, lambda name: context.client.post(_path(name, "restart"), signal=signal, t=seconds))


@command("kill")
@text("-s", "--signal", help="Signal to send to the container", default="KILL")
@objects("container")
@click.pass_obj
def kill(context: Session, /, container: tuple[str, ...], signal: str) -> int:
    """Kill one or more running containers."""
    return each(container, lambda name: context.client.post(_path(name, "kill"), signal=signal))


@command("pause")
@objects("container")
@click.pass_obj
def pause(context: Session, /, container: tuple[str, ...]) -> int:
    """Pause all processes within one or more containers."""
    return each(container, lambda name: context.client.post(_path(name, "pause")))


@command("unpause")
@objects("container")
@click.pass_obj
def unpause(context: Session, /, container: tuple[str, ...]) -> int:
    """Unpause all processes within one or more containers."""
    return each(container, lambda name: context.client.post(_path(name, "unpause")))


@command("rename")
@click.argument("container")
@click.argument("new_name")
@click.pass_obj
def rename(context: Session, /, container: str, new_name: str) -> None:
    """Rename a container."""
    context.client.post(_path(container, "rename"), name=new_name)


@command("rm")
@flag("-f", "--force", help="Force the removal of a running container (uses SIGKILL)")
@flag("-l", "--link", help="Remove the specified link")
@flag("-v", "--volumes", help="Remove anonymous volumes associated with the container")
@objects("container")
@click.pass_obj
def rm(context: Session, /, container: tuple[str, ...], force: bool, link: bool, volumes: bool) -> int:
    """Remove one or more containers."""
    return each(container, lambda name: context.client.delete(_path(name), force=force, link=link, v=volumes))


@command("wait")
@objects("container")
@click.pass_obj
def wait(context: Session, /, container: tuple[str, ...]) -> int:
    """Block until one or more containers stop, then print their exit codes."""
    return each(
        container,
        lambda name: context.client.post(_path(name, "wait"), condition="not-running"),
        show=lambda _, answer: str((answer or {}).get("StatusCode", "")),
    )
