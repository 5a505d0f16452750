"""Certificates of an authority of our own, for tests that speak TLS on loopback.

::

    authority = Authority(tmp_path)
    with serving(authority.server()) as registry:      # tests/faulty_registry.py
        authority.trust(certs_dir, registry.host)      # <certs_dir>/<host>/ca.crt
"""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path

import trustme


class Authority:
    """An authority, whose files are in *folder*: ``ca.pem``, ``server.pem``, ``server.key``, ``client.pem``,
    ``client.key``. The server is ``127.0.0.1``, ``localhost`` and *names*."""

    def __init__(self, folder: Path, *names: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        server = self.ca.issue_cert("127.0.0.1", "localhost", *names, key_type=trustme.KeyType.ECDSA)
        client = self.ca.issue_cert("somebody@example.com", key_type=trustme.KeyType.ECDSA)
        for name, issued in (("server", server), ("client", client)):
            issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
            (folder / f"{name}.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))

    def server(self, clients: Authority | None = None) -> ssl.SSLContext:
        """What a server speaks TLS with; with *clients* it wants a certificate that they signed."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients.folder / "ca.pem")
        return context

    def client(self, clients: Authority | None = None) -> ssl.SSLContext:
        """What a client of our server speaks TLS with; with *clients* it shows the certificate that they signed."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        if clients is not None:
            context.load_cert_chain(clients.folder / "client.pem", clients.folder / "client.key")
        return context

    def trust(self, certs_dir: Path, host: str) -> None:
        """*certs_dir* says, as Docker's does, that *host* is vouched for by this authority."""
        (certs_dir / host).mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / "ca.pem", certs_dir / host / "ca.crt")

    def identify(self, certs_dir: Path, host: str) -> None:
        """*certs_dir* has a client certificate for *host*."""
        (certs_dir / host).mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / "client.pem", certs_dir / host / "client.cert")
        shutil.copy(self.folder / "client.key", certs_dir / host / "client.key")
