"""``hooks``: six kinds, each of which writes down what it sees."""

from __future__ import annotations

import json
from pathlib import Path

from tests.differential.bundle import bind
from tests.differential.corpus import Observed, Spec, case
from tests.differential.run import Run, to_the_end, wait_for, wait_gone

ON_THE_HOST = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
ALL = (*ON_THE_HOST[:3], "startContainer", *ON_THE_HOST[3:])


def hook(run: Run, kind: str, text: str = "", **more: object) -> Spec:
    """A hook that writes its state and *text*'s output into ``hooks.log``: of the bundle, or what is bound there."""
    log = "/hooks.log" if kind == "startContainer" else f"{run.folder}/hooks.log"
    said = f"{{ echo 'kind {kind}'; echo state $(cat); {text}\n}} 2>&1 | tr '\\n' '|'"
    write = f'said=$({said}); printf %s "$said" >> {log}'  # in one write: hooks of different kinds may run at a time
    return {"path": "/bin/sh", "args": ["sh", "-c", write], **more}


def with_hooks(spec: Spec, run: Run, *kinds: str, text: str = "") -> None:
    """*spec* has a hook of each of *kinds*, and the program says when it runs."""
    (run.folder / "hooks.log").write_text("")
    spec["mounts"].append(bind(run.folder / "hooks.log", "/hooks.log"))
    spec["process"]["args"] = ["/bin/sh", "-c", "printf 'kind program|' >> /hooks.log"]
    spec["hooks"] = {kind: [hook(run, kind, text)] for kind in kinds}


def logged(run: Run) -> Observed:
    """What the hooks wrote: their order, and what each saw. That of poststart and the program is left to chance."""
    observed: Observed = {}
    order: list[str] = []
    for line in (run.folder / "hooks.log").read_text().split("|"):
        word, _, rest = line.partition(" ")
        if word == "kind":
            order.append(rest)
        elif word == "state":
            state = json.loads(rest)
            keys = ("id", "status", "bundle", "annotations")
            said = [f"{key}={state[key]}" for key in keys if state.get(key)]
            observed[f"{order[-1]} state"] = " ".join([*said, "with a pid" if state.get("pid") else "without a pid"])
        elif word:
            observed[f"{order[-1]} {word}"] = rest
    return {**observed, "order": " ".join(kind for kind in order if kind != "poststart")}


def hooked(run: Run) -> Observed:
    """``run``, and what the hooks wrote."""
    observed = to_the_end(run)
    return {**observed, **logged(run)}


def _step_by_step(run: Run) -> Observed:
    observed = {"create": str(run.create().code), "created": logged(run)["order"]}
    observed["poststart at create"] = str("poststart state" in logged(run))
    pid = run.pid()
    observed["start"] = str(run.start().code)
    wait_gone(pid)
    wait_for(lambda: run.status() == "stopped")
    observed["started"] = logged(run)["order"]
    observed["delete"] = str(run.delete().code)
    return {**observed, **logged(run)}


@case(drive=_step_by_step, sample=True)
def hooks_of_all_kinds(spec: Spec, run: Run) -> None:
    """The six kinds in their order, each with the state on its standard input."""
    with_hooks(spec, run, *ALL)
    spec["annotations"] = {"com.example.word": "value"}


@case(drive=hooked)
def hooks_in_run(spec: Spec, run: Run) -> None:
    """The six kinds with ``run``."""
    with_hooks(spec, run, *ALL)


_SEES = """
echo cwd $(pwd)
echo host-name $(cat /proc/sys/kernel/hostname 2> /dev/null)
echo root $([ -e {root}/bin/busybox ] && echo seen)
echo mounted $([ -e {root}/dev/null ] && echo yes || echo no)
"""


@case(drive=hooked)
def hooks_and_what_they_see(spec: Spec, run: Run) -> None:
    """Working directory, UTS namespace, and whether the mounts are made."""
    with_hooks(spec, run, *ALL, text=_SEES.format(root=run.root))
    spec["hooks"]["startContainer"] = [hook(run, "startContainer", _SEES.format(root=""))]


@case(drive=hooked)
def hooks_with_environment(spec: Spec, run: Run) -> None:
    """A hook has the environment that it names, and no other."""
    with_hooks(spec, run, *ALL)
    text = "echo environ $(env | grep -v ^_= | sort | tr '\\n' ' ')"
    for kind in ALL:
        spec["hooks"][kind] = [hook(run, kind, text, env=["A=1", "PATH=/usr/bin:/bin"])]


@case(drive=hooked)
def hooks_of_one_kind(spec: Spec, run: Run) -> None:
    """Two hooks of a kind, one after the other."""
    with_hooks(spec, run)
    spec["hooks"]["createRuntime"] = [hook(run, "createRuntime", f"echo {word} yes") for word in ("first", "second")]


def _failing(kind: str) -> None:
    def change(spec: Spec, run: Run) -> None:
        with_hooks(spec, run, *ALL)
        spec["hooks"][kind].insert(0, {"path": "/bin/sh", "args": ["sh", "-c", "echo no >&2; exit 3"]})

    change.__name__ = f"hook_that_fails_{kind.lower()}"
    change.__doc__ = f"A hook of kind {kind} that fails."
    case(drive=hooked, expect={"exit": "0"} if kind.startswith("post") else {})(change)


for _kind in ALL:
    _failing(_kind)


@case(drive=hooked)
def hook_that_hangs(spec: Spec, run: Run) -> None:
    """A hook that takes longer than its timeout of a second."""
    with_hooks(spec, run, "poststop")
    spec["hooks"]["createRuntime"] = [{"path": "/bin/sh", "args": ["sh", "-c", "exec sleep 30"], "timeout": 1}]


@case(drive=hooked)
def hook_missing(spec: Spec, run: Run) -> None:
    """A hook whose program is not there."""
    with_hooks(spec, run)
    spec["hooks"]["createRuntime"] = [{"path": "/bin/no-such-hook"}]


@case(expect={"exit": "1"})
def hook_with_a_relative_path(spec: Spec, run: Run) -> None:
    """A hook's path has to be absolute (config.md, "POSIX-platform Hooks")."""
    Path(run.folder, "true").symlink_to("/bin/true")
    spec["hooks"] = {"createRuntime": [{"path": "true"}]}
