"""The guest's system: Debian of the host's suite with a kernel for virtual machines, as files that QEMU boots."""

from __future__ import annotations

import gzip
import hashlib
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.vm.initramfs import Archive

GUEST = Path(__file__).resolve().parent / "guest"
KERNEL = "linux-image-cloud-amd64"
PACKAGES = (
    "systemd-sysv", "dbus", "udev", "kmod", "procps", "iproute2", "python3", "python3-venv", "util-linux",
    "libseccomp2", "libnftables1", "nftables", "busybox-static", "ca-certificates", "docker-registry", "curl",
)  # fmt: skip
BOOT_MODULES = ("virtio_pci", "virtio_blk")  # ext4 and the serial port are built in
QUIET = ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer",
         "systemd-tmpfiles-clean.timer", "getty@tty1.service", "serial-getty@ttyS0.service",
         "docker-registry.service")  # fmt: skip


@dataclass(frozen=True, slots=True)
class System:
    """What QEMU needs: *release* is the kernel's."""

    kernel: Path
    initramfs: Path
    root: Path
    release: str


def host_suite() -> str:
    """The host's Debian suite (``bookworm``); empty where it is another distribution."""
    try:
        found = platform.freedesktop_os_release()
    except OSError:
        return ""
    return found.get("VERSION_CODENAME", "") if found.get("ID") == "debian" else ""


def build(folder: Path) -> System:
    """The system in *folder*; built anew when what it is made of has changed."""
    stamp, wanted = folder / "stamp", _fingerprint()
    if not stamp.exists() or stamp.read_text().split("\n")[0] != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        release = _build(folder)
        stamp.write_text(f"{wanted}\n{release}\n")
    release = stamp.read_text().split("\n")[1]
    return System(folder / "vmlinuz", folder / "initramfs", folder / "root.img", release)


def _fingerprint() -> str:
    docker = shutil.which("docker")
    parts = [host_suite(), repr(docker and Path(docker).stat().st_mtime)]
    here = Path(__file__).resolve().parent
    for file in (here / "debian.py", here / "initramfs.py", GUEST / "init", GUEST / "scow-tests.service"):
        parts.append(file.read_text())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _build(folder: Path) -> str:
    root = folder / "root"
    print(f"building a Debian {host_suite()} for the machine; this is done once", flush=True)
    words = ["--variant=minbase", f"--include={','.join(PACKAGES)}", host_suite(), str(root)]
    _run("debootstrap", *words, log=folder / "debootstrap.log")
    release = _kernel(folder, root)
    _configure(root)
    (folder / "initramfs").write_bytes(_initramfs(root, release))
    disk(root, folder / "root.img", 6144)
    shutil.rmtree(root)
    return release


def _kernel(folder: Path, root: Path) -> str:
    """The kernel is in *folder* and its modules in *root*; its release. Nothing is installed on the host."""
    depends = _run("apt-cache", "depends", KERNEL).split("\n")
    package = next(line.split()[1] for line in depends if line.strip().startswith("Depends: linux-image"))
    download = folder / "kernel"
    download.mkdir()
    _run("apt-get", "download", "-o", "APT::Sandbox::User=root", package, cwd=download)
    _run("dpkg-deb", "-x", str(next(download.glob("*.deb"))), str(download))
    image = next(download.glob("boot/vmlinuz-*"))
    release = image.name.removeprefix("vmlinuz-")
    image.rename(folder / "vmlinuz")
    (root / "usr/lib/modules").mkdir(exist_ok=True)
    shutil.move(download / "lib/modules" / release, root / "usr/lib/modules" / release)
    _run("chroot", str(root), "depmod", release)
    shutil.rmtree(download)
    return release


def _configure(root: Path) -> None:
    """Units, the docker CLI where the host has one, and no services that would disturb."""
    units = root / "etc/systemd/system"
    shutil.copy(GUEST / "scow-tests.service", units)
    (root / "job").mkdir()
    wanted = units / "multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    (wanted / "scow-tests.service").symlink_to("/etc/systemd/system/scow-tests.service")
    for unit in QUIET:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    (root / "etc/hostname").write_text("scow-vm\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost scow-vm\n")
    (root / "etc/fstab").write_text("")
    (root / "etc/machine-id").write_text("")
    docker = shutil.which("docker")
    if docker:
        shutil.copy(docker, root / "usr/local/bin/docker")


def _initramfs(root: Path, release: str) -> bytes:
    """Busybox, the modules that the disk needs, and an init that mounts the disk and starts what is on it."""
    archive = Archive()
    for folder in ("bin", "dev", "proc", "sys", "modules", "root"):
        archive.directory(folder)
    archive.file("bin/busybox", (root / "bin/busybox").read_bytes(), 0o755)
    archive.file("init", (GUEST / "init").read_bytes(), 0o755)
    base = root / "lib/modules" / release
    lines = (base / "modules.dep").read_text().splitlines()
    depends = {file: rest.split() for file, rest in (line.split(":", 1) for line in lines)}
    order: list[str] = []
    for name in BOOT_MODULES:
        file = next(file for file in depends if Path(file).stem == name)
        order += [found for found in [*reversed(depends[file]), file] if found not in order]
    for number, file in enumerate(order):
        archive.file(f"modules/{number:02}-{Path(file).name}", (base / file).read_bytes())
    return gzip.compress(archive.finish(), 1)


def disk(tree: Path, image: Path, megabytes: int) -> Path:
    """*image* is an ext4 file system with the content of *tree*; sparse."""
    _run("mke2fs", "-q", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-d", str(tree), str(image), f"{megabytes}M")
    return image


def _run(*words: str, cwd: Path | None = None, log: Path | None = None) -> str:
    done = subprocess.run(words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if log:
        log.write_text(done.stdout)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.returncode}\n{done.stdout[-3000:]}")
    return done.stdout
