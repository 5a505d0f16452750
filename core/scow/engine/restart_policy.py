"""Restart policies: whether a container that ended is started again, and after how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from scow.engine.model import ContainerState
    from scow.types import HostConfig, RestartPolicy

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 60.0
STABLE_AFTER_S = 10.0  # a run as long as this starts the delays anew

_NAMES = ("", "no", "always", "unless-stopped", "on-failure")


def check_policy(host: HostConfig) -> None:
    """Raises `InvalidArgument` in Docker's words for a policy that cannot be."""
    policy = host.restart_policy
    if policy.name not in _NAMES:
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{policy.name}'; use one of 'no', 'always', "
            "'on-failure', or 'unless-stopped'"
        )
    if policy.maximum_retry_count < 0:
        raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")
    if policy.maximum_retry_count and policy.name != "on-failure":
        raise InvalidArgument("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if host.auto_remove and policy.name not in ("", "no"):
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")


def wants_restart(policy: RestartPolicy, state: ContainerState) -> bool:
    """Whether a run that ended in *state* is followed by another."""
    if state.stopped_by_user:
        return False
    if policy.name in ("always", "unless-stopped"):
        return True
    if policy.name == "on-failure" and state.exit_code != 0:
        return policy.maximum_retry_count == 0 or state.restart_count < policy.maximum_retry_count
    return False


def wants_boot(policy: RestartPolicy, state: ContainerState) -> bool:
    """Whether a container that is not running when the daemon starts is started."""
    if policy.name == "always":
        return state.status != "created"
    if policy.name == "unless-stopped":
        return state.status != "created" and not state.stopped_by_user
    return False


def delay_s(failures: int) -> float:
    """How long to wait before the start that follows the *failures*-th quick end (from 1)."""
    return min(FIRST_DELAY_S * 2.0 ** (failures - 1), LONGEST_DELAY_S)
