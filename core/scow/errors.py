"""Every error that Scow raises on purpose, by nature and not by subsystem.

::

    ScowError                     500  125
    ├── InvalidArgument           400  125
    ├── Unauthorized              401  125   a registry refused the credentials
    ├── Forbidden                 403  125   a policy refused the operation
    ├── NotFound                  404  125
    ├── NotModified               304    0   start of a running container, stop of a stopped one
    ├── Conflict                  409  125
    ├── Corrupt                   500  125   a digest or a stored file is not what it should be
    ├── Unsupported               501  125
    ├── Unavailable               503  125   the host, a registry or a driver cannot serve now
    ├── CannotRun                 400  126   the program is there but cannot be executed
    ├── CommandNotFound           400  127   the program is not in the image
    ├── SyscallError (OSError)    500  125
    └── PluginError               500  125
        ├── DriverNotFound        400
        ├── DriverConflict
        ├── DriverUnusable        503   the host lacks what the driver needs
        ├── DriverLoadError
        └── DriverContractError

Messages are lower case, without a period, and name the object and the value. The cure is the *hint*, shown on a line of
its own. ``http_status`` is what the API answers; ``exit_code`` is what the command line ends with (Docker's: 125
engine, 126 cannot run, 127 not found).
"""

from __future__ import annotations

import os


class ScowError(Exception):
    """Something that a user or a driver author can understand went wrong."""

    exit_code = 125
    http_status = 500

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class InvalidArgument(ScowError):
    """A value that the caller gave cannot be used; nothing was changed."""

    http_status = 400


class Unauthorized(ScowError):
    """A registry or the API refused the credentials, or there were none."""

    http_status = 401


class Forbidden(ScowError):
    """A policy refuses the operation."""

    http_status = 403


class NotFound(ScowError):
    """No such object."""

    http_status = 404


class NotModified(ScowError):
    """The object is already in the wanted state; not a failure for clients (HTTP 304)."""

    exit_code = 0
    http_status = 304


class Conflict(ScowError):
    """The object's state or another object stands in the way."""

    http_status = 409


class Corrupt(ScowError):
    """Stored or received bytes are not what their digest or format says."""


class Unsupported(ScowError):
    """Scow, this driver or this host does not offer what was asked."""

    http_status = 501


class Unavailable(ScowError):
    """What is needed cannot be reached or does not answer now."""

    http_status = 503


class CannotRun(ScowError):
    """The container's program exists but cannot be executed."""

    exit_code = 126
    http_status = 400


class CommandNotFound(ScowError):
    """The container's program does not exist in its root filesystem."""

    exit_code = 127
    http_status = 400


class SyscallError(ScowError, OSError):
    """A system call failed; *syscall* and *target* say which and on what, ``errno`` why."""

    def __init__(self, errno: int, syscall: str, target: str = "", *, hint: str | None = None) -> None:
        where = f" {target}" if target else ""
        message = f"{syscall}{where}: {os.strerror(errno).lower()}"
        OSError.__init__(self, errno, message)
        self.errno = errno
        self.message = message
        self.hint = hint
        self.syscall = syscall
        self.target = target

    def __str__(self) -> str:
        return self.message


class PluginError(ScowError):
    """A plugin is at fault or missing."""


class DriverNotFound(PluginError):
    """No driver of that kind has that name; the message lists those installed."""

    http_status = 400


class DriverConflict(PluginError):
    """Two distributions offer a driver of the same kind and name."""


class DriverUnusable(PluginError):
    """The driver works, but not on this host (``check()`` says what is missing)."""

    http_status = 503


class DriverLoadError(PluginError):
    """Importing or constructing the driver raised."""


class DriverContractError(PluginError):
    """The driver does not implement the protocol of its kind."""
