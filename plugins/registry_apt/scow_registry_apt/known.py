"""What is known of some packages beyond their files: how they are started, and where they listen and log.

Anything that is not listed here starts a shell. An image of several packages takes the entry of its first one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Known:
    """One package: *command*, *ports* (``80/tcp``), *links* (path to target, made in the image), and so on as in an
    image config. *package* is its name at the mirror where images call it otherwise."""

    command: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    stop_signal: str = ""
    links: Mapping[str, str] = field(default_factory=dict)
    package: str = ""


_REDIS = Known(
    # Protected mode would refuse everybody but the container itself, as it does in no image of redis.
    ("redis-server", "--bind", "*", "--protected-mode", "no", "--daemonize", "no", "--dir", "/var/lib/redis"),
    ports=("6379/tcp",),
    user="redis",
    working_dir="/var/lib/redis",
    package="redis-server",
)

_APACHE = Known(
    ("apachectl", "-D", "FOREGROUND"),
    ports=("80/tcp",),
    stop_signal="SIGWINCH",
    links={
        "/var/log/apache2/access.log": "/dev/stdout",
        "/var/log/apache2/other_vhosts_access.log": "/dev/stdout",
        "/var/log/apache2/error.log": "/dev/stderr",
    },
    package="apache2",
)

_PYTHON = Known(("python3",), package="python3")

KNOWN: Mapping[str, Known] = {
    "apache2": _APACHE,
    "curl": Known(("curl", "--help")),
    "haproxy": Known(("haproxy", "-W", "-db", "-f", "/etc/haproxy/haproxy.cfg"), stop_signal="SIGUSR1"),
    "httpd": _APACHE,
    "memcached": Known(("memcached",), ports=("11211/tcp",), user="memcache"),
    "mosquitto": Known(("mosquitto", "-c", "/etc/mosquitto/mosquitto.conf"), ports=("1883/tcp",), user="mosquitto"),
    "nginx": Known(
        ("nginx", "-g", "daemon off;"),
        ports=("80/tcp",),
        stop_signal="SIGQUIT",
        links={"/var/log/nginx/access.log": "/dev/stdout", "/var/log/nginx/error.log": "/dev/stderr"},
    ),
    "nodejs": Known(("node",)),
    "perl": Known(("perl", "-de0")),
    "php-cli": Known(("php", "-a")),
    "python": _PYTHON,
    "python3": _PYTHON,
    "redis": _REDIS,
    "redis-server": _REDIS,
}
