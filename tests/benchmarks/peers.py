"""The engines beside Scow that this host has, started for one bench run and gone after it.

dockerd and podman run in mount and network namespaces of their own (or without networks in the host's own), with their
state in the bench's folder: they touch neither the host's firewall nor its images, and what they mount goes with the
namespace. They are taken from the host, or from another root file system (a debootstrap of a newer Debian, say) that is
named.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.daemon import DOCKER, busybox_tar

# A private mount namespace ($1: `/` or the other root; $2: the bench's folder; the rest: what to run there). The almost
# empty cgroup2 of a hybrid layout is hidden, as crun refuses it; not unmounted, as crun makes folders in what lies
# there, the host's own tmpfs. A plain chroot would not do: runtimes pivot_root.
_ENTER = """
set -e
root=$1 folder=$2; shift 2
ip link set lo up
if [ "$root" != / ]; then
    for each in /proc /sys /dev /run; do mount --rbind "$each" "$root$each"; done
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
    mount --rbind "$root" "$root"
    cd "$root"
    mkdir -p .old
    pivot_root . .old
    umount -l /.old
    rmdir /.old
    cd /
fi
[ -z "$WITHOUT_UNIFIED" ] || ! mountpoint -q /sys/fs/cgroup/unified || mount -t tmpfs none /sys/fs/cgroup/unified
exec "$@"
"""

# ulimits in words: podman's defaults need CAP_SYS_RESOURCE
_CONTAINERS_CONF = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
[network]
network_config_dir = "{folder}/net"
"""
_STORAGE_CONF = '[storage]\ndriver = "overlay"\ngraphroot = "{folder}/data"\nrunroot = "{folder}/run"\n'
_NO_NETWORKS = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
_POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'


class NotHere(Exception):
    """The peer cannot be paired; the message is why."""


def _find(command: str, root: str) -> str:
    for folder in ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"):
        if os.access(f"{root.rstrip('/')}{folder}/{command}", os.X_OK):
            return f"{folder}/{command}"
    raise NotHere(f"{command} is not installed")


def _enter(
    root: str, folder: Path, words: list[str], log: Path, *, own_net: bool, without_unified: bool
) -> subprocess.Popen[bytes]:
    namespaces = ["--mount", *(["--net"] if own_net else []), "--propagation", "private"]
    enter = ["unshare", *namespaces, "sh", "-c", _ENTER, "enter", root, str(folder)]
    env = {**os.environ, "WITHOUT_UNIFIED": "1" if without_unified else ""}
    with log.open("ab") as out:
        return subprocess.Popen([*enter, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd="/")


@contextlib.contextmanager
def docker(root: str, folder: Path, own_net: bool = True) -> Iterator[list[str]]:
    """dockerd with its defaults, but without networks on the host's own; answers the docker CLI's words."""
    program = _find("dockerd", root)
    if DOCKER is None:
        raise NotHere("the docker CLI is not installed")
    socket, log = folder / "docker.sock", folder / "dockerd.log"
    state = [f"--data-root={folder}/data", f"--exec-root={folder}/run", f"--pidfile={folder}/docker.pid"]
    words = [program, "-H", f"unix://{socket}", *state, *([] if own_net else _NO_NETWORKS)]
    process = _enter(root, folder, words, log, own_net=own_net, without_unified=False)
    try:
        command = [DOCKER, "-H", f"unix://{socket}"]
        deadline = time.monotonic() + 30
        while subprocess.run([*command, "version"], capture_output=True).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotHere(f"dockerd did not start: {log.read_text()[-300:].strip()}")
            time.sleep(0.1)
        yield command
        _remove_all(command, [])
    finally:
        process.terminate()
        process.wait(60)


def _entered(holder: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{holder.pid}/comm").read_text() != "sleep\n":
        if holder.poll() is not None or time.monotonic() > deadline:
            raise NotHere("its namespaces could not be made")
        time.sleep(0.01)


@contextlib.contextmanager
def _podman(root: str, folder: Path, own_net: bool) -> Iterator[list[str]]:
    """podman with crun and netavark, entered through nsenter (2 to 4 ms a call)."""
    program = _find("podman", root)
    for name, text in (("containers", _CONTAINERS_CONF), ("storage", _STORAGE_CONF)):
        (folder / f"{name}.conf").write_text(text.format(folder=folder))
    (folder / "policy.json").write_text(_POLICY)
    words = ["/bin/sleep", "infinity"]
    holder = _enter(root, folder, words, folder / "holder.log", own_net=own_net, without_unified=True)
    try:
        env = [f"CONTAINERS_CONF={folder}/containers.conf", f"CONTAINERS_STORAGE_CONF={folder}/storage.conf"]
        command = ["nsenter", "-t", str(holder.pid), "-m", "-n", "--", "env", "PODMAN_IGNORE_CGROUPSV1_WARNING=1"]
        command += [*env, program]
        _entered(holder)  # before that nsenter would join the host's namespaces
        done = subprocess.run([*command, "version"], capture_output=True, text=True)
        if done.returncode:
            raise NotHere(f"podman does not work here: {done.stderr[-300:].strip()}")
        yield command
        _remove_all(command, ["-t", "0"])
    finally:
        holder.terminate()
        holder.wait(10)


def _remove_all(command: list[str], more: list[str]) -> None:
    ids = subprocess.run([*command, "ps", "-aq"], capture_output=True, text=True).stdout.split()
    if ids:
        subprocess.run([*command, "rm", "-f", *more, *ids], capture_output=True)


def _version(command: list[str]) -> str:
    form = "{{.Server.Version}}" if "podman" not in command[-1] else "{{.Client.Version}}"
    done = subprocess.run([*command, "version", "--format", form], capture_output=True, text=True)
    return ".".join(done.stdout.strip().split(".")[:2])


def ready(command: list[str], network: str = "bridge") -> None:
    """It has an image called busybox and runs a container of it in *network*."""
    words = ["import", "--change", "ENV PATH=/bin", "-", "busybox"]
    done = subprocess.run([*command, *words], input=busybox_tar(), capture_output=True)
    if done.returncode == 0:
        done = subprocess.run([*command, "run", "--rm", "--network", network, "busybox", "true"], capture_output=True)
    if done.returncode:
        raise NotHere(done.stderr.decode(errors="replace")[-300:].strip())


@contextlib.contextmanager
def running(folder: Path, root: str, *, own_net: bool = True) -> Iterator[dict[str, list[str]]]:
    """The peers that work, ``docker 26.1`` → the words that stand before ``run``; the others are named with why not.
    Without *own_net* they reach what listens on the host's loopback, and make no networks."""
    with contextlib.ExitStack() as stack:
        found = {}
        for name, start in (("docker", docker), ("podman", _podman)):
            own = folder / name
            own.mkdir()
            try:
                command = stack.enter_context(start(root, own, own_net))
                ready(command, "bridge" if own_net else "none")
                found[f"{name} {_version(command)}"] = command
            except NotHere as reason:
                print(f"not paired: {name}: {reason}", flush=True)
        try:
            yield found
        finally:
            stack.close()
            if root != "/":
                shutil.rmtree(Path(root + str(folder)), ignore_errors=True)  # the empty mount points
