"""Credentials that docker's command line has stored: ``auths`` of ``~/.docker/config.json`` (or ``DOCKER_CONFIG``)."""

from __future__ import annotations

import base64
import json
import os

from scow.errors import InvalidArgument

HUB = "https://index.docker.io/v1/"


def registry_auth(host: str) -> str:
    """The value of ``X-Registry-Auth`` for *host*, ``""`` without credentials.

    Credential helpers are programs that are run because they are on the path: the engine's plugins are asked instead.
    """
    path = os.path.join(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"), "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            auths = json.load(file).get("auths") or {}
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, AttributeError) as error:
        raise InvalidArgument(f"cannot read credentials from {path}: {error}") from error
    names = (
        [HUB, "docker.io", "index.docker.io"] if host == "docker.io" else [host, f"https://{host}", f"http://{host}"]
    )
    entry = next((auths[name] for name in names if auths.get(name)), None)
    if entry is None:
        return ""
    credentials = {"serveraddress": names[0]}
    if entry.get("identitytoken"):
        credentials["identitytoken"] = entry["identitytoken"]
    elif entry.get("auth"):
        user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
        credentials |= {"username": user, "password": password.rstrip("\0")}
    else:
        return ""
    return base64.urlsafe_b64encode(json.dumps(credentials).encode()).decode()
