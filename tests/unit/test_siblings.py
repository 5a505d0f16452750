"""A process left behind by a helper: who it is, is known from the kernel alone; and what its seccomp filter lets it do
before its execve."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from scow_runtime_native import seccomp
from scow_runtime_native.passage import Passage

needs_libseccomp = pytest.mark.skipif(not seccomp.library_version(), reason="libseccomp.so.2 is not installed")


def run(script: str, *words: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_a_helper_leaves_behind_is_a_child_of_the_helpers_parent() -> None:
    codes = run("""
        import json, os, signal
        from scow.linux.siblings import Birth, clone_sibling
        birth = Birth()
        helper = os.fork()
        if not helper:
            birth.keep_from_children()
            if clone_sibling(birth, 0) == 0:
                os._exit(7)
            os.kill(os.getpid(), signal.SIGKILL)
        ended = os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1])
        print(json.dumps([ended, os.waitstatus_to_exitcode(os.waitpid(birth.pid(), 0)[1])]))
    """)
    assert codes == [-9, 7]


def test_the_process_that_is_left_behind_cannot_say_that_it_is_another() -> None:
    codes = run("""
        import ctypes, json, os
        from scow.linux.siblings import Birth, clone_sibling
        birth = Birth()
        helper = os.fork()
        if not helper:
            birth.keep_from_children()
            if clone_sibling(birth, 0) == 0:
                ctypes.c_int.from_address(birth.address).value = 1  # there is no such memory
                os._exit(0)
            os._exit(0)
        os.waitpid(helper, 0)
        print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(birth.pid(), 0)[1])))
    """)
    assert codes == -11


_WITH_FILTER = """
    import errno, json, os, resource, sys
    from scow.linux import syscalls
    from scow.linux.siblings import Birth
    from scow_runtime_native.passage import Passage

    passage, birth = Passage(), Birth()
    read, write = os.pipe()
    helper = os.fork()
    if helper:
        os.close(write)
        os.waitpid(helper, 0)
        os.waitpid(birth.pid(), 0)
        print(os.read(read, 4096).decode())
        sys.exit()
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    program = open(sys.argv[1], "rb").read()
    syscalls.seccomp_filter(passage.cover(program), 4)

    def error(call, *words):
        try:
            call(*words)
        except OSError as failure:
            return errno.errorcode[failure.errno]
        return "ok"

    before = [error(os.setsid), error(os.fork), error(resource.setrlimit, resource.RLIMIT_CORE, (0, 0))]
    if passage.clone(birth):
        os._exit(0)
    leader = error(passage.new_session()), os.getsid(0) == os.getpid()
    limited = error(passage.limit, resource.RLIMIT_NPROC, 10, 20), resource.getrlimit(resource.RLIMIT_NPROC)
    after = [error(os.setsid), error(os.fork), error(Passage().new_session())]
    os.write(write, json.dumps([before, leader, limited, error(passage.take_terminal), after]).encode())
    os._exit(0)
"""


@needs_libseccomp
def test_a_profile_without_fork_and_setsid_lets_an_exec_pass_and_nothing_else(tmp_path: Path) -> None:
    refused = ["clone", "clone3", "fork", "vfork", "setsid", "ioctl", "setrlimit"]
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": refused, "action": "SCMP_ACT_ERRNO", "errnoRet": 13}],
    }
    (tmp_path / "program").write_bytes(seccomp.compile_profile(profile))
    before, leader, limited, terminal, after = run(_WITH_FILTER, str(tmp_path / "program"))
    assert before[:2] == ["EACCES", "EACCES"]
    assert leader == ["ok", True]
    assert limited == ["ok", [10, 20]]
    assert terminal in ("ENOTTY", "EPERM", "EINVAL")  # of the kernel: standard input is no terminal here
    assert after == ["EACCES", "EACCES", "EACCES"]


def test_a_filter_that_leaves_no_room_stays_as_it_is() -> None:
    longest = b"\x06\0\0\0\0\0\xff\x7f" * 4090
    assert Passage().cover(longest) == longest
    assert Passage().cover(longest[:80])[-80:] == longest[:80]
