"""``process.args``: the program, how it is found, how it ends, and its descriptors."""

from __future__ import annotations

import os
import select

from tests.differential.bundle import bind, root_capabilities, without
from tests.differential.corpus import Drive, Observed, Spec, case
from tests.differential.run import Run, observed_of, wait_for, wait_gone


@case(expect={"exit": "0"})
def program_by_path(spec: Spec, run: Run) -> None:
    """A program without a slash is looked for in the container's PATH."""
    spec["process"]["args"] = ["true"]


@case(expect={"out": "here"})
def program_relative(spec: Spec, run: Run) -> None:
    """A program relative to the working directory."""
    _script(run, "var/hello", "#!/bin/sh\necho here\n")
    spec["process"].update(args=["./hello"], cwd="/var")


@case(expect={"out": "one two"})
def program_arguments(spec: Spec, run: Run) -> None:
    """Arguments are handed over as they are."""
    spec["process"]["args"] = ["/bin/echo", "one two"]


@case()
def program_in_a_path_that_is_not_set(spec: Spec, run: Run) -> None:
    """Without PATH: where a program without a slash is looked for."""
    spec["process"].update(args=["true"], env=["A=1"])


@case()
def program_missing(spec: Spec, run: Run) -> None:
    """A program that is not there, by its path."""
    spec["process"]["args"] = ["/bin/nothing"]


@case()
def program_missing_in_path(spec: Spec, run: Run) -> None:
    """A program that is nowhere in PATH."""
    spec["process"]["args"] = ["nothing"]


@case()
def program_not_executable(spec: Spec, run: Run) -> None:
    """A file without the right to execute it."""
    spec["process"]["args"] = ["/etc/passwd"]


@case()
def program_is_a_folder(spec: Spec, run: Run) -> None:
    """A folder as the program."""
    spec["process"]["args"] = ["/etc"]


@case()
def program_of_no_known_format(spec: Spec, run: Run) -> None:
    """A script without its first line: the kernel refuses, no shell is asked."""
    _script(run, "bin/plain", "echo here\n")
    spec["process"]["args"] = ["/bin/plain"]


@case()
def program_interpreter_missing(spec: Spec, run: Run) -> None:
    """A script whose interpreter is missing."""
    _script(run, "bin/odd", "#!/bin/nothing\n")
    spec["process"]["args"] = ["/bin/odd"]


@case()
def program_on_a_noexec_mount(spec: Spec, run: Run) -> None:
    """A program on a mount with noexec."""
    spec["mounts"].append(bind(run.root / "bin", "/other", "noexec"))
    spec["process"]["args"] = ["/other/busybox", "true"]


@case()
def program_none(spec: Spec, run: Run) -> None:
    """No arguments at all are an error."""
    spec["process"]["args"] = []


def _script(run: Run, name: str, text: str) -> None:
    (run.root / name).write_text(text)
    (run.root / name).chmod(0o755)


@case(expect={"exit": "7"}, sample=True)
def exit_code(spec: Spec, run: Run) -> None:
    """The exit code of the program is the command's."""
    spec["process"]["args"] = ["/bin/sh", "-c", "exit 7"]


@case(expect={"exit": "255"})
def exit_code_255(spec: Spec, run: Run) -> None:
    """The highest exit code."""
    spec["process"]["args"] = ["/bin/sh", "-c", "exit 255"]


@case(expect={"exit": "137"}, sample=True)
def killed_by_itself(spec: Spec, run: Run) -> None:
    """A program that a signal kills ends the command with 128 and the signal's number."""
    without(spec, "pid")
    spec["process"]["args"] = ["/bin/sh", "-c", "kill -9 $$"]


def _run_detached_and_kill(signal: str) -> Drive:
    def drive(run: Run) -> Observed:
        pid_file = run.folder / "pid"
        done = run.run("--detach", "--pid-file", str(pid_file))
        pid = int(pid_file.read_text())
        ready = wait_for((run.root / "ready").exists)
        killed = run.kill(signal)
        gone = wait_gone(pid)
        wait_for(lambda: run.status() == "stopped")
        kept = (run.root / "caught").exists()
        return {
            "exit": f"{done.code} {killed.code}",
            "gone": f"{ready} {gone}",
            "status": run.status(),
            "caught": str(kept),
        }

    return drive


_TRAP = ["/bin/sh", "-c", "trap 'touch /caught; exit 3' USR1; touch /ready; while :; do sleep 0.05; done"]


@case(drive=_run_detached_and_kill("USR1"))
def signal_caught(spec: Spec, run: Run) -> None:
    """A signal with a name, without SIG before it, reaches the program, which catches it."""
    spec["process"]["args"] = _TRAP


@case(drive=_run_detached_and_kill("SIGKILL"))
def signal_kills(spec: Spec, run: Run) -> None:
    """SIGKILL ends the container."""
    spec["process"]["args"] = _TRAP


def _with_input(run: Run) -> Observed:
    return observed_of(run.run(input=b"line one\nline two\n"))


@case(drive=_with_input, expect={"out": "2"})
def standard_input(spec: Spec, run: Run) -> None:
    """The command's standard input is the program's."""
    spec["process"]["args"] = ["/bin/wc", "-l"]


def _separate_errors(run: Run) -> Observed:
    done = run.run()
    return {"out": done.out, "err": done.err, "exit": str(done.code)}


@case(drive=_separate_errors, expect={"out": "one\n", "err": "two\n"})
def standard_error(spec: Spec, run: Run) -> None:
    """Standard output and error stay apart."""
    spec["process"]["args"] = ["/bin/sh", "-c", "echo one; echo two >&2"]


def _preserved(run: Run) -> Observed:
    read, write = os.pipe()
    try:
        os.dup2(write, 3)
        done = run.run("--preserve-fds", "1", pass_fds=(3,))
        os.dup2(2, 3)
        through = os.read(read, 100).decode() if select.select([read], [], [], 0)[0] else "nothing"
        return {**observed_of(done), "through": through}
    finally:
        os.close(read)
        os.close(write)


@case("process", sh={"write": "echo hello >&3"}, drive=_preserved)
def descriptors_preserved(spec: Spec, run: Run) -> None:
    """``--preserve-fds`` hands descriptors from 3 on to the program."""
    root_capabilities(spec)
