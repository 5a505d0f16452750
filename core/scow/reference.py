"""Image references: ``[host[:port]/]repository[:tag][@digest]`` (the grammar of distribution/reference)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from scow.errors import InvalidArgument
from scow.oci import check_digest

DEFAULT_HOST = "docker.io"
DEFAULT_TAG = "latest"

_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_ID = re.compile(r"[0-9a-f]{64}")
NAME_LIMIT = 255


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository at a host, with a tag, a digest, both or neither."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str, *, default_tag: str = DEFAULT_TAG) -> Reference:
        """From what a user types: ``nginx`` is ``docker.io/library/nginx:latest``.

        With *default_tag* ``""`` none is added. Raises `InvalidArgument`, saying what is wrong.
        """
        rest, at, digest = text.partition("@")
        if at:
            check_digest(digest)
        tag = ""
        head, colon, tail = rest.rpartition(":")
        if colon and "/" not in tail:
            rest, tag = head, tail
            if not _TAG.fullmatch(tag):
                raise _invalid(text, f"tag {tag!r} is not of the form [A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}")
        host, slash, repository = rest.partition("/")
        if not slash or not ("." in host or ":" in host or host == "localhost" or host != host.lower()):
            host, repository = DEFAULT_HOST, rest
        if host == "index.docker.io":
            host = DEFAULT_HOST
        if not _HOST.fullmatch(host):
            raise _invalid(text, f"{host!r} is not a host name")
        if not repository:
            raise _invalid(text, "the repository is empty")
        if repository != repository.lower():
            raise _invalid(text, "repository name must be lowercase")
        if not all(_COMPONENT.fullmatch(part) for part in repository.split("/")):
            raise _invalid(text, f"{repository!r} is not a repository name")
        if _ID.fullmatch(repository):
            raise _invalid(text, "cannot specify 64-byte hexadecimal strings")
        if host == DEFAULT_HOST and "/" not in repository:
            repository = "library/" + repository
        if len(host) + 1 + len(repository) > NAME_LIMIT:
            raise _invalid(text, f"repository name must not be more than {NAME_LIMIT} characters")
        if not tag and not digest:
            tag = default_tag
        return cls(host, repository, tag, digest)

    @property
    def name(self) -> str:
        """Host and repository in full: ``docker.io/library/nginx``."""
        return f"{self.host}/{self.repository}"

    @property
    def familiar_name(self) -> str:
        """As users write it: ``nginx``."""
        if self.host != DEFAULT_HOST:
            return self.name
        return self.repository.removeprefix("library/")

    @property
    def familiar(self) -> str:
        """As users write it, with tag and digest: ``nginx:latest``."""
        return self.familiar_name + self._suffix()

    def with_tag(self, tag: str) -> Reference:
        """The same repository under *tag*, without a digest."""
        return replace(self, tag=tag, digest="")

    def with_digest(self, digest: str) -> Reference:
        """The same repository at *digest*, without a tag."""
        return replace(self, tag="", digest=check_digest(digest))

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self._suffix()


def split_search_term(term: str) -> tuple[str, str]:
    """Host and words of what ``docker search`` is given: ``registry.example.com/nginx`` looks there, ``nginx`` and
    ``library/nginx`` look at Docker Hub. Raises `InvalidArgument`."""
    if "://" in term:
        raise InvalidArgument(f"invalid repository name: repository name ({term}) should not have a scheme")
    first, slash, rest = term.strip().partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        host, words = first, rest
    else:
        host, words = DEFAULT_HOST, term.strip()
    if host in (DEFAULT_HOST, "index.docker.io"):
        host, words = DEFAULT_HOST, words.removeprefix("library/")
    if not _HOST.fullmatch(host):
        raise InvalidArgument(f"{host!r} is not a host name")
    if not words:
        raise InvalidArgument("a search needs a term")
    return host, words


def _invalid(text: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"invalid reference format: {text!r}: {why}")
