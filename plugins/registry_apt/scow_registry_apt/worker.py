"""Builds a root in a process and in namespaces of its own; what it mounts is gone when it ends, however it ends.

Run as ``python -I -m scow_registry_apt.worker`` with a plan as JSON on standard input. Standard output is lines of
JSON: ``{"progress": text}``, and last ``{"layer": …, "diff_id": …}`` or ``{"error": text, "kind": name}``. What the
programs print goes to standard error.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from isal import igzip

from scow.errors import ScowError, Unavailable
from scow.linux.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    MS_NODEV,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    PR_SET_PDEATHSIG,
    mount,
    prctl,
    unshare,
)
from scow_registry_apt import bootstrap, chroot
from scow_registry_apt.index import INSTALL, DownloadFailed, PackageIndex
from scow_registry_apt.layers import Layer, LayerWriter
from scow_registry_apt.prune import finish, set_slim
from scow_registry_apt.sources import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_APT_OPTIONS = (
    "Dpkg::Options::=--force-unsafe-io",  # a root that is thrown away when anything fails needs no fsync
    "Dpkg::Options::=--force-confdef",
    "Dpkg::Options::=--force-confold",
    "Dpkg::Use-Pty=0",
    "APT::Sandbox::User=root",
    "Acquire::Languages=none",
    "Dir::Cache::pkgcache=",
    "Dir::Cache::srcpkgcache=",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to build. *base* is the blob of the root to build on; ``""`` builds the root itself.

    *folder* is an empty folder to work in, *tmpfs_bytes* the size of a tmpfs over it (0: none); the layer goes to the
    file *out*, the dpkg status to the file *status*; *links* are made in the root; *parent* is who started us.
    """

    suite: str
    folder: str
    out: str
    status: str
    index: str
    sources: Sequence[Source]
    parent: int
    base: str = ""
    packages: Sequence[str] = ()
    links: Mapping[str, str] | None = None
    tmpfs_bytes: int = 0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Plan:
        """From what `dataclasses.asdict` made of a plan."""
        sources = [Source(**{**raw, "components": tuple(raw["components"])}) for raw in value["sources"]]
        return cls(**{**value, "sources": sources})


def build(plan: Plan, tell: Callable[[str], None]) -> Layer:
    """The layer of *plan*, in its file; called inside the namespaces."""
    work = Path(plan.folder)
    if plan.tmpfs_bytes:
        mount("scow-apt", str(work), "tmpfs", MS_NOSUID, f"size={plan.tmpfs_bytes},mode=0700")
    index = PackageIndex(Path(plan.index), plan.suite, plan.sources)
    root, lower = work / "root", None
    root.mkdir(mode=0o755)
    if plan.base:
        lower = work / "lower"
        tree = _over_base(work, lower, root, Path(plan.base))
        _install(index, root, work / "archives", plan.packages, tell)
    else:
        tree = root
        _make_root(index, root, work / "archives", tell)
    finish(root, plan.links or {})
    shutil.copyfile(root / "var/lib/dpkg/status", plan.status)
    tell("packing the layer")
    with open(plan.out, "r+b") as out:
        writer = LayerWriter(out)
        writer.tree(tree, lower=lower)
        layer = writer.close()
        out.flush()
        os.fsync(out.fileno())
    return layer


def _make_root(index: PackageIndex, root: Path, archives: Path, tell: Callable[[str], None]) -> None:
    tell(f"downloading a minimal root of {index.suite}")
    index.download(bootstrap.packages(index), index.folder / "status", archives)
    tell(f"installing a minimal root of {index.suite}")
    set_slim(root)
    bootstrap.bootstrap(root, index.lists, archives)
    lines = "".join(source.line(keyrings_below=root) + "\n" for source in index.sources)
    (root / "etc/apt/sources.list").write_text(lines)


def _install(
    index: PackageIndex, root: Path, archives: Path, packages: Sequence[str], tell: Callable[[str], None]
) -> None:
    """*packages* are installed in *root*, from the index's lists and the downloaded *archives*, without network."""
    tell(f"downloading {', '.join(packages)}")
    index.download(packages, root / "var/lib/dpkg/status", archives)
    tell(f"installing {', '.join(packages)}")
    options = [part for option in _APT_OPTIONS for part in ("-o", option)]
    with chroot.prepared(root, index.lists, archives):
        command = ["apt-get", *options, "install", *INSTALL, "--no-download", "--", *packages]
        chroot.run(root, command, f"installing {' '.join(packages)}")


def _over_base(work: Path, lower: Path, root: Path, blob: Path) -> Path:
    """*root* is an overlay on *lower*, the unpacked *blob*; answers its upper directory: what changes from now on."""
    upper, scratch = work / "upper", work / "scratch"
    for folder in (lower, upper, scratch):
        folder.mkdir(mode=0o755)
    command = ["tar", "--extract", "--directory", str(lower), "--preserve-permissions", "--same-owner"]
    command += ["--numeric-owner", "--xattrs", "--xattrs-include=*"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as tar, _gunzip(blob) as packed:
        assert tar.stdin is not None
        shutil.copyfileobj(packed, tar.stdin, 1 << 20)
        tar.stdin.close()
        if tar.wait():
            raise ScowError(f"cannot unpack {blob.name}")
    options = f"lowerdir={lower},upperdir={upper},workdir={scratch}"
    try:
        mount("overlay", str(root), "overlay", 0, options + ",redirect_dir=off,metacopy=off,index=off")
    except OSError as error:
        raise Unavailable(
            f"cannot build on an overlay below {work}: {error}", hint="more free memory lets it be built there"
        ) from error
    return upper


def _gunzip(blob: Path) -> IO[bytes]:
    stream: IO[bytes] = igzip.open(blob, "rb")  # type: ignore[no-untyped-call]
    return stream


def _in_namespaces(plan: Plan, answer: Callable[[Mapping[str, object]], None]) -> int:
    """Runs the build as process 1 of a PID namespace: its end is the end of everything that it started."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV)
    try:
        layer = build(plan, lambda line: answer({"progress": line}))
    except (ScowError, OSError) as error:
        full = plan.tmpfs_bytes and (getattr(error, "errno", 0) == errno.ENOSPC or _is_full(plan))
        kind = "full" if full else "download" if isinstance(error, DownloadFailed) else "failed"
        answer({"error": str(error), "kind": kind})
        return 1
    answer({"layer": layer.descriptor.to_json(), "diff_id": layer.diff_id})
    return 0


def _is_full(plan: Plan) -> bool:
    space = os.statvfs(plan.folder)
    return space.f_bavail < space.f_blocks // 50


def _answer(out: IO[str]) -> Callable[[Mapping[str, object]], None]:
    def write(value: Mapping[str, object]) -> None:
        out.write(json.dumps(value) + "\n")
        out.flush()

    return write


def main() -> int:
    """The plan on standard input is carried out; 0 where the layer was made."""
    plan = Plan.from_json(json.load(sys.stdin))
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != plan.parent:
        return 1  # it ended before we could ask to be told
    os.umask(0o022)
    answer = _answer(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)  # what programs print is not an answer
    try:
        unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS)
    except ScowError as error:
        answer({"error": f"cannot build in namespaces of its own: {error}", "kind": "failed"})
        return 1
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = _in_namespaces(plan, answer)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
