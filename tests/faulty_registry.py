"""A registry of our own over HTTP, in this process and on loopback, that misbehaves as it is told to.

::

    with serving() as registry:
        registry.add("library/app", "1", make_image({"etc/motd": "hello"}))
        registry.faults = [Fault("/blobs/", cut=1000)]       # the first blob breaks off after 1000 bytes
        registry.host                                         # "127.0.0.1:40321"

What the issue names, and how it is asked for (`match` is a part of the request's line, ``GET /v2/a/blobs/sha256:…``):

==================================  ====================================================================
hangs without an answer             ``Fault(match, hang=True)``
hangs in the middle of a blob       ``Fault(match, cut=1000, hang=True)``; `Registry.release` lets go
drops the connection mid-blob       ``Fault(match, cut=1000)``, with a TCP reset ``reset=True``
answers 401 for ever                ``registry.auth = "never"``
429, 5xx                            ``Fault(match, 429, {"Retry-After": "1"})``
lies in Content-Length              ``Fault(match, length=-10)``: so many less (more) than come
wrong digest, the same size         ``Fault(match, change=spoilt)``
wrong size, truncated but complete  ``Fault(match, change=lambda data: data[:-1])``
another digest the second time      ``registry.replace(repository, tag, image, after=1)``
a 100 MB manifest                   ``registry.add_manifest(repository, tag, OCI_MANIFEST, b" " * 100_000_000)``
an index that refers to itself      ``registry.add_manifest(repository, tag, OCI_INDEX, index, digest)``: served under
                                    that digest, whatever it has; `loop_index` makes one
drops an upload mid-blob            ``Fault("PATCH ", take=1000)``
==================================  ====================================================================
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import ssl
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from scow.oci import OCI_INDEX, OCI_MANIFEST, digest_of

if TYPE_CHECKING:
    from scow.testing.fakes_registry import SmallImage

NOBODY = "sha256:" + "ab" * 32
"""A digest of nothing."""


@dataclass
class Fault:
    """What the next *times* requests whose line contains *match* get, after *after* others were let by.

    With *status*, that answer with *headers* and *body*; else the true answer, but: *change* makes the body another;
    *length* is added to what ``Content-Length`` says; after *cut* bytes of the body the connection is closed (with
    *reset*: by a TCP reset), or with *hang* stays open and silent. *hang* without *cut*: there is no answer at all.
    *take*: the connection is closed after so many bytes of the request's body. *stall_s*: so long nothing of that body
    is read.
    """

    match: str
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    times: int = 1
    after: int = 0
    hang: bool = False
    reset: bool = False
    length: int = 0
    change: Callable[[bytes], bytes] | None = None
    take: int | None = None
    stall_s: float = 0.0


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def line(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Token:
    """What a bearer token is good for, and until when (`time.monotonic`)."""

    scopes: set[str]
    until: float = float("inf")


Entry = tuple[str, bytes]  # media type, manifest


class Registry:
    """What the server holds and how it behaves.

    *auth* is ``""``, ``basic``, ``bearer`` (its token server is ``/token``) or ``never`` (tokens are given and
    refused); *users* maps names to passwords. *elsewhere* (``host:port``) is where blobs are redirected to; *ranges*
    says whether ``Range`` is heeded, *rate_bytes_s* how fast each blob is sent, *keeps_partial* whether an upload that
    breaks off keeps what came. *sent* counts the bytes of each blob that left; *most_at_once* is the largest number of
    blobs that were being sent at one time.
    """

    def __init__(self) -> None:
        self.host = ""
        self.scheme = "http"
        self.auth = ""
        self.users: dict[str, str] = {}
        self.refresh_token = ""
        self.expires_in: float = 300
        self.elsewhere, self.elsewhere_scheme = "", "http"
        self.prefix = ""  # what comes before /v2/
        self.ranges = True
        self.mounts = True
        self.page = 1000
        self.least_chunk = 0  # of an upload: OCI-Chunk-Min-Length
        self.before_answer: Callable[[str], None] = lambda line: None
        self.rate_bytes_s: float | None = None
        self.keeps_partial = True
        self.found: list[dict[str, Any]] | None = None  # what every search finds
        self.manifests: dict[tuple[str, str], Entry] = {}
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.uploads: dict[str, bytearray] = {}
        self.sessions = itertools.count()
        self.digest_header: str | None = None
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.tokens: dict[str, Token] = {}
        self.sent: defaultdict[str, int] = defaultdict(int)
        self.connections = 0
        self.sending = 0
        self.most_at_once = 0
        self.released = threading.Event()
        self.lock = threading.Lock()
        self._later: dict[tuple[str, str], tuple[int, Entry]] = {}

    def add(self, repository: str, tag: str, image: SmallImage) -> None:
        """*repository* has *image* under *tag* and under its digest."""
        self.add_manifest(repository, tag, image.manifest.descriptor.media_type, image.manifest.data)
        for digest, blob in image.blobs.items():
            self.blobs[repository, digest] = blob

    def add_manifest(self, repository: str, tag: str, media_type: str, data: bytes, digest: str = "") -> None:
        """*repository* has the manifest *data* under *tag*, and under *digest* where that is not its own."""
        self.manifests[repository, tag] = self.manifests[repository, digest or digest_of(data)] = (media_type, data)

    def replace(self, repository: str, tag: str, image: SmallImage, after: int = 1) -> None:
        """*tag* is *image* once it was asked for *after* times."""
        before = self.manifests.get((repository, tag))
        self.add(repository, tag, image)
        if before is not None:
            self._later[repository, tag] = (after, self.manifests[repository, tag])
            self.manifests[repository, tag] = before

    def manifest(self, repository: str, name: str, method: str = "GET") -> Entry | None:
        """What is served for the tag or digest *name*; for ``HEAD``, what the next ``GET`` will be served."""
        with self.lock:
            if (later := self._later.get((repository, name))) is not None:
                left, entry = later
                if left == 0:
                    self.manifests[repository, name] = entry
                    del self._later[repository, name]
                elif method == "GET":
                    self._later[repository, name] = (left - 1, entry)
            return self.manifests.get((repository, name))

    def count(self, match: str) -> int:
        """How many requests' lines contain *match*."""
        return sum(match in asked.line for asked in self.asked)

    def release(self) -> None:
        """What hangs goes on."""
        self.released.set()

    def take_fault(self, line: str) -> Fault:
        """The fault that the request *line* meets, once less now; one without effect where there is none."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.match in line:
                    if fault.after > 0:
                        fault.after -= 1
                        continue
                    fault.times -= 1
                    return replace(fault)
        return Fault("")


def spoilt(data: bytes) -> bytes:
    """As many other bytes."""
    return hashlib.shake_128(data).digest(len(data)) if data else data


def loop_index(digest: str = NOBODY) -> bytes:
    """An index whose only member is the index *digest*: itself, where it is served under that digest."""
    member = {"mediaType": OCI_INDEX, "digest": digest, "size": 300}
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [member]}).encode()


def big_manifest(size_bytes: int = 100_000_000) -> bytes:
    """An image manifest of *size_bytes*, most of them blanks."""
    blob = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": NOBODY, "size": 2}
    data = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": blob, "layers": []}).encode()
    return data + b" " * (size_bytes - len(data))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about. One whose certificate was refused is let finish its
        words: closing at once would reset the connection and take the alert with it."""
        if isinstance(sys.exception(), ssl.SSLError):
            with contextlib.suppress(OSError):
                request.setblocking(True)
                while os.read(request.fileno(), 1 << 16):
                    pass


@contextmanager
def serving(tls: ssl.SSLContext | None = None, port: int = 0) -> Iterator[Registry]:
    """A registry that serves until the end of the block, with *tls* over HTTPS, at *port* or any that is free."""
    from tests.faulty_handler import Handler

    registry = Registry()
    server = _Server(("127.0.0.1", port), type("BoundHandler", (Handler,), {"registry": registry}))
    if tls is not None:
        # The handshake belongs to the connection's own thread: a client that makes none holds up nobody.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        registry.scheme = "https"
    registry.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield registry
    finally:
        registry.release()
        server.shutdown()
        server.server_close()
        thread.join()
