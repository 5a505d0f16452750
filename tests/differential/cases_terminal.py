"""``process.terminal``: the terminal that ``--console-socket`` is sent."""

from __future__ import annotations

from collections.abc import Callable

from tests.differential import looks
from tests.differential.corpus import Drive, Observed, Spec, case
from tests.differential.run import Run, wait_for
from tests.differential.terminal import Console


def on_a_terminal(drive: Callable[[Run, Console], Observed]) -> Drive:
    """Runs *drive* with a console socket, its path in the options of create."""

    def with_console(run: Run) -> Observed:
        console = Console(run.folder / "console")
        run.extra = ["--console-socket", str(console.path)]
        try:
            return drive(run, console)
        finally:
            console.close()

    return with_console


def _on_terminal(run: Run, console: Console) -> Observed:
    observed = {"create": str(run.create().code)}
    console.take()
    observed["size"] = console.size()
    observed["start"] = str(run.start().code)
    observed["shown"] = console.read()
    return observed


_SHOW = (
    "tty; stty size; test -t 0 -a -t 1 -a -t 2 && echo all; stat -c '%A %u:%g' $(tty);"
    "stty -a | grep -o -- '-\\?onlcr';"
    "awk '{print ($5 == $1), ($6 == $1), ($7 != 0)}' /proc/$$/stat; ls -l /dev/console | awk '{print $1, $3, $4}'"
)


@case(drive=on_a_terminal(_on_terminal), sample=True)
def terminal(spec: Spec, run: Run) -> None:
    """A terminal: name, owner, controlling terminal, /dev/console."""
    spec["process"].update(terminal=True, args=["/bin/sh", "-c", _SHOW])


@case(drive=on_a_terminal(_on_terminal))
def terminal_with_a_size(spec: Spec, run: Run) -> None:
    """A terminal with ``consoleSize``."""
    spec["process"].update(terminal=True, args=["/bin/sh", "-c", _SHOW], consoleSize={"height": 33, "width": 77})


@case(drive=on_a_terminal(_on_terminal))
def terminal_of_a_user(spec: Spec, run: Run) -> None:
    """A terminal belongs to the user."""
    spec["process"].update(terminal=True, args=["/bin/sh", "-c", _SHOW], user={"uid": 8, "gid": 12})


@case("mount", drive=on_a_terminal(lambda run, console: _looked(run, console)))
def terminal_and_its_mounts(spec: Spec, run: Run) -> None:
    """What is mounted with a terminal."""
    spec["process"]["terminal"] = True


def _looked(run: Run, console: Console) -> Observed:
    observed = _on_terminal(run, console)
    return {**looks.parse(observed.pop("shown")), **observed}


def _typed(run: Run, console: Console) -> Observed:
    run.create()
    console.take()
    run.start()
    wait_for((run.root / "ready").exists)
    console.write("one\n\x03")
    return {"shown": console.read()}


@case(drive=on_a_terminal(_typed))
def terminal_with_input(spec: Spec, run: Run) -> None:
    """What is typed is echoed and read; the interrupt key sends SIGINT."""
    words = "trap 'echo interrupted; exit' INT; touch /ready; read x; echo got $x; while :; do sleep 0.05; done"
    spec["process"].update(terminal=True, args=["/bin/sh", "-c", words])


def _create_code(run: Run) -> Observed:
    return {"exit": str(run.create().code)}


@case(drive=_create_code)
def terminal_without_a_socket(spec: Spec, run: Run) -> None:
    """A terminal without ``--console-socket`` is an error of create."""
    spec["process"]["terminal"] = True


@case(drive=on_a_terminal(lambda run, console: _create_code(run)))
def socket_without_a_terminal(spec: Spec, run: Run) -> None:
    """``--console-socket`` without a terminal."""
