"""A blob as a stream that outlives its connection: what breaks off goes on where it stopped."""

from __future__ import annotations

import io
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

import urllib3.exceptions

from scow.errors import ScowError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests

FAILURES = 4
"""How many times in a row a stream may break off."""
_PROGRESS_BYTES = 1 << 20  # after so many bytes it is another row
_BLOCK = 1 << 18


@dataclass(frozen=True, slots=True)
class Range:
    """The bytes from *offset* to before *end*; *partly* where that is not the end of the blob."""

    offset: int
    end: int
    partly: bool

    @property
    def header(self) -> str:
        """What ``Range`` asks (RFC 9110 section 14.2); ``""`` for the whole blob."""
        if self.partly:
            return f"bytes={self.offset}-{self.end - 1}"
        return f"bytes={self.offset}-" if self.offset else ""

    def check(self, content_range: str, what: str) -> None:
        """Raises `Unavailable` where *content_range* begins elsewhere."""
        if not content_range.startswith(f"bytes {self.offset}-"):
            raise Unavailable(f"another range of {what} came than was asked for")


class BlobStream(io.RawIOBase):
    """The bytes of a blob from *offset_bytes* to before *end_bytes*, never more than that; *open_at* asks for the rest
    from an offset, *back_off* waits before another attempt. Raises `Unavailable` where too many connections in a row
    break off."""

    def __init__(
        self,
        open_at: Callable[[int], requests.Response],
        end_bytes: int,
        offset_bytes: int,
        back_off: Callable[[int], None],
        what: str,
    ) -> None:
        super().__init__()
        self._open_at, self._back_off, self._what = open_at, back_off, what
        self._end, self._at = end_bytes, offset_bytes
        self._failures, self._failed_at = 0, offset_bytes
        self._response: requests.Response | None = open_at(offset_bytes) if offset_bytes < end_bytes else None

    @property
    def ended(self) -> bool:
        """Whether all of it was read."""
        return self._at >= self._end

    def readable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int = -1) -> bytes:
        """At most *size* bytes, what has arrived by now; ``b""`` only at the end. The rest where *size* is negative."""
        if size < 0:
            return self.readall()
        while self._at < self._end and size:
            data = self._read_some(min(size, self._end - self._at))
            if data:
                self._at += len(data)
                return data
        return b""

    def readinto(self, buffer: Any) -> int:
        """As `io.RawIOBase.readinto`."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """The connection is free for others, or closed where the blob was not read to its end."""
        if self._response is not None:
            self._response.close()
            self._response = None
        super().close()

    def _read_some(self, size: int) -> bytes:
        if self._response is None:
            self._response = self._open_at(self._at)
        reason: object = "it ended early"
        try:
            # read would wait for all of *size*, and lose what had arrived when the connection breaks
            data: bytes = self._response.raw.read1(size, decode_content=False)
            if data:
                return data
        except (urllib3.exceptions.HTTPError, HTTPException, OSError) as error:
            if isinstance(error, ScowError):
                raise
            reason = type(error).__name__
        self._response.close()
        self._response = None
        if self._at - self._failed_at >= _PROGRESS_BYTES:
            self._failures = 0
        self._failures, self._failed_at = self._failures + 1, self._at
        if self._failures >= FAILURES:
            raise Unavailable(f"the download of {self._what} broke off at byte {self._at} of {self._end}: {reason}")
        self._back_off(self._failures)
        return b""


def skip(response: requests.Response, count: int) -> None:
    """Reads *count* bytes away: a server that ignores ``Range`` begins at the start."""
    while count > 0:
        data = response.raw.read(min(count, _BLOCK), decode_content=False)
        if not data:
            return
        count -= len(data)
