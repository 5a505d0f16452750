"""Which hosts are Amazon's, and whose token they want."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

PUBLIC_HOSTS = frozenset({"public.ecr.aws", "ecr-public.aws.com"})
PUBLIC_REGION = "us-east-1"  # the only one where tokens of the public registry are given out
_PRIVATE = re.compile(
    r"\d{12}\.dkr(?P<dual>[.-])ecr(?P<fips>-fips)?\.(?P<region>[a-z0-9-]+)\."
    r"(amazonaws\.com|amazonaws\.com\.cn|amazonaws\.eu|on\.aws|on\.amazonwebservices\.com\.cn"
    r"|c2s\.ic\.gov|sc2s\.sgov\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)"
)
_KEYS = frozenset({"region", "profile", "role_arn", "external_id"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where the token for a host is got, and as whom. Hosts with the same place share a token: it opens every
    repository of the region that its owner may use, those of other accounts too.

    *region* ``""``: that of the AWS config; *profile* ``""``: the chosen one; *role_arn*: a role to take on first.
    """

    region: str = ""
    public: bool = False
    fips: bool = False
    dual_stack: bool = False
    profile: str = ""
    role_arn: str = ""
    external_id: str = ""


class Places:
    """The places of hosts: by their names, and by what the option ``hosts`` says. Raises `InvalidArgument`."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        unknown = sorted(set(options) - {"hosts"})
        if unknown:
            raise InvalidArgument(f"unknown option {unknown[0]!r} of plugin.ecr; valid: hosts")
        hosts = options.get("hosts") or {}
        if not isinstance(hosts, dict):
            raise InvalidArgument("hosts of plugin.ecr: expected a mapping of registry hosts")
        self._configured = {str(host): _configured(str(host), settings or {}) for host, settings in hosts.items()}

    def of(self, host: str) -> Place | None:
        """Whose token *host* wants; None where it is not Amazon's."""
        configured = self._configured.get(host)
        if host in PUBLIC_HOSTS:
            return replace(configured or Place(), region=PUBLIC_REGION, public=True)
        found = _PRIVATE.fullmatch(host)
        if found is None:
            return configured
        place = configured or Place()
        return replace(
            place,
            region=place.region or found["region"],
            fips=bool(found["fips"]),
            dual_stack=found["dual"] == "-",
        )


def _configured(host: str, settings: Any) -> Place:
    if not isinstance(settings, dict) or not all(isinstance(value, str) for value in settings.values()):
        raise InvalidArgument(f"hosts.{host} of plugin.ecr: expected a mapping of text")
    unknown = sorted(set(settings) - _KEYS)
    if unknown:
        valid = ", ".join(sorted(_KEYS))
        raise InvalidArgument(f"unknown key 'hosts.{host}.{unknown[0]}' of plugin.ecr; valid: {valid}")
    return Place(**settings)
