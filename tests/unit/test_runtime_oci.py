"""The runtime `oci` without a program: configurations, causes, options, and control groups from plain files."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from scow.errors import DriverUnusable, InvalidArgument, NotFound
from scow.linux.hierarchies import Hierarchies
from scow.ports import DriverContext, Mount
from scow_runtime_oci import OciRuntime, bundle, cgroup, child, maker, options, program, stats

SPEC: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0, "username": "web", "groups": ["10"]}},
    "root": {"path": "elsewhere", "readonly": True},
    "hostname": "",
    "mounts": [],
    "annotations": {"a": "b"},
    "linux": {"namespaces": []},
}
ID = "c" * 64


def configured(**changes: Any) -> dict[str, Any]:
    return bundle.configuration({**SPEC, **changes}, "/b/rootfs", "/scow/x", "/usr/bin/tini-static")


def runtime(tmp_path: Path, hierarchies: Hierarchies, **given: Any) -> OciRuntime:
    context = DriverContext("crun", tmp_path / "state", tmp_path / "run", given, {"cgroup_parent": "p"}, "e")
    context.run_dir.mkdir(parents=True)
    return OciRuntime(context, hierarchies)


def test_the_configuration_is_one_that_every_program_reads() -> None:
    config = configured()
    assert config["ociVersion"].startswith("1.0")
    assert config["root"] == {"path": "/b/rootfs", "readonly": True}
    assert config["linux"]["cgroupsPath"] == "/scow/x"
    assert "hostname" not in config and "rootfsPropagation" not in config["linux"]


def test_no_limit_of_processes_is_not_written_to_a_new_cgroup() -> None:
    for limit, kept in ((-1, {}), (0, {}), (9, {"pids": {"limit": 9}})):
        config = configured(linux={"resources": {"pids": {"limit": limit}, "memory": {"limit": 5}}})
        assert config["linux"]["resources"] == {"memory": {"limit": 5}, **kept}


def test_init_is_a_program_of_the_host_before_the_containers_own() -> None:
    config = configured(annotations={"scow.init": "true", "a": "b"})
    assert config["process"]["args"] == ["/sbin/docker-init", "--", "sh"]
    assert config["annotations"] == {"a": "b"}
    assert config["mounts"][-1]["source"] == "/usr/bin/tini-static" and "ro" in config["mounts"][-1]["options"]
    with pytest.raises(InvalidArgument, match="no program for --init"):
        bundle.configuration({**SPEC, "annotations": {"scow.init": "true"}}, "/b/rootfs", "/scow/x", "")


@pytest.mark.parametrize(
    ("word", "wanted"), [("rshared", "shared"), ("slave", "rslave"), ("rprivate", None), ("ro", None)]
)
def test_the_root_propagates_as_much_as_its_volumes_ask_for(word: str, wanted: str | None) -> None:
    mount = {"destination": "/v", "type": "bind", "source": "/v", "options": ["rbind", word]}
    assert configured(mounts=[mount])["linux"].get("rootfsPropagation") == wanted


@pytest.mark.parametrize(
    ("process", "message"), [({"args": []}, "no command"), ({"args": ["x"], "cwd": "a"}, "working directory 'a'")]
)
def test_a_process_that_cannot_be_run_is_refused(process: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        bundle.process(process)


def test_names_of_users_become_the_roots_numbers(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("web:x:33:34:web:/srv:/bin/sh\n")
    (tmp_path / "etc/group").write_text("wheel:x:10:web\n")
    root = os.open(tmp_path, os.O_PATH)
    try:
        found = maker.identified({**SPEC["process"], "env": ["A=1"]}, root)
        kept = maker.identified({**SPEC["process"], "env": ["HOME=/own"]}, root)
    finally:
        os.close(root)
    assert found["user"] == {"uid": 33, "gid": 34, "additionalGids": [34, 10]}
    assert found["env"] == ["A=1", "HOME=/srv"] and kept["env"] == ["HOME=/own"]


@pytest.mark.parametrize(
    ("said", "kind", "shown"),
    [
        ('runc create failed: … exec: "x": executable file not found in $PATH', "not_found", "not found in $PATH"),
        ('… exec: "/x": stat /x: no such file or directory', "not_found", "no such file"),
        ("executable file `x` not found in $PATH: No such file or directory", "not_found", "executable file not found"),
        ('… exec: "/etc/passwd": permission denied', "cannot_run", "permission denied"),
        ("open executable: Permission denied", "cannot_run", "permission denied"),
        ("open executable: Operation not permitted", "cannot_run", "permission denied"),
        ('exec failed: … chdir to cwd ("/x") set in config.json failed: no such file or directory', "cannot_run", "/x"),
        ("mount /a: no such file or directory", "setup", "mount /a"),
        (json.dumps({"level": "error", "msg": "hook `/x` (exit code: 1)"}), "setup", "hook `/x` (exit code: 1)"),
        ("cgroups in hybrid mode not supported, drop all controllers from cgroupv2", "setup", "hide_unified: true"),
    ],
)
def test_the_cause_is_the_programs_last_error_and_gives_dockers_exit_codes(
    tmp_path: Path, said: str, kind: str, shown: str
) -> None:
    log = tmp_path / "log"
    lines = [{"level": "error", "msg": "before"}, {"level": "error", "msg": said}, {"level": "warning", "msg": "after"}]
    log.write_text("\n".join([*map(json.dumps, lines), "no json"]))
    found = program.cause(str(log), 1)
    assert found.kind == kind and shown in found.message and '"msg"' not in found.message


def test_without_a_log_the_cause_is_how_the_program_ended(tmp_path: Path) -> None:
    assert program.cause(str(tmp_path / "none"), 3).message == "it ended with exit code 3"
    assert program.cause(str(tmp_path / "none"), -signal.SIGKILL).message == "it was killed by signal 9"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"comand": "runc"}, "unknown option 'comand'; valid options: arguments, command, hide_unified, init"),
        ({"command": ""}, "option command"),
        ({"arguments": "--debug"}, "option arguments"),
        ({"arguments": ["--root=/x"]}, "--root is not for users"),
        ({"arguments": ["--systemd-cgroup"]}, "--systemd-cgroup is not for users"),
        ({"hide_unified": "yes"}, "option hide_unified"),
        ({"init": 1}, "option init"),
    ],
)
def test_a_wrong_option_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        options.parse(given)


def test_a_program_that_is_missing_makes_the_runtime_unusable(tmp_path: Path) -> None:
    made = runtime(tmp_path, Hierarchies(v2="/none"), command="no-such-program")
    with pytest.raises(DriverUnusable) as caught:
        made.check()
    if os.geteuid() == 0:
        assert caught.value.message == "there is no program 'no-such-program'"
        assert caught.value.hint is not None and "runtime.crun" in caught.value.hint
    assert made.info().path == "no-such-program"


def test_a_plan_is_made_of_the_bundle_and_the_record_goes_with_delete(tmp_path: Path) -> None:
    made = runtime(tmp_path, Hierarchies(v2=str(tmp_path / "cg")), command="sh", arguments=["--x"])
    folder = tmp_path / "bundle"
    folder.mkdir()
    plan = json.loads(json.dumps(made.create(ID, SPEC, [Mount("overlay", "overlay")], folder)))
    assert plan["command"][1:] == ["--x", "--root", str(tmp_path / "run/state")]
    assert plan["oom_file"] == f"{tmp_path}/cg/p/e.crun/{ID}/memory.events"
    assert (folder / "config.json").stat().st_mode & 0o777 == 0o600
    assert made.list() == [ID]
    assert made.exec(ID, SPEC, SPEC["process"])["bundle"] == str(folder)
    with pytest.raises(NotFound):
        made.stats(ID)
    made.delete(ID)
    made.delete(ID)
    assert made.list() == [] and os.listdir(folder) == []
    with pytest.raises(NotFound, match="has no container"):
        made.pause(ID)


def test_a_cgroup_of_systemd_is_refused_and_shared_volumes_do_not_go_with_a_hidden_hierarchy(tmp_path: Path) -> None:
    made = runtime(tmp_path, Hierarchies(v2=str(tmp_path)), command="sh", hide_unified=True)
    with pytest.raises(InvalidArgument, match="is for systemd"):
        made.create(ID, {**SPEC, "linux": {"cgroupsPath": "a.slice:b:c"}}, [], tmp_path)
    shared = {"destination": "/v", "type": "bind", "source": "/v", "options": ["rbind", "rshared"]}
    with pytest.raises(InvalidArgument, match="'crun' cannot share the mounts"):
        made.create(ID, {**SPEC, "mounts": [shared]}, [], tmp_path)
    assert made.list() == []


@pytest.mark.parametrize(
    ("controllers", "first"),
    [(("memory", "freezer"), "/cg/freezer"), (("cpu", "memory"), "/cg/memory"), (("net_cls",), "/cg/unified")],
)
def test_processes_are_asked_of_the_hierarchy_with_the_limits(controllers: tuple[str, ...], first: str) -> None:
    v1 = {name: f"/cg/{name}" for name in controllers} | {"cpuacct": "/cg/net_cls"}
    mounts = cgroup.mounts(Hierarchies(v1, "/cg/unified"))
    assert mounts[0] == first
    assert sorted(mounts) == sorted({*v1.values(), "/cg/unified"})


def test_statistics_of_version_2_have_dockers_keys(tmp_path: Path) -> None:
    group = tmp_path / "g"
    group.mkdir()
    for name, text in {
        "cpu.stat": "usage_usec 7\nuser_usec 4\nsystem_usec 3\nnr_periods 2\nnr_throttled 1\nthrottled_usec 5\n",
        "memory.current": "4096\n",
        "memory.max": "max\n",
        "memory.stat": "anon 1\n",
        "pids.current": "3\n",
        "pids.max": "20\n",
        "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
        "memory.events": "oom 1\noom_kill 1\n",
    }.items():
        (group / name).write_text(text)
    hierarchies = Hierarchies(v2=str(tmp_path))
    found = stats.sample(hierarchies, "g")
    assert found["cpu_stats"]["cpu_usage"]["total_usage"] == 7000
    assert found["cpu_stats"]["throttling_data"] == {"periods": 2, "throttled_periods": 1, "throttled_time": 5000}
    assert found["memory_stats"]["usage"] == 4096 and found["memory_stats"]["limit"] > 1 << 20
    assert found["pids_stats"] == {"current": 3, "limit": 20}
    assert [row["value"] for row in found["blkio_stats"]["io_service_bytes_recursive"]] == [1, 2]
    assert cgroup.oom_kills(hierarchies, "g") == 1 and child.oom_killed({"oom_file": str(group / "memory.events")})
    assert not child.oom_killed({"oom_file": ""})
