"""save, load, export, import and commit through the real docker CLI and docker-py; exchange with skopeo and podman."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from scow.testing.fakes_registry import make_tar
from tests.daemon import DOCKER, Daemon
from tests.unit.archive_kit import docker_files
from tests.unit.image_kit import image as small_image

HAVE_SKOPEO = shutil.which("skopeo") is not None
PODMAN = shutil.which("podman")
pytestmark = [pytest.mark.root, pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI")]
needs_skopeo = pytest.mark.skipif(not HAVE_SKOPEO, reason="needs skopeo")
needs_podman = pytest.mark.skipif(PODMAN is None, reason="needs podman")

RUN = ("run", "--rm", "--network", "none")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Any]:
    client = docker.DockerClient(f"unix://{daemon.socket}", timeout=60)
    yield client
    client.close()


@pytest.fixture
def made(daemon: Daemon) -> Iterator[str]:
    """A committed image of two layers, ``made:1``, and its container ``maker``."""
    script = "echo new > /new; rm /etc/group; mkdir -p /d/e; ln -s e /d/l; chown 8:12 /d/e; rm -r /home; mkdir /home"
    daemon.out("run", "--name", "maker", "--network", "none", "busybox", "sh", "-c", script)
    daemon.out("commit", "maker", "made:1")
    yield "made:1"
    daemon.docker("rm", "-f", "maker", check=False)
    daemon.docker("rmi", "-f", "made:1", check=False)


def id_of(daemon: Daemon, name: str) -> str:
    return daemon.out("image", "inspect", "-f", "{{.Id}}", name)


def removed(daemon: Daemon, *names: str) -> None:
    daemon.out("rmi", "-f", *names)
    for name in names:
        assert daemon.docker("image", "inspect", name, check=False).returncode


def run(*words: str | Path) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """podman with images of its own."""
    with tempfile.TemporaryDirectory(prefix="p") as short:  # podman takes 50 characters for its runroot
        roots = (f"--root={tmp_path}/podman", f"--runroot={short}", "--storage-driver=vfs")
        yield lambda *words: run(str(PODMAN), *roots, *words)


def stored(daemon: Daemon) -> set[str]:
    """What a load could leave behind."""
    data = daemon.root / "data"
    places = (data / "content" / "blobs" / "sha256", data / "content" / "ingest", *data.glob("storage/*"))
    return {str(path) for place in places for path in place.iterdir()}


# save and load


def test_what_is_saved_is_loaded_as_it_was(daemon: Daemon, made: str, tmp_path: Path) -> None:
    id = id_of(daemon, made)
    daemon.out("tag", made, "host.example:5000/team/made:2")
    archive = tmp_path / "images.tar"
    daemon.out("save", "-o", str(archive), made, "host.example:5000/team/made:2", "busybox")
    removed(daemon, made, "host.example:5000/team/made:2")
    told = daemon.out("load", "-i", str(archive)).splitlines()
    assert sorted(told) == [
        "Loaded image: busybox:latest",
        "Loaded image: host.example:5000/team/made:2",
        "Loaded image: made:1",
    ]
    assert id_of(daemon, made) == id
    assert daemon.out(*RUN, made, "cat", "/new") == "new"
    removed(daemon, "host.example:5000/team/made:2")


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_an_archive_from_standard_input_may_be_compressed(daemon: Daemon, made: str, tmp_path: Path, pack: Any) -> None:
    archive = tmp_path / "image.tar"
    daemon.out("save", "-o", str(archive), made)
    removed(daemon, made)
    assert daemon.out("load", input=pack(archive.read_bytes())) == f"Loaded image: {made}"
    assert daemon.out(*RUN, made, "stat", "-c", "%u:%g %F", "/d/e") == "8:12 directory"


def test_load_tells_its_progress_unless_it_shall_be_quiet(daemon: Daemon, made: str, client: Any) -> None:
    data = b"".join(client.images.get(made).save(named=True))
    removed(daemon, made)
    lines = list(client.api.load_image(data))
    assert {line.get("status") for line in lines} == {None, "Loading layer"}
    assert lines[-1] == {"stream": f"Loaded image: {made}\n"}
    assert list(client.api.load_image(data, quiet=True)) == [{"stream": f"Loaded image: {made}\n"}]


def test_docker_py_saves_and_loads(daemon: Daemon, made: str, client: Any) -> None:
    id = id_of(daemon, made)
    data = b"".join(client.images.get(made).save(named=True))
    nameless = b"".join(client.images.get(made).save())
    removed(daemon, made)
    (loaded,) = client.images.load(data)
    assert (loaded.id, loaded.tags) == (id, [made])
    removed(daemon, made)
    (loaded,) = client.images.load(nameless)
    assert (loaded.id, loaded.tags) == (id, [])
    removed(daemon, id)
    with pytest.raises(docker.errors.APIError, match="not an archive of images"):
        client.images.load(make_tar({"etc/passwd": "x"}))
    with pytest.raises(docker.errors.ImageNotFound):
        b"".join(client.api.get_image("nothing:1"))


def test_the_platform_of_a_save_or_load_must_fit(daemon: Daemon, made: str, tmp_path: Path) -> None:
    archive = str(tmp_path / "image.tar")
    done = daemon.docker("save", "--platform", "linux/s390x", "-o", archive, made, check=False)
    assert done.returncode
    assert "does not match the specified platform" in done.stderr
    platform = daemon.out("image", "inspect", "-f", "{{.Os}}/{{.Architecture}}", made)
    daemon.out("save", "--platform", platform, "-o", archive, made)
    done = daemon.docker("load", "--platform", "linux/s390x", "-i", archive, check=False)
    assert "no image for platform linux/s390x" in done.stderr + done.stdout
    assert daemon.out("load", "--platform", platform, "-i", archive) == f"Loaded image: {made}"


@pytest.mark.parametrize(
    ("names", "text"), [(["nothing:1"], "No such image: nothing:1"), (["busybox", "nothing:1"], "No such image")]
)
def test_an_image_that_is_not_there_is_not_saved(daemon: Daemon, tmp_path: Path, names: list[str], text: str) -> None:
    done = daemon.docker("save", "-o", str(tmp_path / "x.tar"), *names, check=False)
    assert done.returncode == 1
    assert text in done.stderr


def spoilt(kind: str, archive: bytes) -> bytes:
    small = small_image({"bin/x": "1"}, {"a": "2"})
    files = docker_files(small, ["evil:1"])
    if kind == "cut off":
        return archive[: len(archive) // 2]
    if kind == "a name that climbs out":
        return make_tar({"../../evil": "x", **files})
    if kind == "a link that leads out":
        target = tarfile.TarInfo()
        target.type, target.linkname = tarfile.SYMTYPE, "/etc/shadow"
        return make_tar({**files, "0/layer.tar": target})
    if kind == "a layer that is another":
        return make_tar({**files, "1/layer.tar": gzip.compress(make_tar({"a": "3"}))})
    if kind == "a layer that climbs out":
        return make_tar(docker_files(small_image({"../../evil": "x"}), ["evil:1"]))
    if kind == "a layer that is no tar":
        bad = small_image({"x": "1"}, compression="none")
        document = json.loads(bad.blobs[bad.id])
        junk = b"junk" * 1000
        document["rootfs"]["diff_ids"] = ["sha256:" + hashlib.sha256(junk).hexdigest()]
        listing = [{"Config": "c", "RepoTags": ["evil:1"], "Layers": ["l"]}]
        return make_tar({"c": json.dumps(document), "l": junk, "manifest.json": json.dumps(listing)})
    return b"nonsense" * 1000


@pytest.mark.parametrize(
    "kind",
    [
        "cut off",
        "a name that climbs out",
        "a link that leads out",
        "a layer that is another",
        "a layer that climbs out",
        "a layer that is no tar",
        "nonsense",
    ],
)
def test_a_bad_archive_is_refused_and_changes_nothing(daemon: Daemon, client: Any, kind: str) -> None:
    archive = b"".join(client.images.get("busybox").save(named=True))
    daemon.out("images")
    before, shown = stored(daemon), daemon.out("images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}")
    done = daemon.docker("load", input=spoilt(kind, archive), check=False)
    if kind == "a layer that climbs out" and not done.returncode:  # contained: it lies inside the image
        removed(daemon, "evil:1")
    else:
        assert done.returncode == 1
        assert "Error response from daemon" in done.stderr or "tar" in done.stderr
    deadline = time.monotonic() + 5
    while stored(daemon) != before and time.monotonic() < deadline:
        time.sleep(0.05)  # a thread deletes snapshots
    assert stored(daemon) == before
    assert daemon.out("images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}") == shown
    assert not list(Path("/").glob("evil"))


def test_a_load_is_streamed_and_so_is_a_save(daemon: Daemon, tmp_path: Path) -> None:
    """512 MiB pass through; the daemon grows by a small part of that."""
    size = 512 << 20
    layer = tmp_path / "layer"
    with layer.open("wb") as file:
        info = tarfile.TarInfo("big")
        info.size = size
        file.write(info.tobuf())
        file.truncate(512 + size + 1024)
    daemon.out("import", str(layer), "big:1")
    before = peak(daemon)
    archive = tmp_path / "big.tar"
    daemon.docker("save", "-o", str(archive), "big:1", timeout_s=180)
    removed(daemon, "big:1")
    daemon.docker("load", "-i", str(archive), timeout_s=180)
    removed(daemon, "big:1")
    assert archive.stat().st_size > size
    assert peak(daemon) - before < 80 << 20


def peak(daemon: Daemon) -> int:
    """Bytes of the daemon's resident memory at its highest."""
    for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")


# Exchange with others


@needs_skopeo
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_skopeo_reads_what_we_save(daemon: Daemon, made: str, tmp_path: Path, kind: str) -> None:
    archive = tmp_path / "image.tar"
    daemon.out("save", "-o", str(archive), made)
    run("skopeo", "--insecure-policy", "copy", f"{kind}:{archive}", f"dir:{tmp_path / 'out'}")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["config"]["digest"] == id_of(daemon, made)
    shown = json.loads(run("skopeo", "inspect", f"{kind}:{archive}"))
    assert len(shown["Layers"]) == 2


@needs_skopeo
@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("docker-archive:{}:other/name:3", "Loaded image: other/name:3"),
        ("oci-archive:{}:other/name:3", "Loaded image: other/name:3"),
        ("oci-archive:{}:3", "Loaded image ID: {id}"),
        ("oci-archive:{}", "Loaded image ID: {id}"),
    ],
)
def test_we_read_what_skopeo_writes(daemon: Daemon, made: str, tmp_path: Path, target: str, told: str) -> None:
    id = id_of(daemon, made)
    ours, theirs = tmp_path / "ours.tar", tmp_path / "theirs.tar"
    daemon.out("save", "-o", str(ours), made)
    run("skopeo", "--insecure-policy", "copy", f"docker-archive:{ours}", target.format(theirs))
    removed(daemon, made)
    assert daemon.out("load", "-i", str(theirs)) == told.format(id=id)
    assert daemon.out(*RUN, id, "cat", "/new") == "new"
    daemon.out("rmi", "-f", id)


@needs_podman
def test_podman_reads_what_we_save_and_we_what_it_saves(
    daemon: Daemon, made: str, tmp_path: Path, podman: Callable[..., str]
) -> None:
    id = id_of(daemon, made)
    daemon.out("tag", made, "host.example/made:2")
    archive = tmp_path / "ours.tar"
    daemon.out("save", "-o", str(archive), "host.example/made:2")
    assert "host.example/made:2" in podman("load", "-i", str(archive))
    listed = podman("images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}")
    assert listed.split() == [id, "host.example/made:2"]
    removed(daemon, made, "host.example/made:2")
    for kind in ("docker-archive", "oci-archive"):
        theirs = tmp_path / f"{kind}.tar"
        podman("save", "--format", kind, "-o", str(theirs), "host.example/made:2")
        assert daemon.out("load", "-i", str(theirs)) == "Loaded image: host.example/made:2"
        assert id_of(daemon, "host.example/made:2") == id
        assert daemon.out(*RUN, "host.example/made:2", "cat", "/new") == "new"
        removed(daemon, "host.example/made:2")


# export and import


def listing(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {info.name: info for info in tar}


def exported(daemon: Daemon, name: str, tmp_path: Path) -> bytes:
    path = tmp_path / "root.tar"
    daemon.out("export", "-o", str(path), name)
    return path.read_bytes()


def test_an_export_is_the_whole_root_and_can_be_imported(daemon: Daemon, made: str, tmp_path: Path) -> None:
    data = exported(daemon, "maker", tmp_path)
    members = listing(data)
    assert {"new", "d", "d/e", "bin/busybox", "etc/passwd", "bin/sh"} <= set(members)
    assert not {"etc/group", "etc/hosts"} & set(members)
    assert (members["d/e"].uid, members["d/e"].gid, members["d/e"].mode) == (8, 12, 0o755)
    assert members["d/l"].linkname == "e"
    assert members["tmp"].mode == 0o1777
    daemon.docker("import", "-c", 'CMD ["cat", "/new"]', "-c", "ENV PATH=/bin", "-", "flat:1", input=data)
    assert daemon.out(*RUN, "flat:1") == "new"
    assert len(json.loads(daemon.out("image", "inspect", "-f", "{{json .RootFS.Layers}}", "flat:1"))) == 1
    removed(daemon, "flat:1")


def test_a_running_container_is_exported_without_its_mounts_and_goes_on(
    daemon: Daemon, tmp_path: Path, client: Any
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "inside").write_text("x")
    words = ("--name", "runner", "--network", "none", "-v", f"{volume}:/vol", "--tmpfs", "/scratch", "busybox")
    daemon.out("run", "-d", *words, "sh", "-c", "echo 1 > /one; echo s > /scratch/s; sleep 60")
    try:
        daemon.out("exec", "runner", "sh", "-c", "until [ -s /scratch/s ]; do :; done")
        members = listing(b"".join(client.containers.get("runner").export()))
        assert {"one", "vol", "scratch", "proc"} <= set(members)
        assert not [name for name in members if name.startswith(("vol/", "scratch/", "proc/", "dev/"))]
        script = "echo 2 > /two; rm /one; mv /etc/passwd /etc/moved; mkdir /bin/new; cat /two"
        assert daemon.out("exec", "runner", "sh", "-c", script) == "2"  # its overlay still works
        members = listing(exported(daemon, "runner", tmp_path))
        assert {"two", "etc/moved", "bin/new"} <= set(members)
        assert not {"one", "etc/passwd"} & set(members)
    finally:
        daemon.out("rm", "-f", "runner")


def test_exports_leave_no_mounts_also_when_the_client_goes_away(daemon: Daemon, made: str) -> None:
    before = Path("/proc/self/mountinfo").read_text().count(str(daemon.root))
    for _ in range(3):
        command = f"{DOCKER} -H unix://{daemon.socket} export maker | head -c 1000"
        assert len(subprocess.run(["sh", "-c", command], timeout=60, check=True, capture_output=True).stdout) == 1000
    deadline = time.monotonic() + 5
    while Path(f"/proc/{daemon.pid}/mountinfo").read_text().count("/mnt/") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{daemon.pid}/mountinfo").read_text().count(f"{daemon.root}/run/mnt/")
    assert Path("/proc/self/mountinfo").read_text().count(str(daemon.root)) == before
    assert list((daemon.root / "run" / "mnt").iterdir()) == []


def test_a_container_that_is_not_there_is_not_exported(daemon: Daemon, tmp_path: Path) -> None:
    done = daemon.docker("export", "-o", str(tmp_path / "x"), "nobody", check=False)
    assert (done.returncode, "No such container: nobody" in done.stderr) == (1, True)


@pytest.mark.parametrize("packed", [gzip.compress, lzma.compress], ids=["gzip", "xz"])
def test_an_import_may_be_compressed(daemon: Daemon, packed: Any, client: Any) -> None:
    daemon.docker("import", "-", "packed:1", input=packed(make_tar({"hello": "x"})))
    assert daemon.out("image", "inspect", "-f", "{{len .RootFS.Layers}}", "packed:1") == "1"
    archive = b"".join(client.images.get("packed:1").save(named=True))
    removed(daemon, "packed:1")
    assert client.images.load(archive)[0].tags == ["packed:1"]
    removed(daemon, "packed:1")


# commit


def test_a_commit_adds_a_layer_of_what_changed(daemon: Daemon, made: str) -> None:
    script = "cat /new; stat -c %u:%g /d/e; readlink /d/l; ls /etc; ls /home"
    shown = daemon.out(*RUN, made, "sh", "-c", script).split()
    assert shown == ["new", "8:12", "e", "hostname", "hosts", "passwd", "resolv.conf"]
    layers = json.loads(daemon.out("image", "inspect", "-f", "{{json .RootFS.Layers}}", made))
    base = json.loads(daemon.out("image", "inspect", "-f", "{{json .RootFS.Layers}}", "busybox"))
    assert layers[:-1] == base
    first, second = daemon.out("history", "--no-trunc", "--format", "{{.CreatedBy}}", made).splitlines()[0], "sh -c"
    assert first.startswith(second)


def test_a_commit_takes_author_message_and_changes(daemon: Daemon, made: str) -> None:
    changes = (
        'CMD ["cat", "/new"]',
        "ENV A=1 PATH=$PATH:/extra",
        'LABEL x="y z"',
        "EXPOSE 80",
        "WORKDIR /d",
        "USER 8",
        "VOLUME /data",
        "STOPSIGNAL SIGINT",
        "HEALTHCHECK --interval=5s CMD true",
        "ONBUILD RUN true",
    )
    words = [word for change in changes for word in ("-c", change)]
    id = daemon.out("commit", "-a", "Me <me@example.com>", "-m", "a message", *words, "maker", "changed")
    (shown,) = json.loads(daemon.out("image", "inspect", "changed:latest"))
    assert shown["Id"] == id
    assert (shown["Author"], shown["Comment"]) == ("Me <me@example.com>", "a message")
    config = shown["Config"]
    assert config["Cmd"] == ["cat", "/new"]
    assert set(config["Env"]) == {"A=1", "PATH=/bin:/extra"}
    assert config["Labels"] == {"x": "y z"}
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("8", "/d", "SIGINT")
    assert list(config["ExposedPorts"]) == ["80/tcp"]
    assert list(config["Volumes"]) == ["/data"]
    assert config["Healthcheck"]["Test"] == ["CMD-SHELL", "true"]
    assert config["Healthcheck"]["Interval"] == 5_000_000_000
    assert config["OnBuild"] == ["RUN true"]
    assert daemon.out(*RUN, "changed") == "new"
    removed(daemon, "changed")
    done = daemon.docker("commit", "-c", "RUN true", "maker", check=False)
    assert "RUN is not a valid change command" in done.stderr


def test_an_entrypoint_of_a_commit_drops_the_containers_command(daemon: Daemon, made: str) -> None:
    daemon.out("commit", "-c", 'ENTRYPOINT ["cat"]', "maker", "entry:1")
    assert daemon.out(*RUN, "entry:1", "/new") == "new"
    assert daemon.out("image", "inspect", "-f", "{{json .Config.Cmd}}", "entry:1") == "null"
    removed(daemon, "entry:1")


def test_a_commit_of_nothing_changes_the_config_only(daemon: Daemon) -> None:
    daemon.out("create", "--name", "idle", "--network", "none", "busybox", "true")
    try:
        daemon.out("commit", "-c", "LABEL a=b", "idle", "empty:1")
        layers = ("image", "inspect", "-f", "{{json .RootFS.Layers}}")
        assert daemon.out(*layers, "empty:1") == daemon.out(*layers, "busybox")
        assert daemon.out("history", "--format", "{{.Size}}", "empty:1").split()[0] == "0B"
        assert daemon.out(*RUN, "empty:1", "echo", "runs") == "runs"
        removed(daemon, "empty:1")
    finally:
        daemon.out("rm", "-f", "idle")


WRITER = "i=0; while :; do i=$((i+1)); echo $i > /count; done"


@pytest.mark.parametrize("pause", [True, False])
def test_a_running_container_stands_still_while_it_is_committed(daemon: Daemon, pause: bool) -> None:
    daemon.out("run", "-d", "--name", "busy", "--network", "none", "busybox", "sh", "-c", WRITER)
    try:
        daemon.out("commit", f"--pause={str(pause).lower()}", "busy", "running:1")
        assert daemon.out("inspect", "-f", "{{.State.Status}}", "busy") == "running"
        id = daemon.out("inspect", "-f", "{{.Id}}", "busy")
        words = ("events", "--since", "0", "--until", str(int(time.time()) + 1), "--filter", f"container={id}")
        told = daemon.out(*words, "--format", "{{.Action}}").split()
        assert told.count("commit") == 1
        assert (told.count("pause"), told.count("unpause")) == ((1, 1) if pause else (0, 0))
        assert int(daemon.out(*RUN, "running:1", "sh", "-c", "echo 0$(cat /count)")) >= 0
        removed(daemon, "running:1")
        daemon.out("pause", "busy")
        daemon.out("commit", f"--pause={str(pause).lower()}", "busy", "running:1")
        assert daemon.out("inspect", "-f", "{{.State.Status}}", "busy") == "paused"
        removed(daemon, "running:1")
    finally:
        daemon.out("rm", "-f", "busy")


def test_docker_py_commits_with_a_configuration_of_its_own(daemon: Daemon, made: str, client: Any) -> None:
    container = client.containers.get("maker")
    image = container.commit(
        "py", "1", message="m", author="a", changes=["LABEL a=b", "ENV X=1"], conf={"Cmd": ["cat", "/new"]}
    )
    assert image.tags == ["py:1"]
    assert image.attrs["Config"]["Labels"] == {"a": "b"}
    assert set(image.attrs["Config"]["Env"]) == {"PATH=/bin", "X=1"}
    assert daemon.out(*RUN, "py:1") == "new"
    removed(daemon, "py:1")
    nameless = container.commit()
    assert nameless.tags == []
    removed(daemon, nameless.id)


def test_what_cannot_be_committed_says_why(daemon: Daemon) -> None:
    done = daemon.docker("commit", "nobody", "x:1", check=False)
    assert "No such container: nobody" in done.stderr
    done = daemon.docker("commit", "nobody", "BAD NAME", check=False)
    assert done.returncode


def test_a_commit_is_on_disk_and_can_be_committed_again(daemon: Daemon, made: str) -> None:
    daemon.out("run", "--name", "second", "--network", "none", made, "sh", "-c", "rm /new; echo 3 > /d/three")
    daemon.out("commit", "second", "made:2")
    daemon.out("rm", "second")
    daemon.stop()
    daemon.start()
    assert daemon.out(*RUN, "made:2", "sh", "-c", "cat /d/three; ls /").split()[0] == "3"
    assert "new" not in daemon.out(*RUN, "made:2", "ls", "/").split()
    removed(daemon, "made:2")


def test_exports_and_commits_of_one_container_at_once(daemon: Daemon, made: str, client: Any) -> None:
    failures: list[BaseException] = []

    def both(number: int) -> None:
        try:
            sum(map(len, client.containers.get("maker").export()))
            daemon.out("commit", "maker", f"many:{number}")
        except BaseException as error:  # noqa: BLE001  (shown by the test)
            failures.append(error)

    threads = [threading.Thread(target=both, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    removed(daemon, *(f"many:{number}" for number in range(4)))
