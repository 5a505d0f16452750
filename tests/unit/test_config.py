from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scow import config
from scow.config import DEFAULT_DRIVERS, PARSERS, SECTIONS, VARIABLES, Config, RegistryConfig, flag_name, load
from scow.errors import InvalidArgument, NotFound, Unavailable


@pytest.fixture(autouse=True)
def no_file_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "none.yaml")


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_defaults_need_no_file() -> None:
    found = load(None, {}, {})
    assert found.data_root == Path("/var/lib/scow")
    assert found.hosts == ("unix:///run/scow/scow.sock",)
    assert found.drivers == DEFAULT_DRIVERS
    assert found.file is None
    assert found.origin("drivers.storage") == "default"


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    file = written(tmp_path, "data_root: /file\nbridge_name: br-file\ndrivers: {storage: f, network: f, log: f}\n")
    environ = {"SCOW_STORAGE_DRIVER": "e", "SCOW_NETWORK_DRIVER": "e", "SCOW_DATA_ROOT": "/env"}
    found = load(file, environ, {"drivers.storage": "flag", "data_root": Path("/flag"), "debug": None})
    assert (found.data_root, found.bridge_name) == (Path("/flag"), "br-file")
    assert [found.drivers[kind] for kind in ("storage", "network", "log", "volume")] == ["flag", "e", "f", "local"]
    assert found.origin("drivers.storage") == "--storage-driver"
    assert found.origin("drivers.network") == "SCOW_NETWORK_DRIVER"
    assert found.origin("drivers.log") == str(file)
    assert found.origin("data_root") == "--data-root"
    assert found.origin("debug") == "default"


def test_the_socket_follows_the_run_root() -> None:
    assert load(None, {"SCOW_RUN_ROOT": "/x"}, {}).hosts == ("unix:///x/scow.sock",)
    assert load(None, {"SCOW_RUN_ROOT": "/x", "SCOW_HOSTS": "tcp://127.0.0.1:1"}, {}).hosts == ("tcp://127.0.0.1:1",)


def test_everything_that_a_file_can_hold(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        hosts: [unix:///a.sock, "tcp://127.0.0.1:2376"]
        tls: {ca: /ca.pem, cert: /cert.pem, key: /key.pem}
        options: {storage.overlay: {mount_options: [metacopy=on]}}
        plugins: {disabled: [scow-audit], enabled: false}
        registries:
          127.0.0.1:5000: {insecure: true}
          docker.io: {mirrors: [mirror.example.com]}
          docker.io/library: {mirrors: [mirror.example.com/hub]}
        certs_dir: /etc/certs
        proxy: {https: "http://user:secret@proxy:3128", no_proxy: [.example.com, 10.0.0.0/8]}
        log_options: {max-size: 10m, max-file: 3}
        subnet_pool: [10.1.0.0/16, 10.2.0.0/16]
        cgroup_parent: /a/b
        debug: yes
        """,
    )
    found = load(None, {"SCOW_CONFIG": str(file)}, {})
    assert found.file == file
    assert found.tls.key == Path("/key.pem")
    assert found.options["storage.overlay"] == {"mount_options": ["metacopy=on"]}
    assert (found.plugins.disabled, found.plugins.enabled) == (("scow-audit",), False)
    assert found.registries["127.0.0.1:5000"] == RegistryConfig(insecure=True)
    assert found.registries["docker.io"].mirrors == ("mirror.example.com",)
    assert found.registries["docker.io/library"].mirrors == ("mirror.example.com/hub",)
    assert found.certs_dir == Path("/etc/certs")
    assert found.proxy.https == "http://user:secret@proxy:3128"
    assert found.proxy.no_proxy == (".example.com", "10.0.0.0/8")
    assert "secret" not in repr(found)
    assert found.log_options == {"max-size": "10m", "max-file": "3"}
    assert found.settings["subnet_pool"] == "10.1.0.0/16,10.2.0.0/16"
    assert found.settings["cgroup_parent"] == "a/b"
    assert found.debug is True
    assert found.origin("options.storage.overlay") == str(file)


def test_variables_of_flags_and_lists() -> None:
    found = load(None, {"SCOW_NO_PLUGINS": "1", "SCOW_DISABLED_PLUGINS": "a, b", "SCOW_TRACE_HOOKS": "true"}, {})
    assert found.plugins.enabled is False
    assert found.plugins.disabled == ("a", "b")
    assert found.trace_hooks is True
    assert load(None, {"SCOW_NO_PLUGINS": "0"}, {}).plugins.enabled is True
    assert load(None, {"SCOW_DEBUG": ""}, {}).debug is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "data_rot: /x",
            "unknown key 'data_rot' (from {file}); valid keys: bridge_name, cdi_spec_dirs, certs_dir, cgroup_parent, ",
        ),
        ("drivers: {disk: x}", "unknown key 'drivers.disk' (from {file}); valid keys: drivers.log,"),
        (
            "registries: {a/b: {ca: /x, mirrors: []}}",
            "registries.a/b.ca (from {file}): say it of the whole host: registries.a.ca",
        ),
        ("proxy: {http: 'ftp://u:secret@p'}", "proxy.http (from {file}): not the address of a proxy"),
        ("registries: {a: {insecur: true}}", "unknown key 'registries.a.insecur' (from {file}); valid keys: ca,"),
        ("drivers: overlay", "drivers (from {file}): expected a mapping, got string 'overlay'"),
        ("data_root: 7", "data_root (from {file}): expected a string, got number 7"),
        ("data_root: var/lib", "data_root (from {file}): 'var/lib' is not an absolute path"),
        ("hosts: [1]", "hosts (from {file}): expected a list of strings, got list [1]"),
        ("hosts: [localhost]", "hosts (from {file}): 'localhost' is not an address"),
        ("bridge_name: much-too-long-name", "bridge_name (from {file}): 'much-too-long-name' is not an interface name"),
        ("subnet_pool: 10.0.0.1/8", "subnet_pool (from {file}): 10.0.0.1/8 has host bits set"),
        ("cgroup_parent: a/../b", "cgroup_parent (from {file}): 'a/../b' is not a cgroup path"),
        ("nft_table: 1x", "nft_table (from {file}): '1x' must begin with a letter"),
        ("debug: maybe", "debug (from {file}): expected true or false, got string 'maybe'"),
        ("- a\n- b", "{file}: expected a mapping of keys, got list"),
        ("a: [\n", "{file}:2: did not find expected node content"),
        ("debug: true\n\ndebug: false", "{file}:3: the key 'debug' is given twice"),
    ],
)
def test_a_mistake_names_the_key_and_the_file(tmp_path: Path, text: str, message: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(InvalidArgument) as caught:
        load(file, {}, {})
    assert str(caught.value).startswith(message.replace("{file}", str(file)))


def test_a_named_file_must_be_there_but_the_default_one_need_not(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    with pytest.raises(NotFound, match=r"no config file .*missing.yaml \(from --config\)"):
        load(missing, {}, {})
    with pytest.raises(NotFound, match="from SCOW_CONFIG"):
        load(None, {"SCOW_CONFIG": str(missing)}, {})


def test_an_empty_file_is_all_defaults_and_an_unreadable_one_is_unavailable(tmp_path: Path) -> None:
    assert load(written(tmp_path, "# nothing yet\ndrivers:\n"), {}, {}).drivers == DEFAULT_DRIVERS
    with pytest.raises(Unavailable, match="cannot be read"):
        load(tmp_path, {}, {})


def test_no_value_of_a_file_can_run_code(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="could not determine a constructor"):
        load(written(tmp_path, "data_root: !!python/object/apply:os.getcwd []"), {}, {})


def test_every_key_is_documented_has_a_field_and_a_variable_by_the_rule() -> None:
    documented = config.__doc__ or ""
    fields: dict[str, Any] = Config.__dataclass_fields__
    for key in PARSERS:
        section = key.partition(".")[0]
        assert section in fields
        assert f"``{section}" in documented
        if key in VARIABLES.values() and not key.startswith(("plugins", "hosts")):
            [variable] = [name for name, of in VARIABLES.items() if of == key]
            kind = key.removeprefix("drivers.")
            assert variable == ("SCOW_" + (f"{kind}_driver" if kind != key else key.replace(".", "_")).upper())
    assert set(PARSERS) <= set(VARIABLES.values())
    assert set(SECTIONS) <= set(fields)
    assert flag_name("drivers.storage") == "--storage-driver"
    assert flag_name("tls.ca") == "--tls-ca"
