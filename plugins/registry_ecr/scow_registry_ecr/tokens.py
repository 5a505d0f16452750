"""Authorization tokens of ECR: got by ``GetAuthorizationToken``, kept until they are about to expire."""

from __future__ import annotations

import base64
import binascii
import logging
import os
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument, ScowError, Unauthorized, Unavailable
from scow.ports.registry import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable

    from scow_registry_ecr.places import Place

log = logging.getLogger(__name__)

SPARE_S = 1800.0
"""A token is not used in its last half hour, nor in the last half of a shorter life: a long push has to end in it."""
ANONYMOUS_S = 300.0
"""How long the public registry is used without a token before it is tried again."""
_HINT = "give scowd's environment AWS credentials, an instance role, or a profile in options.plugin.ecr"


@dataclass(frozen=True, slots=True)
class _Kept:
    credentials: Credentials | None
    use_until_s: float


class Tokens:
    """The tokens of each place. Thread-safe; askers of one token wait for one request."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._kept: dict[tuple[object, ...], _Kept] = {}
        self._locks: defaultdict[tuple[object, ...], threading.Lock] = defaultdict(threading.Lock)

    def get(self, place: Place) -> Credentials | None:
        """The credentials for *place*; None where it is the public registry and nobody asks. A changed AWS config or
        credentials file counts at once. Raises `Unauthorized`, `Unavailable`, `InvalidArgument`."""
        key = (place, *_stamps())
        with self._locks[key]:
            kept = self._kept.get(key)
            if kept is None or kept.use_until_s <= self._clock():
                kept = self._kept[key] = self._ask(place)
            return kept.credentials

    def _ask(self, place: Place) -> _Kept:
        try:
            token, expires_s = _authorization_token(place)
        except ScowError as error:
            if not place.public:
                raise
            log.warning("the public registry of ecr is used without an account: %s", error)
            return _Kept(None, self._clock() + ANONYMOUS_S)
        now = self._clock()
        return _Kept(_credentials(token), expires_s - min(SPARE_S, max(0.0, expires_s - now) / 2))


def _authorization_token(place: Place) -> tuple[str, float]:
    """The token for *place*, and when it expires (Unix time). Raises as `Tokens.get`."""
    from botocore import exceptions

    try:
        client = _client(place)
        if place.public:
            data = client.get_authorization_token()["authorizationData"]
        else:
            data = client.get_authorization_token()["authorizationData"][0]
        return str(data["authorizationToken"]), data["expiresAt"].timestamp()
    except exceptions.ClientError as error:
        raise _refused(error) from None
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
        raise Unauthorized(f"no credentials for aws: {error}".rstrip("."), hint=_HINT) from None
    except exceptions.NoRegionError:
        raise InvalidArgument(
            "no aws region for this registry", hint="set region for its host in options.plugin.ecr.hosts"
        ) from None
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        raise Unavailable(f"cannot reach aws: {error}") from None
    except exceptions.BotoCoreError as error:  # a profile that is not there, a token of SSO that ended, …
        raise Unauthorized(f"no credentials for aws: {error}".rstrip("."), hint=_HINT) from None


def _client(place: Place) -> Any:
    from botocore.config import Config
    from botocore.session import Session

    logging.getLogger("botocore").setLevel(logging.INFO)  # below, it logs tokens and signed requests whole
    config = Config(
        connect_timeout=3,
        read_timeout=5,
        retries={"mode": "standard", "total_max_attempts": 2},  # a hook is to answer within 30 s
        use_fips_endpoint=place.fips or None,
        use_dualstack_endpoint=place.dual_stack or None,
    )
    session = Session(profile=place.profile or None)
    keys = _of_role(session, place, config) if place.role_arn else {}
    service = "ecr-public" if place.public else "ecr"
    return session.create_client(service, region_name=place.region or None, config=config, **keys)


def _of_role(session: Any, place: Place, config: Any) -> dict[str, str]:
    sts = session.create_client("sts", region_name=place.region or None, config=config)
    more = {"ExternalId": place.external_id} if place.external_id else {}
    given = sts.assume_role(RoleArn=place.role_arn, RoleSessionName="scow", **more)["Credentials"]
    return {
        "aws_access_key_id": given["AccessKeyId"],
        "aws_secret_access_key": given["SecretAccessKey"],
        "aws_session_token": given["SessionToken"],
    }


def _refused(error: Any) -> ScowError:
    """What a ``ClientError`` is: AWS's code, and its words, which name principals and actions but hold no secret."""
    said, status = error.response.get("Error", {}), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(said.get("Code") or "an unknown error")
    message = f"aws refused {error.operation_name}: {code}: {said.get('Message') or 'no reason given'}".rstrip(".")
    if status >= 500 or "Throttl" in code or code == "TooManyRequestsException":
        return Unavailable(message)
    return Unauthorized(message, hint=_HINT)


def _credentials(token: str) -> Credentials:
    try:
        user, colon, password = base64.b64decode(token, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        colon = ""
    if not colon:
        raise Unavailable("aws answered a malformed authorization token")
    return Credentials(user, password)


def _stamps() -> list[object]:
    """What changes when somebody edits the AWS config or credentials file, or another profile is chosen."""
    stamps: list[object] = [os.environ.get("AWS_PROFILE"), os.environ.get("AWS_ACCESS_KEY_ID")]
    for variable, default in (
        ("AWS_CONFIG_FILE", "~/.aws/config"),
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    ):
        try:
            stamps.append(os.stat(os.path.expanduser(os.environ.get(variable) or default)).st_mtime_ns)
        except OSError:
            stamps.append(None)
    return stamps
