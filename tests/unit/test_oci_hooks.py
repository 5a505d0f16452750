"""The programs that a bundle calls hooks: run in order, with the state on standard input, failures explained."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from scow.linux.oci_hooks import HookFailed, run, run_all, state

BASE = {"ociVersion": "1.2.0", "id": "c1", "bundle": "/b", "annotations": {"a": "1"}}


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"], "timeout": 0, **more}


def failure(*hooks: dict[str, Any]) -> str:
    with pytest.raises(HookFailed) as caught:
        run("createRuntime", hooks, BASE)
    return str(caught.value)


def test_hooks_run_in_order_each_with_the_state_on_standard_input(tmp_path: Path) -> None:
    hooks = [shell(f"cat > {tmp_path}/{name}; echo {name} >> {tmp_path}/order") for name in ("first", "second")]
    run("createRuntime", hooks, state(BASE, "createRuntime", 7))
    assert (tmp_path / "order").read_text() == "first\nsecond\n"
    said = json.loads((tmp_path / "second").read_text())
    assert said == {**BASE, "status": "creating", "pid": 7}


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("prestart", "creating"),
        ("createContainer", "creating"),
        ("startContainer", "created"),
        ("poststart", "running"),
    ],
)
def test_the_state_says_where_in_its_life_the_container_is(kind: str, status: str) -> None:
    assert state(BASE, kind, 7)["status"] == status and state(BASE, kind, 7)["pid"] == 7


def test_the_state_of_a_stopped_container_has_no_pid() -> None:
    assert state(BASE, "poststop", 7) == {**BASE, "status": "stopped"}


def test_a_hook_has_its_arguments_its_environment_and_nothing_else_open(tmp_path: Path) -> None:
    hook = shell(f'(env; echo "$0 $1"; ls /proc/$$/fd) > {tmp_path}/seen', env=["A=1", "B=x=y"])
    hook["args"] += ["zero", "one"]
    run("createRuntime", [hook], BASE)
    seen = (tmp_path / "seen").read_text().split()
    assert {"A=1", "B=x=y", "zero", "one"} <= set(seen)
    assert not any(word.startswith(("PATH=", "HOME=")) for word in seen)
    assert set(seen) & {str(number) for number in range(3, 256)} <= {"10"}  # dash's own


def test_the_first_that_fails_is_named_with_its_status_and_its_last_words(tmp_path: Path) -> None:
    text = failure(shell("true"), shell("echo one; echo no such bridge >&2; exit 3"), shell(f"touch {tmp_path}/ran"))
    assert text == "error running createRuntime hook #1 (/bin/sh): exit status 3: one\nno such bridge"
    assert not (tmp_path / "ran").exists()


def test_what_a_hook_says_is_cut_to_its_end() -> None:
    text = failure(shell("i=0; while [ $i -lt 40000 ]; do echo line $i; i=$((i+1)); done; exit 1"))
    assert text.endswith("line 39999") and len(text) < 2300


def test_a_hook_that_a_signal_ends_fails() -> None:
    assert "killed by signal 9" in failure(shell("kill -9 $$"))


def test_a_hook_that_is_not_there_fails() -> None:
    text = failure({"path": "/no/such/hook", "args": ["hook"], "env": [], "timeout": 0})
    assert text == (
        "error running createRuntime hook #0 (/no/such/hook): exit status 127: "
        "cannot execute it: no such file or directory"
    )


def test_a_hook_that_hangs_is_killed_with_its_children_at_its_timeout(tmp_path: Path) -> None:
    begun = time.monotonic()
    text = failure(shell(f"echo begun; sleep 60 & echo $! > {tmp_path}/pid; wait", timeout=0.5))
    assert "it ran past its timeout of 0.5 s and was killed: begun" in text and time.monotonic() - begun < 20
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/cmdline").exists() and time.monotonic() < deadline:  # a reaper takes it away
        if "State:\tZ" in Path(f"/proc/{child}/status").read_text():
            break
        time.sleep(0.01)
    else:
        assert not Path(f"/proc/{child}").exists()


def test_a_child_that_a_hook_leaves_behind_holds_nobody_up() -> None:
    begun = time.monotonic()
    run("createRuntime", [shell("sleep 5 & exit 0")], BASE)
    assert time.monotonic() - begun < 4


def test_a_hook_need_not_read_its_state() -> None:
    run("createRuntime", [shell("exec <&-")], {**BASE, "annotations": {"long": "x" * 300_000}})


def test_hooks_that_only_warn_all_run(tmp_path: Path) -> None:
    problems = run_all("poststop", [shell("exit 1"), shell(f"touch {tmp_path}/ran"), shell("exit 2")], BASE)
    assert ["#0" in problems[0], "#2" in problems[1]] == [True, True] and (tmp_path / "ran").exists()
