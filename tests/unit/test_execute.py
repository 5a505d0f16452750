"""Why a program cannot be executed: the cause is named, not only the error number."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from scow_runtime_native.execute import execute
from scow_runtime_native.explain import elf_interpreter, elf_machine
from scow_runtime_native.failure import CANNOT_RUN, NOT_FOUND, StageError


def elf(machine: int, interpreter: str = "") -> bytes:
    """A 64-bit little-endian ELF file that ends after its program headers and interpreter."""
    name = interpreter.encode() + b"\0" if interpreter else b""
    header = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    )
    kind = 3 if name else 1
    return header + struct.pack("<IIQQQQQQ", kind, 4, 120, 0, 0, len(name), len(name), 1) + name


def program(path: Path, content: bytes, mode: int = 0o755) -> str:
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def failure(args: list[str], path: str = "/usr/bin:/bin") -> StageError:
    with pytest.raises(StageError) as caught:
        execute(args, {"PATH": path})
    return caught.value


def test_a_name_that_no_directory_of_path_has(tmp_path: Path) -> None:
    error = failure(["nope"], f"{tmp_path}:{tmp_path}/none")
    assert str(error) == 'exec: "nope": executable file not found in $PATH'
    assert error.kind == NOT_FOUND


def test_a_path_that_is_not_there() -> None:
    error = failure(["/no/such"])
    assert str(error) == 'exec: "/no/such": stat /no/such: no such file or directory'
    assert error.kind == NOT_FOUND


def test_a_file_without_the_executable_bit(tmp_path: Path) -> None:
    path = program(tmp_path / "data", b"#!/bin/sh\n", 0o644)
    error = failure([path])
    assert str(error) == f'exec: "{path}": permission denied' and error.kind == CANNOT_RUN
    assert error.hint == f"{path} is not executable (mode 0644)"


def test_a_file_that_is_not_executable_in_path_is_said_so_rather_than_not_found(tmp_path: Path) -> None:
    program(tmp_path / "tool", b"", 0o644)
    assert failure(["tool"], f"{tmp_path}:/none").kind == CANNOT_RUN


def test_a_directory(tmp_path: Path) -> None:
    assert failure([str(tmp_path)]).hint == f"{tmp_path} is a directory"


def test_a_script_whose_interpreter_is_missing(tmp_path: Path) -> None:
    error = failure([program(tmp_path / "script", b"#!/opt/none/python -u\nprint()\n")])
    assert str(error).endswith(": no such file or directory") and error.kind == NOT_FOUND
    assert "its interpreter '/opt/none/python' does not exist" in (error.hint or "")


def test_a_script_with_windows_line_endings(tmp_path: Path) -> None:
    error = failure([program(tmp_path / "script", b"#!/bin/sh\r\necho\r\n")])
    assert "the first line ends in a carriage return (Windows line ending)" in (error.hint or "")


def test_a_binary_whose_loader_is_missing(tmp_path: Path) -> None:
    ours = 62 if os.uname().machine == "x86_64" else 183
    error = failure([program(tmp_path / "binary", elf(ours, "/lib/ld-none.so.1"))])
    assert "its loader /lib/ld-none.so.1 does not exist" in (error.hint or "")
    assert "glibc or musl" in (error.hint or "")


def test_a_binary_for_another_architecture(tmp_path: Path) -> None:
    error = failure([program(tmp_path / "binary", elf(22))])
    assert error.kind == CANNOT_RUN and "exec format error" in str(error)
    assert "is for s390x, this host is" in (error.hint or "")


def test_text_without_an_interpreter_line_and_nothing_at_all(tmp_path: Path) -> None:
    assert "a script needs #!" in (failure([program(tmp_path / "text", b"echo hi\n")]).hint or "")
    assert failure([program(tmp_path / "empty", b"")]).hint == f"{tmp_path}/empty is empty"


def test_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/none")
    assert failure([f"{tmp_path}/link"]).hint == f"{tmp_path}/link is a symbolic link to /none, which does not exist"


def test_headers_that_are_cut_short_are_no_elf() -> None:
    assert elf_machine(b"\x7fELF") == "" and elf_machine(b"#!/bin/sh") == ""
    assert elf_interpreter(elf(62)[:70]) == "" and elf_interpreter(elf(62)) == ""


def test_a_script_whose_interpreter_is_a_script_without_one(tmp_path: Path) -> None:
    inner = program(tmp_path / "inner", b"#!/opt/none/perl\n")
    error = failure([program(tmp_path / "outer", f"#!{inner}\n".encode())])
    assert "its interpreter '/opt/none/perl' does not exist" in (error.hint or "") and error.kind == NOT_FOUND


def test_a_script_whose_interpreter_is_not_executable(tmp_path: Path) -> None:
    inner = program(tmp_path / "inner", b"", 0o644)
    error = failure([program(tmp_path / "script", f"#!{inner} -x\n".encode())])
    assert error.hint == f"it needs {inner}: {inner} is not executable (mode 0644)" and error.kind == CANNOT_RUN


def test_no_path_at_all() -> None:
    assert failure(["tool"], "").hint == "the environment has no PATH"


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"MZ\x90\0", "is a program for Windows"),
        (b"\xcf\xfa\xed\xfe\x07", "is a program for macOS"),
        (b"\xef\xbb\xbf#!/bin/sh\n", "is a script with a byte order mark before its #!"),
        (b"\n#!/bin/sh\n", "there is something before the #! of"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (b"\x1f\x8b\x08\0", "is compressed (gzip)"),
    ],
)
def test_files_that_are_no_programs_here(tmp_path: Path, content: bytes, cause: str) -> None:
    error = failure([program(tmp_path / "file", content)])
    assert error.kind == CANNOT_RUN and cause in (error.hint or "") and "exec format error" in str(error)


def test_arguments_that_are_too_long() -> None:
    error = failure(["/bin/true", "x" * 200_000])
    assert "argument list too long" in str(error) and "take 2000" in (error.hint or "") and error.kind == CANNOT_RUN


def test_a_program_that_is_open_for_writing(tmp_path: Path) -> None:
    path = program(tmp_path / "busy", Path("/bin/true").read_bytes())
    with open(path, "ab"):
        error = failure([path])
    assert error.hint == f"{path} is open for writing" and error.kind == CANNOT_RUN


def test_a_fifo_is_no_program(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o777)
    assert failure([f"{tmp_path}/fifo"]).hint == f"{tmp_path}/fifo is no regular file"


def test_links_that_go_round(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    error = failure([f"{tmp_path}/a"])
    assert "too many symbolic links" in (error.hint or "") and error.kind == CANNOT_RUN
