"""Seccomp profiles: resolved for a container, compiled once, and kept."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from scow.engine.seccomp_profile import default_profile, host_architecture, resolve
from scow.engine.spec_defaults import CAPABILITIES
from scow.errors import InvalidArgument
from scow_runtime_native import seccomp

needs_libseccomp = pytest.mark.skipif(not seccomp.library_version(), reason="libseccomp.so.2 is not installed")
DEFAULT = frozenset(CAPABILITIES)


def allowed(profile: dict[str, Any]) -> set[str]:
    return {
        name
        for rule in profile["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args")
        for name in rule["names"]
    }


def test_the_default_profile_depends_on_the_capabilities() -> None:
    assert "mount" not in allowed(default_profile(DEFAULT)) and "chroot" in allowed(default_profile(DEFAULT))
    admin = default_profile(DEFAULT | {"CAP_SYS_ADMIN"})
    assert {"mount", "clone", "unshare", "bpf"} <= allowed(admin)
    assert not any("clone3" in rule["names"] for rule in admin["syscalls"] if rule["action"] == "SCMP_ACT_ERRNO")


def test_io_uring_keyrings_and_userfaultfd_are_refused() -> None:
    assert not {"io_uring_setup", "add_key", "keyctl", "userfaultfd", "kexec_load", "reboot"} & allowed(
        default_profile(DEFAULT)
    )


def test_a_profile_in_dockers_format_is_resolved() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [
            {"architecture": default_profile(DEFAULT)["architectures"][0], "subArchitectures": ["SCMP_ARCH_X86"]}
        ],
        "syscalls": [
            {"name": "read", "action": "SCMP_ACT_ALLOW"},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_CHOWN"]}},
            {"names": ["foo"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["vax"]}},
            {"names": ["bar"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
            {"names": ["write"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "3.0"}},
        ],
    }
    made = resolve(profile, DEFAULT)
    assert [rule["names"] for rule in made["syscalls"]] == [["read"], ["write"]]
    assert made["architectures"][1:] == ["SCMP_ARCH_X86"]


def test_a_profile_without_a_default_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="defaultAction is missing"):
        resolve({"syscalls": []}, DEFAULT)


@needs_libseccomp
def test_a_profile_is_compiled_once_and_kept_on_disk(tmp_path: Path) -> None:
    program = seccomp.Compiler(tmp_path).compile(default_profile(DEFAULT))
    assert len(program) % 8 == 0 and len(program) > 800
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(program[:-8])
    assert seccomp.Compiler(tmp_path).compile(default_profile(DEFAULT)) == program[:-8]
    other = seccomp.Compiler(tmp_path).compile(default_profile(DEFAULT | {"CAP_SYS_ADMIN"}))
    assert other != program and len(list(tmp_path.iterdir())) == 2


def test_nothing_to_filter_needs_no_program(tmp_path: Path) -> None:
    compiler = seccomp.Compiler(tmp_path)
    assert compiler.compile(None) == b"" == compiler.compile({"defaultAction": "SCMP_ACT_ALLOW"})


@needs_libseccomp
@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"defaultAction": "SCMP_ACT_NONE"}, "unknown or unsupported action 'SCMP_ACT_NONE'"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_VAX"]}, "unknown architecture"),
        (
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [
                    {"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "op": "SCMP_CMP_XX"}]}
                ],
            },
            "unknown comparison 'SCMP_CMP_XX'",
        ),
    ],
)
def test_a_bad_profile_is_named(profile: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        seccomp.compile_profile(profile)


@needs_libseccomp
def test_the_default_filter_holds_in_a_process(tmp_path: Path) -> None:
    """unshare of a user namespace and a vsock fail, clone3 says that it is not there, and all else goes on."""
    program = tmp_path / "program"
    program.write_bytes(seccomp.compile_profile(default_profile(frozenset(), host_architecture())))
    script = textwrap.dedent("""
        import ctypes, os, socket, sys
        from scow.linux import syscalls as s
        program = open(sys.argv[1], "rb").read()
        s.prctl(s.PR_SET_NO_NEW_PRIVS, 1)
        s.seccomp_filter(program)
        def error(call):
            try:
                call()
            except OSError as failure:
                return failure.errno
            return 0
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall(s.SYS_CLONE3, None, 0)
        clone3 = ctypes.get_errno()
        print(
            error(lambda: s.unshare(s.CLONE_NEWUSER)),
            error(lambda: socket.socket(40, socket.SOCK_STREAM)),
            error(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()),
            clone3,
            error(lambda: os.listdir("/")),
        )
    """)
    result = subprocess.run(
        [sys.executable, "-c", script, str(program)], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.split() == [str(errno.EPERM), str(errno.EPERM), "0", str(errno.ENOSYS), "0"]
    assert os.path.getsize(program) < 8 * 4096  # the kernel takes 4096 instructions at most
