"""The plugin: answers the hook `scow_registry_credentials` for Amazon's registries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scow.hookspecs import hookimpl
from scow_registry_ecr.places import Places
from scow_registry_ecr.tokens import Tokens

if TYPE_CHECKING:
    from scow.ports import DriverContext
    from scow.ports.registry import Credentials


class EcrCredentials:
    """Knows the credentials of ECR. botocore is imported when the first token is needed (0.3 s)."""

    def __init__(self, context: DriverContext) -> None:
        self._places = Places(context.options)
        self._tokens = Tokens()

    @hookimpl
    def scow_registry_credentials(self, host: str) -> Credentials | None:
        """A token of the AWS account that scowd runs with; None for hosts that are not Amazon's."""
        place = self._places.of(host)
        return None if place is None else self._tokens.get(place)
