"""Credentials for Google's registries: whose hosts, whose token, and that the registry client logs in with them."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from scow.errors import InvalidArgument, Unauthorized, Unavailable
from scow.ports import DriverContext
from scow.ports.registry import Credentials
from scow_registry_gcr import GcrCredentials
from tests.faulty_registry import serving
from tests.unit.dockerhub_kit import BLOB, IMAGE, make_backend, read, reference, resolve
from tests.unit.google_server import Google, serving_google

HOST = "europe-docker.pkg.dev"


def plugin(folder: Path, **options: Any) -> GcrCredentials:
    return GcrCredentials(DriverContext("gcr", folder, folder, options))


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving_google() as server:
        yield server


@pytest.fixture
def key(google: Google, tmp_path: Path) -> str:
    return str(google.write_key(tmp_path / "key.json"))


def test_a_service_accounts_key_is_signed_with(google: Google, key: str, tmp_path: Path) -> None:
    asked = plugin(tmp_path, key_file=key)
    assert asked.scow_registry_credentials(HOST) == Credentials("oauth2accesstoken", "ya29.1")
    assert google.asked == ["jwt-bearer"]


def test_a_signature_by_another_key_is_refused(google: Google, key: str, tmp_path: Path) -> None:
    google.public = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    with pytest.raises(Unauthorized, match="invalid_grant: Invalid JWT Signature") as caught:
        plugin(tmp_path, key_file=key).scow_registry_credentials(HOST)
    assert "PRIVATE KEY" not in repr(caught.value)
    assert google.refused == ["Invalid JWT Signature."]


def test_a_token_is_kept_until_it_is_about_to_expire(google: Google, key: str, tmp_path: Path) -> None:
    asked = plugin(tmp_path, key_file=key)
    for host in ("gcr.io", "eu.gcr.io", HOST):
        assert asked.scow_registry_credentials(host) == Credentials("oauth2accesstoken", "ya29.1")
    google.life_s = 600  # less than what is kept for a long push
    other = plugin(tmp_path, key_file=key)
    assert other.scow_registry_credentials(HOST) == Credentials("oauth2accesstoken", "ya29.2")
    assert other.scow_registry_credentials(HOST) == Credentials("oauth2accesstoken", "ya29.3")


@pytest.mark.parametrize("kind", ["variable", "gcloud"])
def test_application_default_credentials_are_found(
    google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "variable":
        file = google.write_key(tmp_path / "named.json")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    else:
        (tmp_path / "gcloud").mkdir()
        google.write_key(tmp_path / "gcloud" / "application_default_credentials.json")
    assert plugin(tmp_path).scow_registry_credentials(HOST) == Credentials("oauth2accesstoken", "ya29.1")
    assert google.asked == ["jwt-bearer"]


def test_the_metadata_server_gives_the_machines_account(google: Google, tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from scow.ports import DriverContext; from scow_registry_gcr import GcrCredentials\n"
        "plugin = GcrCredentials(DriverContext('gcr', Path('/'), Path('/')))\n"
        f"found = plugin.scow_registry_credentials({HOST!r}); print(found.username, found.password)"
    )
    environ = {**os.environ, "GCE_METADATA_HOST": google.host, "GCE_METADATA_IP": google.host}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environ)
    assert done.stdout == "oauth2accesstoken ya29.1\n", done.stderr
    assert google.asked == ["metadata"]


def test_without_an_account_public_images_are_asked_for_by_nobody(google: Google, tmp_path: Path) -> None:
    if Path("/sys/class/dmi/id/product_name").exists() and "Google" in Path("/sys/class/dmi/id/product_name").read_text(
        errors="replace"
    ):
        pytest.skip("this machine has an account of its own: it is one of Google's")
    assert plugin(tmp_path).scow_registry_credentials("gcr.io") is None
    assert google.asked == []


@pytest.mark.parametrize(
    "host",
    ["docker.io", "gcr.io.example.com", "evilgcr.io", "gcr.io:443", "a.b.gcr.io", "pkg.dev", "eu-npm.pkg.dev"],
)
def test_no_other_host_is_told_a_token(google: Google, key: str, tmp_path: Path, host: str) -> None:
    assert plugin(tmp_path, key_file=key).scow_registry_credentials(host) is None
    assert google.asked == []


def test_another_key_in_the_file_counts_at_once(google: Google, key: str, tmp_path: Path) -> None:
    asked = plugin(tmp_path, key_file=key)
    asked.scow_registry_credentials(HOST)
    google.write_user(Path(key))
    os.utime(key, ns=(1, 1))
    with pytest.raises(InvalidArgument, match="is not the key of a google service account"):
        asked.scow_registry_credentials(HOST)
    google.write_key(Path(key))
    assert asked.scow_registry_credentials(HOST) == Credentials("oauth2accesstoken", "ya29.2")


def test_a_key_that_cannot_be_read_is_named(google: Google, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cannot read service account key .*nowhere.json"):
        plugin(tmp_path, key_file=str(tmp_path / "nowhere.json")).scow_registry_credentials(HOST)


def test_default_credentials_that_are_broken_are_an_error(
    google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.json").write_text('{"type": "service_account", "private_key": "s3cret"')
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "bad.json"))
    with pytest.raises(Unauthorized, match="bad.json") as caught:
        plugin(tmp_path).scow_registry_credentials(HOST)
    assert "s3cret" not in repr(caught.value)


def test_google_out_of_reach_is_unavailable_and_the_next_one_succeeds(google: Google, key: str, tmp_path: Path) -> None:
    asked = plugin(tmp_path, key_file=key)
    host, google.host = google.host, "127.0.0.1:9"
    google.write_key(Path(key))
    with pytest.raises(Unavailable, match="cannot reach google"):
        asked.scow_registry_credentials(HOST)
    google.host = host
    google.write_key(Path(key))
    assert asked.scow_registry_credentials(HOST) is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keyfile": "x"}, "unknown option 'keyfile'"),
        ({"hosts": {"x": 1}}, "expected a list"),
        ({"key_file": 1}, "expected a path"),
    ],
)
def test_options_are_checked_when_the_plugin_is_loaded(tmp_path: Path, options: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        plugin(tmp_path, **options)


def test_the_registry_client_pulls_with_the_access_token(google: Google, key: str, tmp_path: Path) -> None:
    with serving() as registry:
        registry.auth, registry.users = "bearer", {"oauth2accesstoken": "ya29.1"}
        registry.add("scow/app", "1", IMAGE)
        backend, ref = make_backend(tmp_path), reference(registry, "scow/app:1")
        who = plugin(tmp_path, key_file=key, hosts=[registry.host]).scow_registry_credentials(registry.host)
        assert resolve(backend, ref, who) == IMAGE.manifest.data
        assert read(backend, ref, who=who) == BLOB
        with pytest.raises(Unauthorized):
            resolve(make_backend(tmp_path), ref)
        backend.close()


@pytest.mark.parametrize("user", ["_json_key", "_json_key_base64"])
def test_a_key_can_be_logged_in_with_as_a_password(google: Google, key: str, tmp_path: Path, user: str) -> None:
    text = Path(key).read_text()
    password = base64.b64encode(text.encode()).decode() if user.endswith("base64") else text
    with serving() as registry:
        registry.auth, registry.users = "bearer", {user: password}
        registry.add("scow/app", "1", IMAGE)
        backend = make_backend(tmp_path)
        assert backend.login(registry.host, Credentials(user, password))["Status"] == "Login Succeeded"
        assert resolve(backend, reference(registry, "scow/app:1"), Credentials(user, password))
        backend.close()
