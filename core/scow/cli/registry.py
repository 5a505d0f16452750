"""``scow login``, ``logout`` and ``search``."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import click

from scow.cli import format as fmt
from scow.cli.auth import auth_headers
from scow.cli.client import Client
from scow.cli.docker_config import HUB, Auth, DockerConfig, address_of, hostname
from scow.cli.grammar import command, flag, many, number, text
from scow.cli.session import Session, note, write
from scow.errors import InvalidArgument, ScowError, Unauthorized
from scow.reference import split_search_term

COLUMNS = {
    "Name": "NAME",
    "Description": "DESCRIPTION",
    "StarCount": "STARS",
    "IsOfficial": "OFFICIAL",
    "IsAutomated": "AUTOMATED",
}
DESCRIPTION_WIDTH = 45
PLAIN = """\
WARNING! Your credentials are stored unencrypted in '{}'.
Configure a credential helper to remove this warning. See
https://docs.docker.com/go/credential-store/
"""


@command("login")
@text("-p", "--password", help="Password or Personal Access Token (PAT)")
@flag("--password-stdin", help="Take the Password or Personal Access Token (PAT) from stdin")
@text("-u", "--username", help="Username")
@click.argument("server", metavar="[SERVER]", required=False)
@click.pass_obj
def login(
    context: Session, /, server: str | None, username: str | None, password: str | None, password_stdin: bool
) -> None:
    """Log in to a registry, Docker Hub where none is named. The credentials are stored where docker stores its own."""
    password = _given_password(username, password, password_stdin)
    address, config = address_of(hostname(server or "")), DockerConfig.load()
    stored = config.get(address)
    if not username and not password and stored and (stored.password or stored.identity_token):
        told = _with_stored(context.client, stored)
        if told is not None:
            write(told)
            return
    auth = Auth(address, *_asked_for(username or "", password or "", stored.username))
    status, identity_token = _try(context.client, auth)
    if identity_token:
        auth = replace(auth, password="", identity_token=identity_token)
    if config.store(auth):
        note("\n" + PLAIN.format(config.path))
    write(status)


def _given_password(username: str | None, password: str | None, from_stdin: bool) -> str | None:
    if password:
        note("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
    if not from_stdin:
        return password
    if password:
        raise InvalidArgument("--password and --password-stdin are mutually exclusive")
    if not username:
        raise InvalidArgument("must provide --username with --password-stdin")
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:  # not chained: the error holds the password
        raise InvalidArgument("the password on standard input is not utf-8") from None


def _with_stored(client: Client, stored: Auth) -> str | None:
    """What the registry says to the stored credentials; None where it refuses them."""
    note("Authenticating with existing credentials..." + (f" [Username: {stored.username}]" if stored.username else ""))
    try:
        return _try(client, stored)[0]
    except Unauthorized:
        note("Stored credentials invalid or expired")
    except ScowError as error:
        note(f"Login did not succeed, error: {error}")
    return None


def _try(client: Client, auth: Auth) -> tuple[str, str]:
    """Docker's words and an identity token, ``""`` where the registry gives none. Raises `Unauthorized`."""
    told: dict[str, Any] = client.post("/auth", body=auth.body())
    return str(told.get("Status") or ""), str(told.get("IdentityToken") or "")


def _asked_for(username: str, password: str, default: str) -> tuple[str, str]:
    """User and password, asked for at the terminal where they were not given."""
    if not (username and password) and not sys.stdin.isatty():
        raise InvalidArgument("cannot perform an interactive login from a non TTY device", hint="use --password-stdin")
    try:
        if not username:
            username = input(f"Username ({default}): " if default else "Username: ").strip() or default
        if not username:
            raise InvalidArgument("username required")
        if not password:
            from getpass import getpass

            password = getpass("Password: ")
    except EOFError:
        raise click.Abort from None
    if not password:
        raise InvalidArgument("password required")
    return username, password


@command("logout")
@click.argument("server", metavar="[SERVER]", required=False)
@click.pass_obj
def logout(context: Session, /, server: str | None) -> None:
    """Log out from a registry, Docker Hub where none is named: its stored credentials are removed."""
    host = hostname(server or "")
    address, config = address_of(host), DockerConfig.load()
    write(f"Removing login credentials for {address}")
    names = [HUB] if address == HUB else dict.fromkeys([server or host, host, f"http://{host}", f"https://{host}"])
    failed: dict[str, str] = {}
    for name in names:
        try:
            config.erase(name)
        except ScowError as error:
            failed[name] = str(error)
    if len(failed) == len(names):
        note("WARNING: could not erase credentials:")
        for name, reason in failed.items():
            note(f"{name}: {reason}")


@command("search")
@many("-f", "--filter", help="Filter output based on conditions provided", metavar="filter")
@text("--format", help="Pretty-print search using a Go template")
@number("--limit", help="Max number of search results")
@flag("--no-trunc", help="Don't truncate output")
@click.argument("term")
@click.pass_obj
def search(
    context: Session, /, term: str, filter: tuple[str, ...], format: str | None, limit: int | None, no_trunc: bool
) -> None:
    """Search Docker Hub for images, or the registry that the term begins with."""
    host, _ = split_search_term(term)
    query = {"term": term, "limit": limit, "filters": fmt.filters(filter)}
    found = context.client.open("GET", "/images/search", query, headers=auth_headers(host)).json()
    rows = [_search_row(result, trunc=not no_trunc) for result in found]
    fmt.emit(fmt.show(rows, COLUMNS, default="Name Description StarCount IsOfficial", template=format))


def _search_row(result: dict[str, Any], *, trunc: bool) -> dict[str, Any]:
    description = " ".join(str(result.get("description") or "").splitlines())
    return {
        "Name": result["name"],
        "Description": fmt.ellipsis(description, DESCRIPTION_WIDTH) if trunc else description,
        "StarCount": str(result.get("star_count") or 0),
        "IsOfficial": "[OK]" if result.get("is_official") else "",
        "IsAutomated": "[OK]" if result.get("is_automated") else "",
    }
