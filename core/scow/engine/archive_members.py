"""The files of an image archive (a tar), received as a stream into the content store's staging area.

Nothing is unpacked: names are keys of a dictionary, links are followed among them, and a name that would lie outside
of the archive is refused.
"""

from __future__ import annotations

import asyncio
import bz2
import errno
import json
import lzma
import posixpath
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from scow.compression import decompress
from scow.engine.manifests import LIMIT_BYTES
from scow.errors import Corrupt, InvalidArgument, ScowError, Unavailable
from scow.tar_reader import DIRECTORY, LINK, REGULAR, SYMLINK, TarReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scow.content import ContentStore, Staged

MEMBERS_LIMIT = 1 << 16
RATIO_LIMIT = 100  # an archive that inflates further than this is a bomb, once it is larger than one layer may be
_LINKS_LIMIT = 16
HEAD_BYTES = 6  # tell a compression
_READ_BYTES = 1 << 20


class Members:
    """An async context manager; what was staged and not published is gone at its end."""

    def __init__(self, content: ContentStore, limit_bytes: int) -> None:
        self._content, self._limit = content, limit_bytes
        self._files: dict[bytes, Staged] = {}
        self._links: dict[bytes, bytes] = {}
        self._by_digest: dict[str, Staged] = {}

    async def __aenter__(self) -> Members:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self._discard)

    def _discard(self) -> None:
        for staged in self._files.values():
            staged.discard()

    def receive(self, stream: BinaryIO) -> None:
        """Every file of the tar in *stream* (plain or compressed) is staged. Blocks.

        Raises `InvalidArgument` for what is no archive of images, `Corrupt` for a damaged or cut one, `Unavailable`
        for a full disk.
        """
        inflated = _Inflated(stream, self._limit)
        tar = TarReader(cast("BinaryIO", inflated))
        try:
            count = 0
            while (member := tar.next()) is not None:
                count += 1
                if count > MEMBERS_LIMIT:
                    raise InvalidArgument(f"the archive holds more than {MEMBERS_LIMIT} members")
                name = _clean(member.name, b"")
                if member.type == REGULAR:
                    if member.sparse is not None:
                        raise InvalidArgument(f"archive member {_shown(name)} is sparse")
                    if member.size_bytes > self._limit:
                        raise InvalidArgument(f"archive member {_shown(name)} is larger than {self._limit} bytes")
                    self._keep(name, self._content.stage(bytes(piece) for piece in tar.pieces()))
                elif member.type in (SYMLINK, LINK):
                    folder = posixpath.dirname(name) if member.type == SYMLINK else b""
                    self._forget(name)
                    self._links[name] = _clean(member.link, folder)
                elif member.type != DIRECTORY:
                    raise InvalidArgument(f"archive member {_shown(name)} is neither a file, a folder nor a link")
        except OSError as error:
            if isinstance(error, ScowError):
                raise
            why = "no space left on device" if error.errno == errno.ENOSPC else str(error)
            raise Unavailable(f"cannot store the archive: {why}") from error

    def _keep(self, name: bytes, staged: Staged) -> None:
        self._forget(name)
        self._links.pop(name, None)
        self._files[name] = staged

    def _forget(self, name: bytes) -> None:
        before = self._files.pop(name, None)
        if before is not None:
            before.discard()

    def find(self, name: str) -> Staged | None:
        """The file *name*, also where it is a link to it. Raises `InvalidArgument` for a name that climbs out."""
        key = _clean(name.encode(), b"")
        for _ in range(_LINKS_LIMIT):
            if key in self._files or key not in self._links:
                return self._files.get(key)
            key = self._links[key]
        raise InvalidArgument(f"archive member {name!r} is a link to itself")

    def file(self, name: str) -> Staged:
        """As `find`; raises `InvalidArgument` where there is no such file."""
        found = self.find(name)
        if found is None:
            raise InvalidArgument(f"the archive has no file {name!r}")
        return found

    def blob(self, digest: str) -> Staged | None:
        """The file with that digest, whatever it is called."""
        if not self._by_digest:
            self._by_digest = {staged.digest: staged for staged in self._files.values()}
        return self._by_digest.get(digest)

    def json(self, staged: Staged) -> Any:
        """What *staged* says. Raises `InvalidArgument` for what is too large or no JSON."""
        try:
            return json.loads(self.read(staged))
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"{staged.digest} in the archive is not JSON: {error}") from error

    def read(self, staged: Staged) -> bytes:
        """The bytes of a small file. Raises `InvalidArgument` for a large one."""
        if staged.size_bytes > LIMIT_BYTES:
            raise InvalidArgument(f"{staged.digest} in the archive is larger than {LIMIT_BYTES} bytes")
        return staged.path.read_bytes()

    def head(self, staged: Staged) -> bytes:
        """Its first bytes, which tell its compression."""
        with staged.path.open("rb") as file:
            return file.read(HEAD_BYTES)


class _Inflated:
    """*stream* inflated, if it is compressed, as long as that stays in reason."""

    def __init__(self, stream: BinaryIO, limit_bytes: int) -> None:
        self._source = _Counted(stream)
        self._plain = inflate(cast("BinaryIO", self._source))
        self._limit = limit_bytes
        self._total = 0

    def read(self, size: int = -1) -> bytes:
        data = self._plain.read(size)
        self._total += len(data)
        if self._total > self._limit and self._total > RATIO_LIMIT * self._source.total:
            raise InvalidArgument(f"the archive inflates to more than {RATIO_LIMIT} times its size")
        return data


class _Counted:
    """*stream*, and how much was read of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.total = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.total += len(data)
        return data

    def close(self) -> None:
        self._stream.close()


def inflate(stream: BinaryIO) -> BinaryIO:
    """The bytes of a whole archive as ``docker load`` takes it: plain, gzip, zstd, bzip2 or xz. Its ``read`` raises
    `Corrupt` for damaged ones."""
    return decompress(inflate_rare(stream))


def inflate_rare(stream: BinaryIO) -> BinaryIO:
    """*stream* inflated where it is bzip2 or xz, which no layer may be; anything else as it comes."""
    head = b""
    while len(head) < HEAD_BYTES and (part := stream.read(HEAD_BYTES - len(head))):
        head += part
    whole = cast("BinaryIO", _Rejoined(head, stream))
    if head.startswith(b"BZh"):
        return cast("BinaryIO", _Slow(bz2.BZ2Decompressor, whole, "bzip2"))
    if head.startswith(b"\xfd7zXZ\0"):
        return cast("BinaryIO", _Slow(lzma.LZMADecompressor, whole, "xz"))
    return whole


class _Rejoined:
    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head, self._stream = head, stream

    def read(self, size: int = -1) -> bytes:
        if self._head:
            data = self._head if size < 0 else self._head[:size]
            self._head = self._head[len(data) :]
            return data
        return self._stream.read(size)

    def close(self) -> None:
        self._stream.close()


class _Slow:
    """bzip2 and xz by the standard library: no layer has them, whole archives have. *make* is called for each of the
    streams that follow one another."""

    def __init__(self, make: Any, source: BinaryIO, kind: str) -> None:
        self._make, self._source, self._kind = make, source, kind
        self._decompressor = make()

    def read(self, size: int = -1) -> bytes:
        limit = size if size >= 0 else _READ_BYTES
        try:
            return self._read(limit)
        except (OSError, lzma.LZMAError, EOFError, ValueError) as error:
            if isinstance(error, ScowError):
                raise
            raise Corrupt(f"{self._kind} stream is damaged: {error}") from error

    def _read(self, limit: int) -> bytes:
        while True:
            data = b""
            if self._decompressor.eof:
                data = self._decompressor.unused_data or self._source.read(_READ_BYTES)
                if not data.strip(b"\0"):  # xz pads with zeros
                    return b""
                self._decompressor = self._make()
            elif self._decompressor.needs_input:
                data = self._source.read(_READ_BYTES)
                if not data:
                    raise Corrupt(f"{self._kind} stream is cut off")
            inflated = self._decompressor.decompress(data, max_length=limit)
            if inflated:
                return bytes(inflated)

    def close(self) -> None:
        self._source.close()


def chunks_of(stream: BinaryIO) -> Iterator[bytes]:
    """The rest of *stream*."""
    while data := stream.read(_READ_BYTES):
        yield data


def _clean(name: bytes, folder: bytes) -> bytes:
    """*name*, seen from *folder*, as a relative path without ``.`` and ``..``. Raises `InvalidArgument`."""
    path = posixpath.normpath(posixpath.join(folder, name))
    if path.startswith((b"/", b"../")) or path == b"..":
        raise InvalidArgument(f"archive member {_shown(name)} lies outside of the archive")
    return path


def _shown(name: bytes) -> str:
    return repr(name[:200].decode("utf-8", "replace"))
