"""Whom a connection believes and who it says it is: authorities and client certificates, from the config and from a
folder laid out as Docker's ``/etc/docker/certs.d``."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, replace
from pathlib import Path

from scow.errors import InvalidArgument

_HOST = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(?::\d+)?")


@dataclass(frozen=True, slots=True)
class File:
    """A file as it was last written: one that is replaced is another."""

    path: str
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> File:
        """*path* as it is now; one that is missing fails when it is read."""
        try:
            return cls(str(path), path.stat().st_mtime_ns)
        except OSError:
            return cls(str(path), 0)


@dataclass(frozen=True, slots=True)
class Trust:
    """What a TLS connection is made with.

    *authorities* are believed beside those of the system, or alone where *system* is false; each of *pairs* is a
    certificate and its key, shown to a server that asks. Without *verify* every certificate is good.
    """

    verify: bool = True
    system: bool = True
    authorities: tuple[File, ...] = ()
    pairs: tuple[tuple[File, File], ...] = ()

    def also(self, other: Trust) -> Trust:
        """This one, which believes *other*'s authorities too; it shows none of its certificates."""
        more = tuple(file for file in other.authorities if file not in self.authorities)
        return replace(self, authorities=self.authorities + more)

    def context(self) -> ssl.SSLContext:
        """A context for connections. Raises `InvalidArgument` naming the file that cannot be read."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.system:
            _load_system(context)
        for file in self.authorities:
            path = Path(file.path)
            with _naming(path, "no certificate authority can be read from"):
                context.load_verify_locations(
                    cafile=None if path.is_dir() else file.path, capath=file.path if path.is_dir() else None
                )
        for certificate, key in self.pairs:
            with _naming(Path(certificate.path), f"not the certificate of the key {key.path}:"):
                context.load_cert_chain(certificate.path, key.path, password=_no_password)
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


def read_certs_dir(folder: Path | None, host: str) -> Trust:
    """What *folder* has for *host*, by Docker's rules: below ``host[:port]`` every ``*.crt`` is an authority, every
    ``*.cert`` with the ``*.key`` of that name is ours. Read anew at each call. Raises `InvalidArgument` for half a
    pair."""
    if folder is None or not _HOST.fullmatch(host) or ".." in host:
        return Trust()
    try:
        found = sorted((folder / host).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return Trust()
    except OSError as error:
        raise InvalidArgument(f"cannot read {folder / host}: {(error.strerror or 'error').lower()}") from error
    names = {path.name for path in found}
    pairs = []
    for path in found:
        other = path.with_suffix({".cert": ".key", ".key": ".cert"}.get(path.suffix, path.suffix))
        if other.name not in names:
            raise InvalidArgument(
                f"{path} has no {other.name} beside it", hint="authorities have names that end in .crt"
            )
        if path.suffix == ".cert":
            pairs.append((File.of(path), File.of(other)))
    authorities = tuple(File.of(path) for path in found if path.suffix == ".crt")
    return Trust(authorities=authorities, pairs=tuple(pairs))


class _naming:
    """An error of the block becomes one that names *path*, and quotes nothing of the file."""

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._what = path, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            reason = error.strerror if error.errno and not isinstance(error, ssl.SSLError) else "no such PEM"
            raise InvalidArgument(f"{self._what} {self._path}: {(reason or 'error').lower()}") from None


def _no_password() -> str:
    # OpenSSL would ask on the terminal.
    return ""


def _load_system(context: ssl.SSLContext) -> None:
    # The host's own authorities rather than certifi's copy: what an administrator added holds here too.
    paths = ssl.get_default_verify_paths()
    folder = Path(paths.capath) if paths.capath else None
    if paths.cafile or (folder is not None and any(folder.glob("*.0"))):
        context.load_default_certs()
        return
    import certifi  # requests brings it

    context.load_verify_locations(certifi.where())
