"""The credentials that a request to the engine carries along."""

from __future__ import annotations


def auth_headers(host: str) -> dict[str, str]:
    """``X-Registry-Auth`` with what is stored for registry *host*; empty where nothing is. Raises `InvalidArgument`,
    `Unavailable`."""
    from scow.cli.docker_config import DockerConfig, address_of  # for what asks a registry only

    auth = DockerConfig.load().get(address_of(host))
    return {"X-Registry-Auth": auth.header()} if auth else {}
