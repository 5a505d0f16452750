"""What forks and short commands use in the place of modules of the standard library that take long to import."""

from __future__ import annotations

import json
import marshal
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scow.linux import signals
from scow.plain_json import decode_json, encode_json
from scow_runtime_native.command import light_typing
from scow_runtime_native.command.modules import use

VALUES = [
    None,
    True,
    0,
    -1,
    1.5,
    "",
    'a "quoted" \n ü € 🙂 \x00',
    [],
    {},
    [1, [2, {"a": None}]],
    {"a": {"b": [1, "2"]}},
    1 << 70,
]


@pytest.mark.parametrize("value", VALUES)
def test_plain_json_reads_and_writes_what_json_does(value: object) -> None:
    assert decode_json(json.dumps(value, indent=2) + "\n") == value
    assert json.loads(encode_json(value)) == value


@pytest.mark.parametrize("text", ["", "{", "[1", '{"a" 1}', "1 2", "nul", '"\n"', "{'a': 1}"])
def test_what_is_not_json_is_a_value_error_with_and_without_the_json_module(text: str) -> None:
    with pytest.raises(ValueError):
        decode_json(text)
    script = f"from scow.plain_json import decode_json\ntry: decode_json({text!r})\nexcept ValueError: print('refused')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


def test_plain_json_refuses_what_has_no_json() -> None:
    with pytest.raises(TypeError, match="set"):
        encode_json({"a": set()})


def test_signals_have_the_numbers_of_the_signal_module() -> None:
    import signal

    names = [name for name in vars(signals) if name.startswith("SIG")]
    assert len(names) > 10 and all(getattr(signals, name) == getattr(signal, name) for name in names)
    assert signals.valid_signals() == set(signal.valid_signals())


def test_light_named_tuples_are_those_of_typing() -> None:
    class Real(NamedTuple):
        first: int
        second: str = "b"
        third: int = 3

    namespace = {"__annotations__": {"first": "int", "second": "str", "third": "int"}, "second": "b", "third": 3}
    base: Any = light_typing.NamedTuple
    light: Any = type(base)("Light", (base,), namespace)
    assert light(1) == Real(1) and light(1, third=4) == Real(1, third=4) and light._fields == Real._fields
    assert light(1)._replace(second="c") == Real(1)._replace(second="c")
    first, second, third = light(7)
    assert (first, second, third) == (7, "b", 3) and light(7).first == 7
    wrong: list[tuple[tuple[int, ...], dict[str, int]]]
    wrong = [((), {}), ((1, 2, 3, 4), {}), ((1,), {"none": 2}), ((1,), {"first": 2})]
    for values, named in wrong:
        with pytest.raises(TypeError):
            light(*values, **named)
    with pytest.raises(TypeError):
        light(1)._replace(none=2)


def test_who_asks_the_light_module_for_more_gets_typing_itself() -> None:
    script = (
        "from scow_runtime_native.command import light_typing; light_typing.use()\n"
        "from typing import NamedTuple\n"
        "class Light(NamedTuple):\n    a: int = 1\n"
        "from typing import Protocol, runtime_checkable\n"
        "@runtime_checkable\nclass Real(Protocol):\n    def go(self): ...\n"
        "import importlib.resources, typing, sys\n"
        "print(Light().a, typing.__name__, typing.__file__.rpartition('/')[2], typing is light_typing)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "1 typing typing.py False\n"


def _code(folder: Path, source: Path, changed_ns: int) -> None:
    about = os.stat(source)
    code = marshal.dumps(compile("value = __name__, __file__\n", str(source), "exec"))
    entry = (str(source), False, about.st_mtime_ns + changed_ns, about.st_size, code)
    (folder / "code").write_bytes(marshal.dumps({"prepared_sample": entry}))
    (folder / "start").touch()


def test_a_module_comes_from_the_kept_code_while_its_source_is_as_it_was(tmp_path: Path) -> None:
    source = tmp_path / "prepared_sample.py"
    source.write_text("value = 'from the source'\n")
    finders = list(sys.meta_path)
    try:
        _code(tmp_path, source, 0)
        use(str(tmp_path))
        module = __import__("prepared_sample")
        assert module.value == ("prepared_sample", str(source)) and (tmp_path / "start").exists()
    finally:
        sys.meta_path[:] = finders
        sys.modules.pop("prepared_sample", None)


def test_a_changed_source_is_used_and_the_next_run_prepares_anew(tmp_path: Path) -> None:
    source = tmp_path / "prepared_sample.py"
    source.write_text("value = 'from the source'\n")
    finders = list(sys.meta_path)
    _code(tmp_path, source, 1)
    use(str(tmp_path))
    assert sys.meta_path == finders and not (tmp_path / "start").exists()
    _code(tmp_path, source, 0)
    source.unlink()
    use(str(tmp_path))
    assert sys.meta_path == finders
