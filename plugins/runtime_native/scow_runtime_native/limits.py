"""Limits as writes to control files: all of them hold afterwards, or none has changed.

`write_all` finds the order by trying: a value that depends on another one (memory on memory+swap, burst on quota, quota
on period) is refused until the other is there, and is written again then.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from scow.errors import InvalidArgument
from scow_runtime_native.cgroups import read, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


class Setting(NamedTuple):
    """One write: *value* to the control file *file* of *controller*.

    Of a file with a line for each device or interface, *key* is the line's first word and *unset* what stands behind
    it where there is no line. A *lenient* value says "no limit": a kernel without the file need not be told.
    """

    controller: str
    file: str
    value: str
    key: str = ""
    unset: str = ""
    lenient: bool = False


def write_all(
    settings: Iterable[Setting],
    folder: Callable[[str], str],
    *,
    live: bool,
    last: Callable[[], None] | None = None,
    put: Callable[[str, str], None] = write,
) -> None:
    """Each of *settings* holds in the group whose folder for a controller *folder* answers, and *last* was called.
    *put* writes a value to a file.

    Raises `InvalidArgument` that names file, value and cause. In a *live* group the values that were written before are
    put back then; a new group goes as a whole.
    """
    with contextlib.ExitStack() as undo:
        waiting = list(settings)
        while waiting:
            refused: list[tuple[Setting, OSError]] = []
            for setting in waiting:
                path = f"{folder(setting.controller)}/{setting.file}"
                before = read(path) if live else ""
                try:
                    put(path, setting.value)
                except FileNotFoundError as error:
                    if not setting.lenient:
                        raise _refusal(setting, path, error) from error
                except OSError as error:
                    refused.append((setting, error))
                else:
                    if live:
                        undo.callback(_put_back, put, path, former(setting, before))
            if len(refused) == len(waiting):
                setting, first = refused[0]
                raise _refusal(setting, f"{folder(setting.controller)}/{setting.file}", first) from first
            waiting = [setting for setting, _ in refused]
        if last is not None:
            last()
        undo.pop_all()


def former(setting: Setting, text: str) -> list[str]:
    """What to write so that the file of *setting* says again what it said: *text*."""
    if setting.key:
        lines = [line.strip() for line in text.splitlines()]
        return [next((line for line in lines if line.split(" ")[0] == setting.key), f"{setting.key} {setting.unset}")]
    if setting.file == "memory.oom_control":  # read as three lines, written as the number of the first
        return [text.partition("\n")[0].rpartition(" ")[2]]
    return text.splitlines() or ["\n"]


def _put_back(put: Callable[[str, str], None], path: str, values: Iterable[str]) -> None:
    try:
        for value in values:
            put(path, value)
    except OSError as error:
        import logging  # here: it is rare, and `scow-runtime` starts faster without

        logging.getLogger(__name__).warning("%s keeps its new value: %s", path, os.strerror(error.errno or 0).lower())


def _refusal(setting: Setting, path: str, error: OSError) -> InvalidArgument:
    if isinstance(error, FileNotFoundError):
        cause, hint = _missing(setting, os.path.dirname(path)), None
    else:
        cause, hint = os.strerror(error.errno or 0).lower(), _hint(setting, os.path.dirname(path), error.errno or 0)
    return InvalidArgument(f"cannot set {setting.file} to {setting.value}: {cause}", hint=hint)


def _missing(setting: Setting, directory: str) -> str:
    has = read(f"{directory}/cgroup.controllers")  # of version 2 only
    if has and setting.controller not in has.split():
        return f"the group above does not hand the {setting.controller} controller on"
    return "this kernel does not offer it"


def _hint(setting: Setting, directory: str, number: int) -> str | None:
    file = setting.file
    if number == errno.EBUSY and setting.controller == "memory":
        used = (read(f"{directory}/memory.usage_in_bytes") or read(f"{directory}/memory.current")).strip()
        return f"its processes use {used} bytes that cannot be freed"
    if file == "memory.limit_in_bytes" and number == errno.EINVAL:
        total = read(f"{directory}/memory.memsw.limit_in_bytes").strip()
        return f"memory and swap together are limited to {total}; set both" if total else None
    if file == "cpu.rt_runtime_us":
        above = read(f"{os.path.dirname(directory)}/cpu.rt_runtime_us").strip()
        return f"the group above has {above} microseconds to give (cpu.rt_runtime_us of {os.path.dirname(directory)})"
    if file.startswith("cpuset."):
        above = read(f"{os.path.dirname(directory)}/{file}").strip()
        return f"the group above has {above}" if above else None
    if setting.key and "weight" in file and number == errno.EOPNOTSUPP:
        return f"the disk {setting.key} needs the I/O scheduler bfq (/sys/block/<disk>/queue/scheduler)"
    if setting.controller in ("blkio", "io") and number in (errno.ENODEV, errno.EINVAL) and setting.key:
        return f"is {setting.key} a whole disk? partitions cannot be limited"
    return None


def rate_lines(block: Mapping[str, Any], names: Mapping[str, str]) -> Iterable[tuple[str, str, int]]:
    """The throttles of an OCI ``blockIO``: name (from *names*, by the spec's key), device as ``8:0``, rate a second."""
    for key, name in names.items():
        for device in block.get(key) or ():
            yield name, device_key(device), device["rate"]


def device_key(device: Mapping[str, Any]) -> str:
    """``8:0`` for an OCI object with *major* and *minor*."""
    return f"{device['major']}:{device['minor']}"


def huge_page_sizes(resources: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    """Each page size of ``hugepageLimits`` as control files have it (``2MB``), with its limit in bytes."""
    for entry in resources.get("hugepageLimits") or ():
        size = str(entry["pageSize"])
        if not (size[-2:] in ("KB", "MB", "GB") and size[:-2].isdigit()):
            raise InvalidArgument(f"invalid huge page size {size!r}", hint="sizes look like 64KB, 2MB or 1GB")
        yield size, entry["limit"]


def rdma(resources: Mapping[str, Any]) -> Iterable[Setting]:
    """``rdma``, which is the same file in both versions (Linux 4.11)."""
    for name, limits in (resources.get("rdma") or {}).items():
        words = [
            f"{word}={limits[key]}"
            for key, word in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
            if limits.get(key) is not None
        ]
        if not words:
            raise InvalidArgument(f"rdma device {name}: neither hcaHandles nor hcaObjects is given")
        unset = "hca_handle=max hca_object=max"
        yield Setting("rdma", "rdma.max", f"{name} {' '.join(words)}", name, unset)
