"""``scow-runtime`` without root: its grammar, and what it makes of words and bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scow.errors import Conflict, InvalidArgument, NotFound
from scow_runtime_native.command import bundle, events, execs, limits, main, signals, store, template
from scow_runtime_native.command.grammar import COMMANDS, GLOBAL


def test_flags_are_read_as_go_programs_read_them() -> None:
    values, arguments = COMMANDS["create"].parse(["-b", "x", "-pid-file=p", "c", "--no-new-keyring"])
    assert (values["bundle"], values["pid_file"], values["no_new_keyring"], arguments) == ("x", "p", True, ["c"])
    values, arguments = COMMANDS["kill"].parse(["--all=false", "c", "9"])
    assert (values["all"], arguments) == (False, ["c", "9"])
    values, rest = GLOBAL.parse(["--root", "r", "run", "--detach", "c"])
    assert (values["root"], rest) == ("r", ["run", "--detach", "c"])


def test_what_follows_the_container_of_exec_is_its_command_line() -> None:
    values, arguments = COMMANDS["exec"].parse(["-e", "A=b", "--env", "C=d", "c", "ls", "-t", "--", "x"])
    assert values["env"] == ["A=b", "C=d"] and not values["tty"]
    assert arguments == ["c", "ls", "-t", "--", "x"]


@pytest.mark.parametrize(
    ("name", "words", "text"),
    [
        ("create", ["--nope", "c"], "unknown flag '--nope'"),
        ("create", [], "too few arguments"),
        ("create", ["c", "d"], "unexpected argument 'd'"),
        ("create", ["c", "--bundle"], "needs a value"),
        ("create", ["--preserve-fds", "x", "c"], "is not a number"),
        ("delete", ["--force=perhaps", "c"], "neither true nor false"),
    ],
)
def test_a_bad_command_line_is_refused(name: str, words: list[str], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        COMMANDS[name].parse(words)


def test_every_command_has_a_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--help"]) == 0
    overview = capsys.readouterr().out
    for name in COMMANDS:
        assert f"  {name} " in overview
        assert main.main([name, "--help"]) == 0
        assert f"usage: scow-runtime {name}" in capsys.readouterr().out


def test_an_unknown_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["frob"]) == 1
    assert "unknown command 'frob'" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "number"), [("9", 9), ("KILL", 9), ("sigterm", 15), ("RTMIN+3", 37), ("0", 0)])
def test_signals_have_names_and_numbers(text: str, number: int) -> None:
    assert signals.number(text) == number


@pytest.mark.parametrize("text", ["65", "NOPE", "KILL+", "", "SIG", "-1"])
def test_an_unknown_signal_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="unknown signal"):
        signals.number(text)


def test_a_bundle_gets_what_runc_adds(tmp_path: Path) -> None:
    spec = template.configuration()
    spec["mounts"].append({"destination": "/d", "source": "data", "options": ["rbind"]})
    (tmp_path / "config.json").write_text(json.dumps(spec))
    loaded, _ = bundle.load(str(tmp_path))
    assert loaded["mounts"][-1]["source"] == f"{tmp_path}/data"
    rules = loaded["linux"]["resources"]["devices"]
    assert rules[0] == {"allow": False, "access": "rwm"}
    assert {"allow": True, "type": "c", "major": 5, "minor": 2, "access": "rwm"} in rules


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ociVersion": "2.1.0"}, "runtime-spec version 2.1.0"),
        ({"ociVersion": None}, "no ociVersion"),
        ({"process": None}, "no process"),
        ({"process": []}, "process is not an object"),
        ({"process": {"args": ["x"]}}, "no process.cwd"),
        ({"root": {}}, "no root.path"),
        *(({key: {"x": 1}}, "another platform") for key in ("windows", "vm", "solaris", "zos")),
    ],
)
def test_a_bad_configuration_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        bundle.check({**template.configuration(), **change}, "config.json")


def test_sizes_and_durations() -> None:
    assert [limits.amount("memory", text) for text in ("512m", "1GB", "2KiB", "7", "-1")] == [
        512 << 20,
        1 << 30,
        2048,
        7,
        -1,
    ]
    assert [events.seconds(text) for text in ("5s", "500ms", "1.5m")] == [5.0, 0.5, 90.0]
    with pytest.raises(InvalidArgument):
        limits.amount("memory", "much")
    with pytest.raises(InvalidArgument):
        events.seconds("5")


def test_an_exec_is_the_containers_process_with_what_the_flags_say() -> None:
    values, _ = COMMANDS["exec"].parse(["-u", "5", "-e", "A=b", "--cap", "CAP_KILL", "--no-new-privs", "c", "x"])
    base = {"args": ["sh"], "env": ["P=q"], "cwd": "/w", "user": {"uid": 0, "gid": 7}, "terminal": True}
    process = execs.process_of(base, values, ["x", "y"])
    assert process["args"] == ["x", "y"] and process["env"] == ["P=q", "A=b"] and process["cwd"] == "/w"
    assert process["user"] == {"uid": 5, "gid": 7} and process["noNewPrivileges"] and not process["terminal"]
    assert process["capabilities"]["effective"] == ["CAP_KILL"]
    assert base["env"] == ["P=q"]
    with pytest.raises(InvalidArgument, match="no command"):
        execs.process_of(base, values, [])


def test_the_process_of_a_file_has_the_containers_capabilities_where_it_names_none(tmp_path: Path) -> None:
    values = COMMANDS["exec"].parse(["--process", str(tmp_path / "p.json"), "c"])[0]
    base = {"capabilities": {"bounding": ["CAP_KILL"]}, "noNewPrivileges": True}
    (tmp_path / "p.json").write_text('{"args": ["x"], "cwd": "/"}')
    of_base = {"args": ["x"], "cwd": "/", "capabilities": {"bounding": ["CAP_KILL"]}}
    assert execs.process_of(base, values, []) == of_base
    (tmp_path / "p.json").write_text('{"args": ["x"], "cwd": "/", "capabilities": {}}')
    assert execs.process_of(base, values, [])["capabilities"] == {}
    (tmp_path / "p.json").write_text('{"args": ["x"]}')
    with pytest.raises(InvalidArgument, match=r"p.json has no cwd"):
        execs.process_of(base, values, [])


def test_what_no_rule_of_a_bundle_allows_is_no_device(tmp_path: Path) -> None:
    rules = bundle.completed({}, str(tmp_path))["linux"]["resources"]["devices"]
    assert rules[0] == {"allow": False, "access": "rwm"}
    assert all(rule["allow"] for rule in rules[1:])


def test_the_user_name_for_windows_is_ignored(tmp_path: Path) -> None:
    process = {"args": ["x"], "user": {"uid": 1, "gid": 2, "username": "root", "groups": ["root"]}}
    of_linux = {"args": ["x"], "user": {"uid": 1, "gid": 2}}
    assert bundle.for_linux(process) == of_linux == bundle.completed({"process": process}, str(tmp_path))["process"]
    assert bundle.for_linux({"user": None}) == {"user": {}}


def test_a_group_below_the_containers_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "cpu" / "c" / "sub").mkdir(parents=True)
    (tmp_path / "pids" / "c").mkdir(parents=True)
    folders = {name: f"{tmp_path}/{name}/c" for name in ("cpu", "pids")}
    record = {
        "version": 1,
        "tasks": [f"{folder}/tasks" for folder in folders.values()],
        "hierarchies": [[name, folder] for name, folder in folders.items()],
    }
    assert execs.below(record, "cpu:sub")["tasks"] == [f"{folders['cpu']}/sub/tasks", f"{folders['pids']}/tasks"]
    with pytest.raises(InvalidArgument, match="there is no"):
        execs.below(record, "sub")
    assert execs.below(record, "../..") == record


def test_a_container_is_claimed_once(tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    with store.claimed(root, "c") as container:
        assert store.find(root, "c").status() == "creating"
        with pytest.raises(Conflict, match="by another command"), store.claimed(root, "c"):
            pass
        container.record = {"id": "c", "pid": 0}
        container.save()
    with pytest.raises(Conflict, match="exists"), store.claimed(root, "c"):
        pass
    assert store.find(root, "c").status() == "stopped"
    assert store.all_ids(root) == ["c"]
    store.find(root, "c").forget()
    with pytest.raises(NotFound):
        store.find(root, "c")


def test_a_pid_that_is_another_process_now_is_a_stopped_container(tmp_path: Path) -> None:
    container = store.Container(str(tmp_path), "c")
    (tmp_path / "c").mkdir()
    container.record = {"id": "c", "pid": 1, "start_ticks": 1 << 60}
    container.save()
    assert container.status() == "stopped"
    container.record["start_ticks"] = store.start_ticks(1)
    assert container.status() == "running"
