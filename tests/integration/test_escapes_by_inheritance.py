"""What a container could have of the engine or of its neighbours without asking: groups, keys, terminals, environment,
limits (CVE-2022-2989 and its family)."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import platform
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import DOCKER, Daemon
from tests.integration.hostile import HAVE_PYTHON, PRELUDE, PYTHON, add_image, attack, with_python

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI"),
    pytest.mark.skipif(not HAVE_PYTHON, reason=f"needs {PYTHON}"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the attacks name system calls by x86-64 numbers"),
]

_FOREIGN_GROUPS = [4242, 4243]
_KEYCTL, _ADD_KEY, _SESSION = 250, 248, -3
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module")
def secret_key() -> Iterator[int]:
    """The serial number of a key in the session keyring that scowd is started with."""
    call = _libc.syscall
    if call(_KEYCTL, 1, None, 0, 0, 0) < 0:
        pytest.skip("the kernel has no session keyrings")
    key = call(_ADD_KEY, b"user", b"secret-of-the-engine", b"hunter2", ctypes.c_size_t(7), _SESSION)
    assert key > 0
    yield key
    call(_KEYCTL, 1, None, 0, 0, 0)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, secret_key: int) -> Iterator[Daemon]:
    """Started by somebody with groups, keys, variables and limits of his own."""
    daemon = Daemon(tmp_path_factory.mktemp("engine"))
    groups = os.getgroups()
    os.setgroups([*groups, *_FOREIGN_GROUPS])
    os.environ["SECRET_OF_THE_ENGINE"] = "hunter2"
    try:
        daemon.start()
    finally:
        os.setgroups(groups)
        del os.environ["SECRET_OF_THE_ENGINE"]
    daemon.import_busybox()
    add_image(
        daemon,
        "grouped",
        {
            "etc/passwd": b"root:x:0:0::/:\nweb:x:33:34::/:\n",
            "etc/group": b"root:x:0:\nweb:x:34:\nmore:x:77:web,root\n",
        },
    )
    yield daemon
    daemon.cleanup()


def groups_of(status: str) -> list[int]:
    (line,) = [line for line in status.splitlines() if line.startswith("Groups:")]
    return [int(word) for word in line.split()[1:]]


@pytest.mark.parametrize(
    ("user", "groups"),
    [("", [0, 77]), ("0", [0, 77]), ("1000", [0]), ("1000:1000", [1000]), ("web", [34, 77]), ("web:0", [0])],
)
def test_no_group_of_the_engines_is_left_to_a_container_or_an_exec(
    daemon: Daemon, user: str, groups: list[int]
) -> None:
    assert set(_FOREIGN_GROUPS) <= set(groups_of(Path(f"/proc/{daemon.pid}/status").read_text()))
    options = ("-u", user) if user else ()
    read = ("cat", "/proc/self/status")
    found = daemon.out("run", "--rm", "--network", "none", *options, "grouped", *read)
    assert groups_of(found) == groups
    daemon.out("run", "-d", "--name", "grouped", "--network", "none", *options, "grouped", "sleep", "60")
    try:
        assert groups_of(daemon.out("exec", "grouped", *read)) == groups
        assert groups_of(daemon.out("exec", "-u", "1000:1000", "grouped", *read)) == [1000]
    finally:
        daemon.out("rm", "-f", "grouped")


def test_no_group_of_the_engines_is_left_in_a_user_namespace(daemon: Daemon) -> None:
    body = {"Image": "grouped", "Cmd": ["sleep", "60"], "HostConfig": {"UsernsMode": "auto", "NetworkMode": "none"}}
    assert daemon.api("POST", "/containers/create?name=mapped", body)[0] == 201
    try:
        daemon.out("start", "mapped")
        init = int(daemon.out("inspect", "-f", "{{.State.Pid}}", "mapped"))
        first = int(Path(f"/proc/{init}/gid_map").read_text().split()[1])
        assert groups_of(Path(f"/proc/{init}/status").read_text()) == [first, first + 77]
        assert groups_of(daemon.out("exec", "mapped", "cat", "/proc/self/status")) == [0, 77]
        assert groups_of(daemon.out("exec", "-u", "1000:1000", "mapped", "cat", "/proc/self/status")) == [1000]
    finally:
        daemon.out("rm", "-f", "mapped")


def test_nothing_of_the_engines_environment_and_state_is_left_to_a_container(daemon: Daemon) -> None:
    program = """
status = open("/proc/self/status").read().split("\\n")
fields = {line.split(":")[0]: line.split(":")[1].strip() for line in status if ":" in line}
print(json.dumps({
    "environ": open("/proc/1/environ").read(), "umask": fields["Umask"], "blocked": int(fields["SigBlk"], 16),
    "ignored": int(fields["SigIgn"], 16) & ~0x1001000, "session": os.getsid(0), "pgrp": os.getpgrp(),
    "nice": os.nice(0), "dumpable": libc.prctl(3, 0, 0, 0, 0), "keepcaps": libc.prctl(7, 0, 0, 0, 0),
    "securebits": libc.prctl(27, 0, 0, 0, 0), "parent": fields["PPid"],
    "affinity": len(os.sched_getaffinity(0)), "oom": open("/proc/self/oom_score_adj").read(),
}))
"""
    found = attack(daemon, program)
    assert "SECRET" not in found.pop("environ")
    assert found.pop("affinity") == os.cpu_count()
    assert found == {
        "umask": "0022", "blocked": 0, "ignored": 0, "session": 1, "pgrp": 1, "nice": 0, "dumpable": 1, "keepcaps": 0,
        "securebits": 0, "parent": "0", "oom": "0\n",
    }  # fmt: skip


_KEYS = """
def keyctl(*words):
    words = [word if not isinstance(word, int) else ctypes.c_long(word) for word in words]
    result = libc.syscall(250, *words)
    return errno.errorcode[ctypes.get_errno()] if result < 0 else result

found = ctypes.create_string_buffer(64)
print(json.dumps({
    "read": keyctl(11, SERIAL, found, 64), "content": found.value.decode(),
    "search": keyctl(10, -3, b"user", b"secret-of-the-engine", 0),
    "link": keyctl(8, SERIAL, -3), "assume": keyctl(16, SERIAL), "chown": keyctl(4, SERIAL, 0, 0),
    "session": keyctl(0, -3, 1),
    "added": libc.syscall(248, b"user", b"of-this-container", b"value", ctypes.c_size_t(5), ctypes.c_long(-3)),
}))
sys.stdout.flush()
HOLD
"""


def keys(daemon: Daemon, serial: int) -> dict[str, object]:
    program = _KEYS.replace("SERIAL", str(serial)).replace("HOLD", "")
    found: dict[str, object] = attack(daemon, program, "--security-opt", "seccomp=unconfined")
    return found


def test_the_engines_keys_are_out_of_reach_even_without_a_seccomp_filter(daemon: Daemon, secret_key: int) -> None:
    found = keys(daemon, secret_key)
    assert found["content"] == ""
    assert (found["read"], found["search"], found["link"]) == ("EACCES", "ENOKEY", "EACCES")
    assert found["assume"] in ("ENOKEY", "EPERM", "EACCES")


def test_containers_do_not_share_a_session_keyring(daemon: Daemon) -> None:
    program = PRELUDE + _KEYS.replace("SERIAL", "1").replace("HOLD", "time.sleep(60)")
    words = with_python("--security-opt", "seccomp=unconfined")
    daemon.out("run", "-d", "--name", "keyed", *words, "busybox", PYTHON, "-c", program)
    try:
        deadline = time.monotonic() + 20
        while not (said := daemon.out("logs", "keyed")) and time.monotonic() < deadline:
            time.sleep(0.05)
        first = json.loads(said)
        second = keys(daemon, first["added"])
        assert first["session"] != second["session"]
        assert (second["read"], second["content"], second["link"]) == ("EACCES", "", "EACCES")
    finally:
        daemon.out("rm", "-f", "keyed")


def test_a_container_types_nothing_into_the_terminal_of_its_user(daemon: Daemon) -> None:
    """TIOCSTI: what a program on a terminal pushes into it would be read by the shell after it."""
    program = PRELUDE + (
        "import fcntl, termios\n"
        "for path in (0, 1, 2, '/dev/tty', '/dev/console', *('/dev/pts/' + n for n in os.listdir('/dev/pts'))):\n"
        "    try:\n"
        "        fd = path if isinstance(path, int) else os.open(path, os.O_RDWR | os.O_NOCTTY)\n"
        "        for letter in b'echo pwned\\n': fcntl.ioctl(fd, termios.TIOCSTI, bytes([letter]))\n"
        "    except OSError as error: print(path, error.errno)\n"
        "print('tried')\n"
    )
    assert DOCKER is not None
    master, slave = pty.openpty()
    words = ["run", "--rm", "-it", *with_python(), "busybox", PYTHON, "-c", program]
    client = subprocess.Popen(
        [DOCKER, "-H", f"unix://{daemon.socket}", *words], stdin=slave, stdout=slave, stderr=slave,
        start_new_session=True,
    )  # fmt: skip
    said, end = b"", time.monotonic() + 30
    while client.poll() is None and time.monotonic() < end:
        if select.select([master], [], [], 0.1)[0]:
            said += os.read(master, 4096)
    client.send_signal(signal.SIGKILL)
    assert client.wait() == 0 and b"tried" in said, said
    (waiting,) = struct.unpack("i", fcntl.ioctl(slave, termios.FIONREAD, b"\0\0\0\0"))
    os.close(master)
    os.close(slave)
    assert waiting == 0


def test_a_container_reaches_the_terminals_of_no_other(daemon: Daemon) -> None:
    daemon.out("run", "-dt", "--name", "terminal", "--network", "none", "busybox", "sleep", "60")
    try:
        script = (
            "ls /dev/pts; for n in 0 1 2 3 4 5 6 7 8 9; do mknod /tmp/t$n c 136 $n;"
            " (echo pwned > /tmp/t$n) 2>/dev/null && echo reached $n; done; true"
        )
        done = daemon.docker("run", "--rm", "--network", "none", "busybox", "sh", "-c", script)
        assert done.stdout.split() == ["ptmx"], done.stdout
        assert daemon.out("logs", "terminal") == ""
    finally:
        daemon.out("rm", "-f", "terminal")


def test_groups_that_a_container_was_given_to_keep_it_out_cannot_be_dropped_in_a_user_namespace(daemon: Daemon) -> None:
    """A group may be what forbids (a file that its group may not read): setgroups in a user namespace of one's own
    would take that off (CVE-2014-8989)."""
    program = """
libc.unshare(0x10000000)
tried = {"unshare": ctypes.get_errno()}
def write(path, text):
    try:
        with open(path, "w") as file: file.write(text)
        return "wrote"
    except OSError as error:
        return errno.errorcode[error.errno]
tried["gid_map"] = write("/proc/self/gid_map", "0 1000 1")
try: os.setgroups([])
except OSError as error: tried["setgroups"] = errno.errorcode[error.errno]
tried["groups"] = sorted(os.getgroups())
print(json.dumps(tried))
"""
    options = ("-u", "1000:1000", "--group-add", "77", "--security-opt", "seccomp=unconfined")
    found = attack(daemon, program, *options)
    assert found["gid_map"] == "EPERM" and found["setgroups"] == "EPERM"
    assert 77 in found["groups"] or 65534 in found["groups"]
