"""The operations of runtime.md: what each answers in each state, and what a container leaves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from tests.differential.corpus import Drive, Observed, Spec, case
from tests.differential.run import Run, observed_of, reap, to_the_end, wait_for, wait_gone

SLEEP = ["/bin/sleep", "60"]


def sleeping(spec: Spec, run: Run) -> None:
    spec["process"]["args"] = SLEEP


def steps(*wanted: str) -> Drive:
    """Takes *wanted* steps, words of a command line each: exit code and status after every one."""

    def drive(run: Run) -> Observed:
        observed = {}
        for number, step in enumerate(wanted, 1):
            observed[f"{number} {step}"] = f"{_step(run, step.split())} {run.status()}"
        return observed

    return drive


def _step(run: Run, words: list[str]) -> int:
    command, options = words[0], words[1:]
    if command in ("create", "run"):
        return run.command(*words, "--bundle", str(run.folder), run.id).code
    if command == "kill":
        pid = run.pid()
        flags = [word for word in options if word.startswith("--")]
        code = run.command("kill", *flags, run.id, *(word for word in options if word not in flags)).code
        if code == 0 and (options or ["TERM"])[-1] in ("KILL", "SIGKILL", "9"):
            wait_gone(pid)
            wait_for(lambda: run.status() in ("stopped", "none"))
        return code
    if command == "delete":
        return run.delete(*options).code
    if command == "update":
        return run.command(*words, run.id).code
    return run.command(command, run.id, *options).code


def _case(
    name: str, about: str, *wanted: str, sample: bool = False, change: Callable[[Spec, Run], None] = sleeping
) -> None:
    def changes(spec: Spec, run: Run) -> None:
        change(spec, run)

    changes.__name__, changes.__doc__ = name, about
    case(drive=steps(*wanted), sample=sample)(changes)


_case("life", "A life from create to delete.", "create", "start", "kill KILL", "delete", sample=True)
_case("start_twice", "A container is started once.", "create", "start", "start", "kill 9", "start")
_case("create_twice", "An id is taken by one container.", "create", "create", "start", "run")
_case("kill_created", "A created container is killed.", "create", "kill KILL", "start", "delete")
_case("kill_stopped", "A stopped container cannot be killed.", "create", "start", "kill SIGKILL", "kill KILL", "delete")
_case("kill_with_an_odd_signal", "Unknown signals.", "run --detach", "kill FLY", "kill 0", "kill 70")
_case("kill_all", "``kill --all``.", "run --detach", "kill --all KILL", "delete")
_case("kill_without_a_signal", "The default signal is SIGTERM.", "run --detach", "kill", "kill KILL")
_case("delete_created", "A created container is deleted with its process.", "create", "delete", "delete", sample=True)
_case("delete_running", "A running container is deleted only by force.", "run --detach", "delete", "delete --force")
_case("operations_on_nothing", "An id that nobody has.", "state", "start", "kill TERM", "delete", "delete --force",
      "pause", "resume", "ps", "exec true", "update --pids-limit 3")  # fmt: skip
_case("pause_created", "A created container is paused.", "create", "pause", "resume", "start", "kill KILL", "pause",
      sample=True)  # fmt: skip
_case("start_while_paused", "A paused container is started.", "create", "pause", "start", "resume")
_case("exec_in_each_state", "exec before, in and after the run.", "create", "exec /bin/true", "start",
      "exec /bin/true", "kill KILL", "exec /bin/true")  # fmt: skip
_case("update_in_each_state", "update before, in and after the run.", "create", "update --pids-limit 5", "start",
      "update --pids-limit 6", "kill KILL", "update --pids-limit 7")  # fmt: skip
_case("command_unknown", "A command that nobody knows.", "fly")
_case("option_unknown_of_run", "An option that nobody knows.", "run --fly")


def _state_at_each_step(run: Run) -> Observed:
    observed = {}

    def look(when: str) -> None:
        state = run.state()
        pid = state.pop("pid", None)
        observed[f"{when} pid"] = "none" if not pid else "alive" if Path(f"/proc/{pid}").exists() else "gone"
        for key in ("ociVersion", "id", "status", "bundle", "rootfs", "annotations", "owner"):
            observed[f"{when} {key}"] = json.dumps(state.get(key))
        observed[f"{when} created"] = str(bool(state.get("created")))
        observed[f"{when} more"] = " ".join(sorted(set(state) - _STATE))

    run.create()
    look("created")
    pid = run.pid()
    run.start()
    look("running")
    run.kill("KILL")
    wait_gone(pid)
    wait_for(lambda: run.status() == "stopped")
    look("stopped")
    return observed


_STATE = {"ociVersion", "id", "status", "pid", "bundle", "rootfs", "annotations", "owner", "created"}


@case(drive=_state_at_each_step, sample=True)
def state_in_each_state(spec: Spec, run: Run) -> None:
    """The answer of ``state``."""
    sleeping(spec, run)
    spec["annotations"] = {"com.example.key": "value", "other": ""}


def _listed(run: Run) -> Observed:
    run.run("--detach")
    observed = {"quiet": run.command("list", "--quiet").out.strip()}
    entry = json.loads(run.command("list", "--format", "json").out)[0]
    for key in ("id", "status", "bundle", "owner"):
        observed[key] = str(entry.get(key))
    observed["pid"] = str(entry.get("pid") == run.pid())
    lines = run.command("list").out.splitlines()
    observed["header"] = " ".join(lines[0].split())
    observed["lines"] = str(len(lines))
    return observed


@case(drive=_listed)
def listed(spec: Spec, run: Run) -> None:
    """``list`` as a table, as JSON and of ids."""
    sleeping(spec, run)


def _nothing_listed(run: Run) -> Observed:
    done = run.command("list", "--quiet")
    return {"exit": str(done.code), "out": done.out, "json": str(run.command("list", "--format", "json").code)}


@case(drive=_nothing_listed)
def nothing_listed(spec: Spec, run: Run) -> None:
    """``list`` where there is nothing."""


def _processes(run: Run) -> Observed:
    run.run("--detach")
    wait_for((run.root / "ready").exists)
    done = run.command("ps", "--format", "json", run.id)
    pids = json.loads(done.out) if done.code == 0 else []
    table = run.command("ps", run.id)
    lines = table.out.splitlines()
    return {
        "json": f"{done.code} {len(pids)} {run.pid() in pids}",
        "table": f"{table.code} {len(lines)} {' '.join(lines[0].split()) if lines else ''}",
    }


@case(drive=_processes, sample=True)
def processes(spec: Spec, run: Run) -> None:
    """``ps`` as a table and as JSON."""
    spec["process"]["args"] = ["/bin/sh", "-c", "sleep 60 & touch /ready; wait"]


def _pid_file(run: Run) -> Observed:
    path = run.folder / "pid"
    done = run.create("--pid-file", str(path))
    content = path.read_text()
    return {"exit": str(done.code), "same": str(content == str(run.pid())), "mode": oct(path.stat().st_mode & 0o777)}


def _statistics(run: Run) -> Observed:
    run.run("--detach")
    done = run.command("events", "--stats", run.id)
    observed = {"exit": str(done.code)}
    if done.code == 0:
        event = json.loads(done.out)
        data = event["data"]
        observed |= {"event": f"{event['type']} {event['id']}", "pids": json.dumps(data["pids"], sort_keys=True)}
        observed |= {"memory": " ".join(sorted(data["memory"].keys() - {"cache"}))}  # runc leaves out what is 0
        observed |= {"memory.usage": " ".join(sorted(data["memory"]["usage"]))}
        observed |= {"limit": str(data["memory"]["usage"]["limit"]), "cpu": " ".join(sorted(data["cpu"]["usage"]))}
    return observed


@case(drive=_statistics)
def statistics(spec: Spec, run: Run) -> None:
    """``events --stats``: which numbers there are."""
    sleeping(spec, run)
    spec["linux"]["resources"].update(memory={"limit": 64 << 20}, pids={"limit": 20}, cpu={"quota": 50000})


@case(drive=_pid_file)
def pid_file(spec: Spec, run: Run) -> None:
    """``--pid-file``."""
    sleeping(spec, run)


def _with_arguments(*words: str) -> Drive:
    def drive(run: Run) -> Observed:
        return {"exit": str(run.command(*words).code)}

    return drive


@case(drive=_with_arguments("create", "--bundle", "/nothing", "case"))
def bundle_missing(spec: Spec, run: Run) -> None:
    """A bundle that is not there."""


@case(drive=_with_arguments("run", "a b"))
def id_with_a_space(spec: Spec, run: Run) -> None:
    """An id with a space is refused."""


@case(drive=_with_arguments("run", "../case"))
def id_that_leads_out(spec: Spec, run: Run) -> None:
    """An id with slashes is refused."""


@case(drive=_with_arguments("run", "case", "more"))
def too_many_arguments(spec: Spec, run: Run) -> None:
    """A word too much."""


@case(drive=_with_arguments("run"))
def too_few_arguments(spec: Spec, run: Run) -> None:
    """No id."""


def _in_the_bundle(run: Run) -> Observed:
    return observed_of(run.command("run", run.id))


@case(drive=_in_the_bundle, expect={"out": "here"})
def bundle_is_the_working_directory(spec: Spec, run: Run) -> None:
    """Without ``--bundle`` the working directory is it."""
    spec["process"]["args"] = ["/bin/echo", "here"]


def _raw_configuration(text: str) -> Drive:
    def drive(run: Run) -> Observed:
        (run.folder / "config.json").write_text(text)
        return to_the_end(run)

    return drive


@case(drive=_raw_configuration("{"))
def configuration_is_no_json(spec: Spec, run: Run) -> None:
    """A configuration that is no JSON."""


@case(drive=_raw_configuration("{}"))
def configuration_empty(spec: Spec, run: Run) -> None:
    """A configuration without content."""


@case()
def version_absent(spec: Spec, run: Run) -> None:
    """A configuration without ``ociVersion``."""
    del spec["ociVersion"]


@case()
def version_newer(spec: Spec, run: Run) -> None:
    """A newer minor version is taken."""
    spec["ociVersion"] = "1.2.0"


@case()
def version_of_the_future(spec: Spec, run: Run) -> None:
    """Another major version."""
    spec["ociVersion"] = "2.0.0"


@case()
def properties_unknown(spec: Spec, run: Run) -> None:
    """Properties that nobody knows are passed over (config.md, "Extensibility")."""
    spec.update({"x-unknown": {"a": 1}, "annotations": {"x": "y"}})
    spec["linux"]["unknownThing"] = [1]


@case()
def linux_absent(spec: Spec, run: Run) -> None:
    """No ``linux`` at all."""
    del spec["linux"]
    del spec["hostname"]


@case()
def process_absent(spec: Spec, run: Run) -> None:
    """No ``process``."""
    del spec["process"]


@case()
def root_absent(spec: Spec, run: Run) -> None:
    """No ``root``."""
    del spec["root"]


def _created_with_missing(run: Run) -> Observed:
    created = run.create()
    observed = {"create": str(created.code), "status": run.status()}
    if created.code == 0:
        pid = run.pid()
        observed["start"] = str(run.start().code)
        wait_gone(pid)
    return observed


@case(drive=_created_with_missing)
def program_missing_at_create(spec: Spec, run: Run) -> None:
    """A program that is not there: whether create or start says so."""
    spec["process"]["args"] = ["/bin/nothing"]


@case(drive=_created_with_missing)
def program_not_executable_at_create(spec: Spec, run: Run) -> None:
    """A program that may not be executed: whether create or start says so."""
    spec["process"]["args"] = ["/etc/passwd"]


def _orphans(run: Run) -> Observed:
    run.run("--detach")
    wait_for((run.root / "ready").exists)
    pid = run.pid()
    child = int((run.root / "ready").read_text() or 0)
    run.kill("KILL")
    wait_gone(pid)
    wait_for(lambda: run.status() == "stopped")
    before = _lives(child)
    code = run.delete("--force").code
    wait_for(lambda: not _lives(child), 2.0)
    return {"delete": str(code), "child before": str(before), "child after": str(_lives(child))}


def _lives(pid: int) -> bool:
    reap()
    return pid > 0 and os.path.exists(f"/proc/{pid}")


@case(drive=_orphans)
def children_without_a_pid_namespace(spec: Spec, run: Run) -> None:
    """Without a process namespace, the children of a killed program end with its deletion."""
    spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != "pid"]
    spec["process"]["args"] = ["/bin/sh", "-c", "sleep 60 & echo $! > /r && mv /r /ready; wait"]
