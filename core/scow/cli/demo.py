"""``scow demo``: the main job, watched. Runs nginx, fetches its page, executes in it, shows its log and stops it.

Every step is printed as it happens, with its milliseconds and the driver that did it. What happens inside of the
engine comes from the engine (``GET /scow/v1/containers/{id}/timeline``).
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from scow.cli import autostart
from scow.cli.client import Client, path_of
from scow.cli.grammar import command, flag, text
from scow.cli.session import Session
from scow.cli.streams import Demultiplexer
from scow.cli.transfer import checked
from scow.errors import NotFound, ScowError, Unavailable
from scow.reference import Reference

HUB = ("registry-1.docker.io", 443)
HUB_TIMEOUT_S = 3.0
HUB_IMAGE = "nginx"
LOCAL_IMAGE = "apt.local/nginx"
PAGE_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 10
PORT = "80/tcp"
_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}")


class Screen:
    """Prints one line a step: milliseconds, the step, who did it, and details."""

    def __init__(self) -> None:
        self.bold, self.dim, self.plain = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")

    def title(self, words: str) -> None:
        self._out(f"\n{self.bold}{words}{self.plain}")

    def line(self, ms: float | None, step: str, driver: str = "", detail: str = "") -> None:
        shown = f"{ms:10.1f} ms" if ms is not None else " " * 13
        detail = _DIGEST.sub(lambda match: match[1], detail)
        self._out(f"{shown}  {step:<24} {driver:<18} {self.dim}{detail}{self.plain}".rstrip())

    def quote(self, lines: list[str]) -> None:
        for line in lines:
            self._out(f"{' ' * 15}{self.dim}│ {line}{self.plain}")

    @contextmanager
    def step(self, name: str, driver: str = "") -> Iterator[list[str]]:
        """Times the block; what it appends is the detail."""
        detail: list[str] = []
        begin = time.perf_counter()
        yield detail
        self.line((time.perf_counter() - begin) * 1000, name, driver, " ".join(detail))

    def _out(self, words: str) -> None:
        sys.stdout.write(words + "\n")
        sys.stdout.flush()


@command("demo", runs=False)
@text("--image", help=f"Image to run (default {HUB_IMAGE}, or {LOCAL_IMAGE} where Docker Hub cannot be reached)")
@flag("--keep", help="Leave the container running at the end")
@click.pass_obj
def demo(context: Session, /, image: str | None, keep: bool) -> int:
    """Run nginx, and show each step that the engine takes."""
    screen = Screen()
    client = _engine(context, screen)
    name = obtain_image(client, screen, image)
    container, created_ms = _create(client, screen, name)
    try:
        _start(client, screen, container, created_ms)
        _use(client, screen, container)
        _show_log(client, screen, container)
        if keep:
            screen.title(f"the container runs on; stop it with: scow rm -f {container[:12]}")
            return 0
        code = _stop(client, screen, container)
        _stop_engine(screen)
    except BaseException:
        _remove(client, container)
        raise
    return code


def _stop_engine(screen: Screen) -> None:
    """The daemon that was started for this ends with it; one that ran before goes on."""
    if not autostart.started_pid:
        return
    with screen.step("stop the engine", "scowd") as detail:
        pidfd = os.pidfd_open(autostart.started_pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            ended, _, _ = select.select([pidfd], [], [], STOP_TIMEOUT_S)
        finally:
            os.close(pidfd)
        detail.append("it was started for this" if ended else f"still ending after {STOP_TIMEOUT_S} s")


def _engine(context: Session, screen: Screen) -> Client:
    screen.title("engine")
    try:
        with screen.step("engine answers", context.host.text) as detail:
            version = context.client.get("/version")
            detail.append(f"{version.get('Version', '')} API {version.get('ApiVersion', '')}")
    except Unavailable as error:
        if os.geteuid() != 0 and context.host.is_default:
            hint = "run it as root: namespaces, mounts and bridges need that (sudo make run), or set SCOW_HOST"
            raise Unavailable("no engine runs, and only root can start one", hint=hint) from error
        raise
    return context.client


def obtain_image(client: Client, screen: Screen, wanted: str | None) -> str:
    """The name of an image that the engine has now: *wanted*, else nginx from the Hub or built from packages."""
    screen.title("request → local image?")
    names = [wanted] if wanted else [HUB_IMAGE, LOCAL_IMAGE]
    for name in names:
        if _is_local(client, screen, name):
            return name
    if wanted:
        _pull(client, screen, wanted)
        return wanted
    if reason := hub_unreachable(HUB, HUB_TIMEOUT_S):
        screen.line(None, "Docker Hub", "", f"cannot be reached ({reason}): taking {LOCAL_IMAGE} instead")
        _pull(client, screen, LOCAL_IMAGE)
        return LOCAL_IMAGE
    try:
        _pull(client, screen, HUB_IMAGE)
    except ScowError as error:  # unreachable after all, a rate limit, a proxy in between
        screen.line(None, "Docker Hub", "", f"does not serve ({error.message}): taking {LOCAL_IMAGE} instead")
    else:
        return HUB_IMAGE
    _pull(client, screen, LOCAL_IMAGE)
    return LOCAL_IMAGE


def _is_local(client: Client, screen: Screen, name: str) -> bool:
    with screen.step("local image?", "content store") as detail:
        try:
            found = client.get(f"/images/{path_of(name)}/json")
        except NotFound:
            detail.append(f"no {name}")
            return False
        detail.append(f"{name} is here: {found['Id'][:19]}")
        return True


def hub_unreachable(address: tuple[str, int], timeout_s: float) -> str:
    """Why no TCP connection to *address* can be made within *timeout_s*; empty where it can.

    The name is looked up in a thread of its own: the resolver has time-outs of its own, which are longer.
    """
    import threading

    outcome: list[str] = []

    def probe() -> None:
        try:
            socket.create_connection(address, timeout=timeout_s).close()
        except OSError as error:
            outcome.append((error.strerror or str(error)).lower())
        else:
            outcome.append("")

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return outcome[0] if outcome else f"no answer within {timeout_s:.0f} s"


def _pull(client: Client, screen: Screen, name: str) -> None:
    """Pull *name*; a line for every layer that is done, with the time since the request."""
    reference = Reference.parse(name)
    screen.title(f"pull {reference.familiar}")
    begin = time.perf_counter()
    query = {"fromImage": reference.familiar_name, "tag": reference.tag}
    sizes: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    for message in checked(client.open("POST", "/images/create", query)):
        status, layer = str(message.get("status", "")), str(message.get("id", ""))
        if total := (message.get("progressDetail") or {}).get("total"):
            sizes[layer] = max(sizes.get(layer, 0), int(total))
            continue
        if status == "Waiting" or (layer, status) in seen:
            continue
        seen.add((layer, status))
        ms = (time.perf_counter() - begin) * 1000
        size = f"{sizes[layer] / 1e6:.1f} MB" if layer in sizes else ""
        if layer:
            screen.line(ms, status, layer, size)
        else:
            screen.line(ms, "registry", reference.host, status)
    screen.line((time.perf_counter() - begin) * 1000, "image is here", "", reference.familiar)


def _create(client: Client, screen: Screen, image: str) -> tuple[str, float]:
    screen.title("request → layers → metadata → runtime → namespaces and cgroups → network → process")
    body = {
        "Image": image,
        "Labels": {"scow-demo": "1"},
        "ExposedPorts": {PORT: {}},
        "HostConfig": {"PortBindings": {PORT: [{"HostIp": "127.0.0.1", "HostPort": ""}]}},
    }
    begin = time.perf_counter()
    container = str(client.post("/containers/create", body)["Id"])
    return container, (time.perf_counter() - begin) * 1000


def _start(client: Client, screen: Screen, container: str, created_ms: float) -> None:
    begin = time.perf_counter()
    client.post(f"/containers/{container}/start")
    started_ms = (time.perf_counter() - begin) * 1000
    try:
        steps = client.get(f"/scow/v1/containers/{container}/timeline")
    except ScowError:  # not an engine of ours: its steps stay its own
        steps = []
    for step in steps:
        screen.line(step.get("ms"), str(step.get("step", "")), str(step.get("driver", "")), str(step.get("detail", "")))
    screen.line(created_ms, "request: create", "API", f"container {container[:12]}")
    screen.line(started_ms, "request: start", "API", "the process runs")


def _use(client: Client, screen: Screen, container: str) -> None:
    details = client.get(f"/containers/{container}/json")
    bindings = (details["NetworkSettings"].get("Ports") or {}).get(PORT)
    if not bindings:
        raise ScowError(f"port {PORT} of {container[:12]} is not published", hint=f"see 'scow logs {container[:12]}'")
    address = ("127.0.0.1", int(bindings[0]["HostPort"]))
    screen.title(f"use http://{address[0]}:{address[1]}/")
    with screen.step("fetch the page", "published port") as detail:
        status, page = fetch(address, PAGE_TIMEOUT_S)
        detail.append(f"{status}, {len(page)} bytes")
    begin, end = page.find("<title>"), page.find("</title>")
    screen.quote([page[begin + 7 : end].strip() if 0 <= begin < end else page[:60]])
    with screen.step("exec nginx -v", "runtime"):
        output, code = _exec(client, container, ["nginx", "-v"])
    screen.quote(output.splitlines())
    if code:
        raise ScowError(f"exec of nginx -v in {container[:12]} ended with {code}")


def fetch(address: tuple[str, int], timeout_s: float) -> tuple[str, str]:
    """Status line and body of ``GET /``; tries again while nobody listens yet. Raises `Unavailable`."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with socket.create_connection(address, timeout=timeout_s) as sock:
                sock.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\nUser-Agent: scow-demo\r\n\r\n")
                answer = b"".join(iter(lambda: sock.recv(65536), b""))
            if answer:
                head, _, body = answer.partition(b"\r\n\r\n")
                return head.split(b"\r\n", 1)[0].decode(errors="replace"), body.decode(errors="replace")
            reason = "it closed the connection"
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
        if time.monotonic() > deadline:
            raise Unavailable(f"no page at {address[0]}:{address[1]} after {timeout_s:.0f} s: {reason}")
        time.sleep(0.02)


def _exec(client: Client, container: str, words: list[str]) -> tuple[str, int]:
    """What *words* print in the container, and their exit code."""
    body = {"AttachStdout": True, "AttachStderr": True, "Cmd": words}
    path = f"/exec/{client.post(f'/containers/{container}/exec', body)['Id']}"
    connection = client.hijack(f"{path}/start", {}, {"Detach": False, "Tty": False})
    output: list[bytes] = []
    demultiplexer = Demultiplexer(output.append, output.append)
    while data := connection.some():
        demultiplexer.feed(data)
    return b"".join(output).decode(errors="replace"), int(client.get(f"{path}/json").get("ExitCode") or 0)


def _show_log(client: Client, screen: Screen, container: str) -> None:
    screen.title("log")
    lines: list[bytes] = []
    with screen.step("read the log", "log driver"):
        query = {"stdout": True, "stderr": True, "tail": 5}
        demultiplexer = Demultiplexer(lines.append, lines.append)
        for data in client.open("GET", f"/containers/{container}/logs", query).chunks():
            demultiplexer.feed(data)
    screen.quote(b"".join(lines).decode(errors="replace").splitlines())


def _stop(client: Client, screen: Screen, container: str) -> int:
    screen.title("stop")
    with screen.step("stop", "runtime") as detail:
        client.post(f"/containers/{container}/stop", t=STOP_TIMEOUT_S)
        state: dict[str, Any] = client.get(f"/containers/{container}/json")["State"]
        detail.append(f"exit code {state.get('ExitCode')}")
    with screen.step("remove", "storage, network"):
        client.delete(f"/containers/{container}", v=True)
    clean = state.get("ExitCode") == 0
    screen.title("done: the container ran, answered, and is gone" if clean else "the container did not stop cleanly")
    return 0 if clean else 1


def _remove(client: Client, container: str) -> None:
    """After a failure: nothing stays behind; the failure itself is what is told."""
    try:
        client.delete(f"/containers/{container}", force=True, v=True)
    except ScowError:
        return
