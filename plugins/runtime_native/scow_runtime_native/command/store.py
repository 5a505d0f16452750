"""What ``scow-runtime`` knows of its containers: a folder for each below the root, and the kernel's word on it.

``<root>/<id>/`` holds ``state.json``, ``config.json`` (the configuration at the time of create), and until the start
the fifos ``exec.start`` and ``exec.status``. Who changes a container holds an exclusive flock(2) on its folder; readers
need none, as ``state.json`` is replaced whole. Whether a container runs is asked of the kernel each time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING, Any

from scow.errors import Conflict, InvalidArgument, NotFound, Unavailable
from scow.plain_json import decode_json, encode_json

if TYPE_CHECKING:
    from collections.abc import Iterator

START_FIFO = "exec.start"
STATUS_FIFO = "exec.status"
_STATE = "state.json"
_CONFIG = "config.json"
_OF_IDS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
_LONGEST_ID = 255  # NAME_MAX: the id names a folder


def check_id(id: str) -> None:
    """Raises `InvalidArgument` for what cannot name a container."""
    if len(id) > _LONGEST_ID:
        raise InvalidArgument(
            f"container id is too long: {len(id)} characters, it may have {_LONGEST_ID}", hint="use a shorter id"
        )
    if not _is_id(id):
        raise InvalidArgument(
            f"invalid container id {id!r}", hint="letters, digits and _ + - . are allowed, and it begins without a dot"
        )


def _is_id(text: str) -> bool:
    return text != "" and text[0] != "." and _OF_IDS.issuperset(text)


class Container:
    """One container of the root. *record* is what ``state.json`` says, empty while that is not written yet."""

    def __init__(self, root: str, id: str) -> None:
        self.id = id
        self.folder = f"{root}/{id}"
        self.record: dict[str, Any] = {}
        self._mine = False  # locked by this process

    def path(self, name: str) -> str:
        """A file of the container's folder."""
        return f"{self.folder}/{name}"

    def load(self, *, damaged: bool = False) -> None:
        """`record` is what the disk says; with *damaged* nothing where that cannot be read. Raises `NotFound` where
        there is no such container."""
        try:
            with open(self.path(_STATE), "rb") as file:
                self.record = decode_json(file.read().decode())
        except FileNotFoundError:
            if not os.path.isdir(self.folder):
                raise NotFound(f"container {self.id!r} does not exist") from None
            self.record = {}
        except ValueError as error:
            self.record = {}
            if damaged:
                return
            raise InvalidArgument(
                f"container {self.id!r}: its state file is damaged: {error}",
                hint=f"scow-runtime delete --force {self.id}",
            ) from error

    def save(self) -> None:
        """The disk says `record`."""
        replace_file(self.path(_STATE), encode_json(self.record), 0o600)

    def keep_config(self, text: bytes) -> None:
        """The configuration is kept as it is now."""
        replace_file(self.path(_CONFIG), text, 0o600)

    def config(self) -> dict[str, Any]:
        """The OCI configuration at the time of create."""
        with open(self.path(_CONFIG), "rb") as file:
            spec: dict[str, Any] = decode_json(file.read().decode())
        return spec

    @property
    def pid(self) -> int:
        """The init's pid, 0 where there is none yet."""
        return int(self.record.get("pid", 0))

    def alive(self) -> bool:
        """Whether the init is there, and the same that was made."""
        return self.pid > 0 and start_ticks(self.pid) == self.record.get("start_ticks")

    def status(self) -> str:
        """``creating``, ``created``, ``running``, ``paused`` or ``stopped``, as of now."""
        if not self.record.get("pid"):
            return "creating" if not self._mine and self._locked() else "stopped"
        if not self.alive():
            return "stopped"
        if self.frozen():
            return "paused"
        return "created" if self._waits() else "running"

    def _waits(self) -> bool:
        """Whether the init waits for its start: the fifo has a reader, which its execve ends."""
        try:
            os.close(os.open(self.path(START_FIFO), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENXIO):
                raise
            return False
        return True

    def _locked(self) -> bool:
        try:
            fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def frozen(self) -> bool:
        """Whether the container's cgroup is frozen, or about to be."""
        cgroup = self.record.get("cgroup") or {}
        if cgroup.get("version") == 2:
            return _first_line(f"{cgroup['directory']}/cgroup.freeze") == "1"
        freezers = [folder for _, folder in cgroup.get("hierarchies", ())]
        return any(_first_line(f"{folder}/freezer.state") in ("FROZEN", "FREEZING") for folder in freezers)

    def state(self) -> dict[str, Any]:
        """The state as runtime.md has it, and as runc prints it."""
        status = self.status()
        return {
            "ociVersion": self.record.get("ociVersion", ""),
            "id": self.id,
            "pid": self.pid if status not in ("stopped", "creating") else 0,
            "status": status,
            "bundle": self.record.get("bundle", ""),
            "rootfs": self.record.get("rootfs", ""),
            "created": self.record.get("created", ""),
            "annotations": self.record.get("annotations") or {},
            "owner": self.record.get("owner", ""),
        }

    def forget(self) -> None:
        """The folder is gone; `state.json` goes last but for the folder, so that what is left can be deleted again."""
        remove_tree(self.folder)


def find(root: str, id: str, *, damaged: bool = False) -> Container:
    """The container *id*, with *damaged* also one whose state cannot be read. Raises `NotFound`."""
    check_id(id)
    container = Container(root, id)
    container.load(damaged=damaged)
    return container


def all_ids(root: str) -> list[str]:
    """The ids of the containers of *root*."""
    try:
        return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and _is_id(entry.name))
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def locked(container: Container, *, damaged: bool = False) -> Iterator[Container]:
    """The block is the only one that changes the container, whose record is that of now. Raises `NotFound`."""
    while True:
        fd = _open_folder(container)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _same(fd, container.folder):
                container.load(damaged=damaged)
                container._mine = True
                yield container
                return
        finally:
            container._mine = False
            os.close(fd)  # a deleted folder, perhaps made anew: once more


@contextlib.contextmanager
def claimed(root: str, id: str) -> Iterator[Container]:
    """The block makes the container *id*, whose empty folder is its own. Raises `Conflict` where there is one."""
    check_id(id)
    container = Container(root, id)
    try:
        os.makedirs(root, 0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(container.folder, 0o700)
    except OSError as error:
        raise Unavailable(
            f"cannot make the state folder {container.folder}: {os.strerror(error.errno or 0).lower()}",
            hint="name another place with --root",
        ) from error
    fd = _open_folder(container)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"container {id!r} is being made or changed by another command") from None
        if not _same(fd, container.folder) or os.path.exists(container.path(_STATE)):
            raise Conflict(f"container with id exists: {id!r}", hint=f"scow-runtime delete {id}")
        yield container
    finally:
        os.close(fd)


def _open_folder(container: Container) -> int:
    try:
        return os.open(container.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"container {container.id!r} does not exist") from None


def _same(fd: int, folder: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(folder))
    except FileNotFoundError:
        return False


def start_ticks(pid: int) -> int:
    """When *pid* started, in clock ticks since boot (proc(5)): with the pid, its identity. -1 for a zombie or none."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        fields = os.read(fd, 4096).rpartition(b")")[2].split()
    except ProcessLookupError:
        return -1
    finally:
        os.close(fd)
    return -1 if fields[0] in (b"Z", b"X") else int(fields[19])


def replace_file(path: str, data: bytes, mode: int) -> None:
    """*path* holds *data*; at no moment part of it."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def remove_tree(folder: str) -> None:
    """*folder* and what is in it are gone; links are not followed."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in sorted(entries, key=lambda entry: entry.name == _STATE):
        if entry.is_dir(follow_symlinks=False):
            remove_tree(entry.path)
        else:
            os.unlink(entry.path)
    os.rmdir(folder)


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().strip()
    except OSError:  # no such controller, or the group is gone
        return ""
