"""Programs that cannot be executed, through the docker command line: Docker's exit code and words, and the cause."""

from __future__ import annotations

import platform
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import BUSYBOX, DOCKER, Daemon

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(DOCKER is None, reason="the docker command line is not installed"),
    pytest.mark.skipif(BUSYBOX is None, reason="needs busybox (Debian: busybox-static)"),
]
OURS = 62 if platform.machine() == "x86_64" else 183
# what decides whether an emulator has it: registered at this host, no foreign program fails
REGISTERED = Path("/proc/sys/fs/binfmt_misc/qemu-s390x").exists()


def elf(machine: int, loader: str = "", order: str = "<") -> bytes:
    """A 64-bit ELF file of nothing but headers and the name of its loader."""
    name = loader.encode() + b"\0" if loader else b""
    ident = b"\x7fELF\x02" + (b"\x01" if order == "<" else b"\x02") + b"\x01" + bytes(9)
    header = ident + struct.pack(order + "HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack(order + "IIQQQQQQ", 3 if name else 1, 4, 120, 0, 0, len(name), len(name), 1) + name


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """An engine with a running container ``job`` that has the programs at /x."""
    root = tmp_path_factory.mktemp("failures")
    programs = root / "programs"
    programs.mkdir()
    for name, content, mode in (
        ("interpreter", b"#!/opt/none/python3 -u\n", 0o755),
        ("crlf", b"#!/bin/sh\r\necho hi\r\n", 0o755),
        ("loader", elf(OURS, "/lib64/ld-linux-none.so.2"), 0o755),
        ("foreign", elf(22, order=">"), 0o755),
        ("plain", b"#!/bin/sh\n", 0o644),
        ("text", b"echo hi\n", 0o755),
        ("empty", b"", 0o755),
        ("closed", b"#!/bin/sh\n", 0o700),
    ):
        (programs / name).write_bytes(content)
        (programs / name).chmod(mode)
    (programs / "link").symlink_to("/opt/gone")
    (programs / "folder").mkdir()
    (programs / "secret").mkdir(mode=0o700)
    shutil.copy(BUSYBOX or "", programs / "secret/busybox")
    daemon = Daemon(root / "engine").start()
    daemon.import_busybox()
    words = ["-v", f"{programs}:/x", "--tmpfs", "/noexec"]
    daemon.out("run", "-d", "--name", "job", "--network", "none", *words, "busybox", "sleep", "1000")
    daemon.out("exec", "job", "cp", "/bin/busybox", "/noexec/sh")
    try:
        yield daemon
    finally:
        daemon.cleanup()


MISSING, DENIED, FORMAT = "no such file or directory", "permission denied", "exec format error"
CASES = [
    ("nonsense", 127, 'exec: "nonsense": executable file not found in $PATH', ""),
    ("/x/nonsense", 127, f'exec: "/x/nonsense": stat /x/nonsense: {MISSING}', ""),
    ("/x/interpreter", 127, f"exec /x/interpreter: {MISSING}", "its interpreter '/opt/none/python3' does not exist"),
    ("/x/crlf", 127, f"exec /x/crlf: {MISSING}", "ends in a carriage return (Windows line ending)"),
    ("/x/loader", 127, f"exec /x/loader: {MISSING}", "its loader /lib64/ld-linux-none.so.2 does not exist"),
    ("/x/link", 127, f"exec /x/link: {MISSING}", "a symbolic link to /opt/gone, which does not exist"),
    ("/x/plain", 126, f'exec: "/x/plain": {DENIED}', "/x/plain is not executable (mode 0644)"),
    ("/x/folder", 126, f'exec: "/x/folder": {DENIED}', "/x/folder is a directory"),
    ("/x/foreign", 126, f"exec /x/foreign: {FORMAT}", "is for s390x, this host is"),
    ("/x/text", 126, f"exec /x/text: {FORMAT}", "a script needs #!"),
    ("/x/empty", 126, f"exec /x/empty: {FORMAT}", "/x/empty is empty"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "code", "message", "cause"), CASES, ids=[case[0] for case in CASES])
def test_a_program_that_cannot_be_executed(daemon: Daemon, name: str, code: int, message: str, cause: str) -> None:
    if name == "/x/foreign" and REGISTERED:
        pytest.skip("this host has an emulator for s390x registered")
    done = daemon.docker("exec", "job", name, check=False)
    assert done.returncode == code
    told = done.stdout + done.stderr
    assert message in told and cause in told
    volume = next(iter(daemon.out("inspect", "-f", "{{range .Mounts}}{{.Source}} {{end}}", "job").split()))
    words = ["--name", "fails", "--network", "none", "-v", f"{volume}:/x", "busybox", name]
    done = daemon.docker("run", *words, check=False)
    # the docker command line makes 126 and 127 of the words that it knows, the record has them for all
    assert done.returncode == (125 if FORMAT in message else code)
    assert "failed to create task for container: " in done.stderr
    assert message in done.stderr and cause in done.stderr
    assert daemon.out("inspect", "-f", "{{.State.ExitCode}} {{.State.Status}}", "fails") == f"{code} created"
    daemon.out("rm", "fails")


def test_a_foreign_program_says_that_no_emulator_is_registered(daemon: Daemon) -> None:
    if REGISTERED:
        pytest.skip("this host has an emulator for s390x registered")
    assert "no emulator is registered (binfmt_misc)" in _told(daemon, "exec", "job", "/x/foreign", code=126)


def _told(daemon: Daemon, *words: str, code: int) -> str:
    done = daemon.docker(*words, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return str(done.stdout + done.stderr)


def test_a_mount_that_is_noexec(daemon: Daemon) -> None:
    told = _told(daemon, "exec", "job", "/noexec/sh", code=126)
    assert 'exec: "/noexec/sh": permission denied' in told
    assert "the filesystem of /noexec/sh is mounted noexec" in told


def test_a_program_that_another_user_may_not_execute(daemon: Daemon) -> None:
    told = _told(daemon, "exec", "-u", "mail", "job", "/x/closed", code=126)
    assert 'exec: "/x/closed": permission denied' in told
    assert "/x/closed is not executable for the user 8 (mode 0700)" in told
    told = _told(daemon, "exec", "-u", "mail", "job", "/x/secret/busybox", code=126)
    assert "the user may not enter /x/secret" in told


def test_a_working_directory_that_is_missing_or_none(daemon: Daemon) -> None:
    told = _told(daemon, "exec", "-w", "/no/such", "job", "true", code=126)
    assert 'cannot change to the working directory "/no/such": no such file or directory' in told
    told = _told(daemon, "exec", "-w", "/etc/passwd", "job", "true", code=126)
    assert 'cannot change to the working directory "/etc/passwd": not a directory' in told
    assert daemon.out("run", "--rm", "--network", "none", "-w", "/made/by/run", "busybox", "pwd") == "/made/by/run"


def test_a_user_or_group_that_the_image_does_not_have(daemon: Daemon) -> None:
    for words, text in (
        (["-u", "nobody"], "unable to find user nobody: no matching entries in passwd file"),
        (["-u", "mail:none"], "unable to find group none: no matching entries in group file"),
    ):
        assert text in _told(daemon, "run", "--rm", "--network", "none", *words, "busybox", "true", code=125)
        assert text in _told(daemon, "exec", *words, "job", "true", code=126)
