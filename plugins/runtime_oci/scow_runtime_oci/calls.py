"""Calls of the runtime program from scowd: short ones, each waited for."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from scow.errors import ScowError, Unavailable
from scow.linux import syscalls as sys
from scow_runtime_oci import program

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")

_TIMEOUT_S = 60.0


class Program:
    """The program at *path* with its global options *arguments*; its logs are below *scratch*."""

    def __init__(self, path: str, arguments: tuple[str, ...], scratch: Path, hide_unified: bool) -> None:
        self.path = path
        self.command = [path, *arguments]
        self._scratch = scratch
        self._hide_unified = hide_unified

    def call(self, *words: str) -> str:
        """What it prints for *words*. Raises `Unavailable` in its own words where it fails or does not end."""
        return _in_a_namespace_without_unified(lambda: self._call(words)) if self._hide_unified else self._call(words)

    def _call(self, words: tuple[str, ...]) -> str:
        what = f"{os.path.basename(self.path)} {words[0]}"
        self._scratch.mkdir(mode=0o700, exist_ok=True)
        fd, log = tempfile.mkstemp(prefix="call-", suffix=".log", dir=self._scratch)
        os.close(fd)
        try:
            done = subprocess.run(
                program.argv(self.command, log, *words),
                env=program.ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                cwd="/",
                timeout=_TIMEOUT_S,
            )
            if done.returncode:
                raise Unavailable(f"{what} failed: {program.cause(log, done.returncode).message}")
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{what} did not end within {_TIMEOUT_S:g} s") from error
        except OSError as error:
            raise Unavailable(f"{what} failed: {error.strerror}") from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(log)
        return done.stdout.decode("utf-8", "replace")

    def version(self) -> str:
        """The first line of ``--version`` and what the rest says of seccomp; ``""`` where it does not answer."""
        try:
            done = subprocess.run([self.path, "--version"], capture_output=True, stdin=subprocess.DEVNULL, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.decode("utf-8", "replace")


def _in_a_namespace_without_unified(work: Callable[[], T]) -> T:
    """What *work* answers, done by a thread with a mount namespace of its own, which ends with it (unshare(2):
    ``CLONE_NEWNS`` is for the calling thread)."""
    answers: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            sys.unshare(sys.CLONE_NEWNS)
            program.hide_unified()
            answers.append(work())
        except BaseException as error:  # noqa: BLE001  (raised again by the caller)
            failures.append(error)

    thread = threading.Thread(target=run, name="runtime program")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    if not answers:
        raise ScowError("the thread of a runtime program ended without an answer")
    return answers[0]
