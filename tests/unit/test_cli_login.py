"""``scow login``, ``logout`` and the credentials that commands send: docker's own files and helpers."""

from __future__ import annotations

import base64
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli_server import FakeEngine, Reply, serve
from tests.unit.login_kit import DOCKER, PASSWORD, TOKEN_USER, USER, Home, modes

HOST = "registry.example.com"
HUB = "https://index.docker.io/v1/"
needs_docker = pytest.mark.skipif(DOCKER is None, reason="no docker command line on PATH")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with serve(tmp_path / "s") as engine:
        yield engine


@pytest.fixture
def home(tmp_path: Path, engine: FakeEngine) -> Home:
    return Home(tmp_path / "home", engine)


def log_in(home: Home, *words: str, user: str = USER, run: str = "scow") -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = getattr(home, run)(
        "login", "-u", user, "--password-stdin", *words, stdin=PASSWORD + "\n"
    )
    assert done.returncode == 0, done.stderr
    return done


def sent_auth(home: Home, command: str, *words: str) -> Any:
    """What ``X-Registry-Auth`` held in the request of *command*; None where there was none."""
    headers: list[str | None] = []

    def answer(request: Any) -> Reply:
        headers.append(request.handler.headers.get("X-Registry-Auth"))
        return Reply(200, [] if "search" in request.path else {"status": "done"})

    home.engine.on("GET|POST", "/images/(create|search|.*/push)", answer)
    done = home.scow(command, *words)
    assert done.returncode == 0, done.stderr
    (header,) = headers
    return header and json.loads(base64.urlsafe_b64decode(header))


# --- where secrets are kept ---------------------------------------------


def test_without_a_keyring_the_file_is_for_its_owner_only_and_a_warning_says_so(home: Home) -> None:
    done = log_in(home, HOST)
    assert done.stdout == "Login Succeeded\n"
    assert f"stored unencrypted in '{home.config}'" in done.stderr
    assert home.read() == {"auths": {HOST: {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}}}
    assert modes(home.config.parent) == {"config.json": 0o600}
    assert home.config.parent.stat().st_mode & 0o777 == 0o700


def test_a_file_that_others_could_read_is_closed_and_keeps_what_else_it_holds(home: Home) -> None:
    home.write({"psFormat": "table {{.ID}}", "auths": {"other": {"auth": "eDp5"}}, "proxies": {"default": {}}})
    home.config.chmod(0o644)
    log_in(home, HOST)
    assert modes(home.config.parent) == {"config.json": 0o600}
    found = home.read()
    assert (found["psFormat"], found["proxies"], set(found["auths"])) == (
        "table {{.ID}}",
        {"default": {}},
        {"other", HOST},
    )


def test_a_symbolic_link_stays_one(home: Home, tmp_path: Path) -> None:
    home.write({})
    home.config.rename(tmp_path / "real.json")
    home.config.symlink_to(tmp_path / "real.json")
    log_in(home, HOST)
    assert home.config.is_symlink()
    assert HOST in json.loads((tmp_path / "real.json").read_text())["auths"]


@pytest.mark.parametrize(("name", "needs"), [("pass", "pass"), ("secretservice", "")])
def test_a_keyring_that_is_there_is_used_without_being_configured(home: Home, name: str, needs: str) -> None:
    helper = home.add_helper(name)
    if needs:
        (home.bin / needs).write_text("#!/bin/sh\n")
        (home.bin / needs).chmod(0o755)
    done = log_in(home, HOST)
    assert "unencrypted" not in done.stderr
    assert home.read() == {"auths": {HOST: {}}, "credsStore": name}
    assert helper.secrets == {HOST: {"ServerURL": HOST, "Username": USER, "Secret": PASSWORD}}
    assert PASSWORD not in home.config.read_text()
    assert sent_auth(home, "pull", f"{HOST}/a") == {"username": USER, "password": PASSWORD, "serveraddress": HOST}


def test_a_secret_reaches_a_helper_by_its_standard_input_only(home: Home) -> None:
    helper = home.add_helper("acme")
    home.write({"credsStore": "acme"})
    log_in(home, HOST)
    home.scow("logout", HOST)
    assert [arguments for arguments, _ in helper.calls] == [["get"], ["store"]] + [["erase"]] * 3
    assert helper.calls[0][1] == HOST
    assert helper.secrets == {}


def test_a_helper_of_one_registry_serves_that_one_only(home: Home) -> None:
    helper = home.add_helper("acme")
    home.write({"credHelpers": {HOST: "acme"}})
    log_in(home, HOST)
    done = log_in(home, "other.example.com")
    assert "unencrypted" in done.stderr
    assert set(helper.secrets) == {HOST}
    assert home.read()["auths"]["other.example.com"]["auth"]
    assert home.read()["auths"][HOST] == {}
    assert "credsStore" not in home.read()


def test_an_identity_token_takes_the_place_of_the_password(home: Home) -> None:
    log_in(home, HOST, user=TOKEN_USER)
    assert PASSWORD not in home.config.read_text()
    entry = home.read()["auths"][HOST]
    assert (base64.b64decode(entry["auth"]), entry["identitytoken"]) == (b"tokens:", "an identity")
    assert sent_auth(home, "pull", f"{HOST}/a")["identitytoken"] == "an identity"
    helper = home.add_helper("acme")
    home.write({"credsStore": "acme"})
    log_in(home, HOST, user=TOKEN_USER)
    assert helper.secrets[HOST] == {"ServerURL": HOST, "Username": "<token>", "Secret": "an identity"}
    assert sent_auth(home, "pull", f"{HOST}/a") == {"identitytoken": "an identity", "serveraddress": HOST}


# --- log in -------------------------------------------------------------


def test_credentials_that_the_registry_refuses_are_not_stored(home: Home) -> None:
    done = home.scow("login", "-u", USER, "--password-stdin", HOST, stdin="wr0ng")
    assert done.returncode == 1
    assert "incorrect username or password" in done.stderr
    assert "wr0ng" not in done.stderr + done.stdout
    assert not home.config.exists()


def test_a_password_that_is_no_text_is_refused_and_not_quoted(home: Home) -> None:
    program = "from scow.cli.main import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, "-H", home.engine.host, "login", "-u", USER, "--password-stdin", HOST]
    done = subprocess.run(command, input=b"hunter2\xff", capture_output=True, env=home.environ())
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[0] == "scow: the password on standard input is not utf-8"
    assert home.engine.sent("POST", "/auth") == []


def test_a_home_that_cannot_be_written_is_an_error_and_leaves_no_part_of_a_file(home: Home) -> None:
    home.write({"auths": {}})
    home.config.unlink()
    home.config.mkdir()
    done = home.scow("login", "-u", USER, "--password-stdin", HOST, stdin=PASSWORD)
    assert done.returncode == 1
    assert PASSWORD not in done.stderr
    assert modes(home.config.parent).keys() == {"config.json"}


def test_a_password_on_the_command_line_is_warned_of(home: Home) -> None:
    done = home.scow("login", "-u", USER, "-p", PASSWORD, HOST)
    assert done.returncode == 0
    assert "Using --password via the CLI is insecure" in done.stderr


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("-u", USER, "-p", "x", "--password-stdin"), "mutually exclusive"),
        (("--password-stdin",), "must provide --username"),
        (("-u", USER), "non TTY"),
        ((), "non TTY"),
    ],
)
def test_what_cannot_be_logged_in_with_is_refused(home: Home, words: tuple[str, ...], error: str) -> None:
    done = home.scow("login", *words, HOST)
    assert done.returncode == 1
    assert error in done.stderr
    assert home.engine.sent("POST", "/auth") == []


@pytest.mark.parametrize("server", ["", "docker.io", HUB, "index.docker.io"])
def test_every_name_of_docker_hub_is_one(home: Home, server: str) -> None:
    log_in(home, *([server] if server else []))
    assert set(home.read()["auths"]) == {HUB}
    assert home.engine.sent("POST", "/auth")[0].json["serveraddress"] == HUB
    assert sent_auth(home, "pull", "nginx")["serveraddress"] == HUB
    home.scow("logout", *([server] if server else []))
    assert home.read()["auths"] == {}


def test_stored_credentials_are_tried_first(home: Home) -> None:
    log_in(home, HOST)
    done = home.scow("login", f"https://{HOST}/v2/")
    assert (done.returncode, done.stdout) == (0, "Login Succeeded\n")
    assert f"Authenticating with existing credentials... [Username: {USER}]" in done.stderr
    home.write({"auths": {HOST: {"auth": base64.b64encode(b"reader:old").decode()}}})
    done = home.scow("login", HOST)
    assert done.returncode == 1
    assert "Stored credentials invalid or expired" in done.stderr


def test_user_and_password_are_asked_for_at_a_terminal_and_the_password_is_not_shown(home: Home) -> None:
    shown = at_terminal(home, ["login", HOST], {"Username: ": USER, "Password: ": PASSWORD})
    assert "Login Succeeded" in shown
    assert PASSWORD not in shown
    assert home.read()["auths"][HOST]["auth"]


def at_terminal(home: Home, words: list[str], answers: dict[str, str]) -> str:
    """What ``scow`` shows at a terminal where each prompt of *answers* is answered."""
    program = "from scow.cli.main import main; raise SystemExit(main())"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, "-c", program, "-H", home.engine.host, *words], home.environ())
    shown, end = "", time.monotonic() + 20
    try:
        while time.monotonic() < end:
            if not select.select([terminal], [], [], 0.1)[0]:
                continue
            try:
                shown += os.read(terminal, 4096).decode()
            except OSError:
                break
            for prompt, answer in list(answers.items()):
                if shown.endswith(prompt):
                    os.write(terminal, answer.encode() + b"\n")
                    del answers[prompt]
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    return shown


# --- what commands send -------------------------------------------------


@pytest.mark.parametrize("command", ["pull", "push", "search"])
def test_stored_credentials_go_along(home: Home, command: str) -> None:
    log_in(home, HOST)
    wanted = {"username": USER, "password": PASSWORD, "serveraddress": HOST}
    assert sent_auth(home, command, f"{HOST}/team/app") == wanted
    assert sent_auth(home, command, "other.example.com/app") in (None, {})


def test_entries_that_are_urls_or_plain_members_are_found(home: Home) -> None:
    home.write({"auths": {f"https://{HOST}/v1/": {"username": "a", "password": "b"}}})
    assert sent_auth(home, "pull", f"{HOST}/x") == {"username": "a", "password": "b", "serveraddress": HOST}


def test_a_variable_goes_before_the_file(home: Home) -> None:
    log_in(home, HOST)
    auth = base64.b64encode(b"ci:job").decode()
    home.variables["DOCKER_AUTH_CONFIG"] = json.dumps({"auths": {HOST: {"auth": auth}}})
    assert sent_auth(home, "pull", f"{HOST}/x")["username"] == "ci"
    home.variables["DOCKER_AUTH_CONFIG"] = '{"auths": "s3cret"'
    done = home.scow("pull", f"{HOST}/x")
    assert done.returncode == 1
    assert "s3cret" not in done.stderr


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("{hunter2", "not json"),
        ("[]", "not a json object"),
        ({"auths": []}, None),
        ({"auths": ["hunter2"]}, "auths is not a json object"),
        ({"auths": {HOST: {"auth": "hunter2!"}}}, "not base64 of user:password"),
        ({"credsStore": "nowhere"}, "docker-credential-nowhere is not on the path"),
        ({"credHelpers": {HOST: "../../tmp/hunter"}}, "invalid name of a credential helper"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_not_quoted(home: Home, data: Any, error: str | None) -> None:
    home.write(data)
    if error is None:
        assert sent_auth(home, "pull", f"{HOST}/x") is None
        return
    done = home.scow("pull", f"{HOST}/x")
    assert done.returncode == 1
    assert error in done.stderr
    assert "hunter2" not in done.stderr
    assert home.engine.sent("POST", "/images/create") == []


def test_a_helper_that_fails_is_told_in_its_own_words(home: Home) -> None:
    home.write({"credsStore": "acme"})
    home.add_helper("acme").lock()
    done = home.scow("pull", f"{HOST}/x")
    assert done.returncode == 1
    assert "docker-credential-acme get failed: the keyring is locked" in done.stderr
    done = home.scow("logout", HOST)
    assert (done.returncode, "could not erase credentials" in done.stderr) == (0, True)


# --- docker's own command line beside -----------------------------------


@needs_docker
@pytest.mark.parametrize("user", [USER, TOKEN_USER])
@pytest.mark.parametrize("before", [{}, {"credsStore": "acme"}, {"credHelpers": {HOST: "acme"}}, {"credHelpers": {}}])
def test_a_login_leaves_what_docker_leaves(
    tmp_path: Path, engine: FakeEngine, before: dict[str, Any], user: str
) -> None:
    left = []
    for run in ("docker", "scow"):
        home = Home(tmp_path / run, engine)
        helper = home.add_helper("acme")
        home.write(before)
        log_in(home, HOST, user=user, run=run)
        log_in(home, user=user, run=run)
        left.append((home.read()["auths"], home.read().get("credsStore"), helper.secrets))
    assert left[0] == left[1]


@needs_docker
@pytest.mark.parametrize("store", [{}, {"credsStore": "acme"}])
def test_docker_and_scow_use_each_others_login_and_logout(home: Home, store: dict[str, str]) -> None:
    home.add_helper("acme")
    for first, second in (("docker", "scow"), ("scow", "docker")):
        home.write(store)
        log_in(home, HOST, run=first)
        done = getattr(home, second)("login", HOST)
        assert done.returncode == 0, done.stderr
        assert "existing credentials" in done.stdout + done.stderr
        done = getattr(home, second)("logout", HOST)
        assert f"Removing login credentials for {HOST}" in done.stdout
        assert getattr(home, first)("login", HOST).returncode != 0


# --- search -------------------------------------------------------------


FOUND = [
    {"name": "nginx", "description": "Official build\nof Nginx.", "star_count": 20000, "is_official": True},
    {"name": "me/nginx", "description": "x" * 60, "star_count": 0, "is_official": False},
]


def test_search_shows_a_table(home: Home) -> None:
    home.engine.on("GET", "/images/search", FOUND)
    done = home.scow("search", "--limit", "5", "-f", "stars=3", "nginx")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]
    assert lines[1].split() == ["nginx", "Official", "build", "of", "Nginx.", "20000", "[OK]"]
    assert lines[2].split() == ["me/nginx", "x" * 44 + "…", "0"]
    (asked,) = home.engine.sent("GET", "/images/search")
    assert asked.query == {"term": "nginx", "limit": "5", "filters": '{"stars": ["3"]}'}
    assert "x" * 60 in home.scow("search", "--no-trunc", "nginx").stdout
    assert home.scow("search", "--format", "{{.Name}}: {{.StarCount}}", "nginx").stdout == "nginx: 20000\nme/nginx: 0\n"


@needs_docker
def test_search_shows_what_docker_shows(home: Home) -> None:
    home.engine.on("GET", "/images/search", FOUND)
    for words in (["nginx"], ["--no-trunc", "nginx"], ["--format", "{{.Name}} {{.IsOfficial}}", "nginx"]):
        assert home.scow("search", *words).stdout == home.docker("search", *words).stdout
