"""The small parts of images: platforms, times, changes, globs, the overlay driver's index."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from scow.engine.image_changes import apply_changes, image_config
from scow.engine.image_filters import _glob
from scow.engine.manifests import make_config
from scow.engine.platforms import choose
from scow.engine.times import parse_rfc3339_ns, parse_time_ns, rfc3339
from scow.errors import Conflict, InvalidArgument, NotFound
from scow.oci import OCI_MANIFEST, Descriptor, Platform, digest_of
from scow.ports.storage import Usage
from scow.types import ContainerConfig
from scow_storage_overlay.folder import SnapshotFolder
from scow_storage_overlay.index import Entry, Index


def member(platform: str, **annotations: str) -> Descriptor:
    os, architecture, variant = (platform.split("/") + [""])[:3]
    digest = digest_of(platform.encode())
    return Descriptor(OCI_MANIFEST, digest, 1, Platform(os, architecture, variant), annotations)


@pytest.mark.parametrize(
    ("offered", "wanted", "chosen"),
    [
        ("linux/amd64 linux/arm64", "linux/arm64", "linux/arm64"),
        ("linux/arm64/v8 linux/amd64", "linux/arm64", "linux/arm64/v8"),
        ("linux/arm/v5 linux/arm/v6", "linux/arm/v7", "linux/arm/v6"),
        ("linux/arm/v7 linux/arm/v6", "linux/arm", "linux/arm/v7"),
        ("linux/amd64/v2 linux/amd64", "linux/amd64", "linux/amd64"),
        ("linux/amd64/v2 linux/amd64", "linux/amd64/v3", "linux/amd64/v2"),
        ("windows/amd64 linux/386", "linux/amd64", "linux/386"),
    ],
)
def test_the_best_member_of_an_index_is_chosen(offered: str, wanted: str, chosen: str) -> None:
    members = [member(platform) for platform in offered.split()]
    assert choose(members, Platform.parse(wanted)) == member(chosen)


@pytest.mark.parametrize("offered", ["windows/amd64", "linux/arm/v7", "linux/amd64/v3", "unknown/unknown"])
def test_what_does_not_fit_is_not_found_and_the_hint_lists_what_there_is(offered: str) -> None:
    with pytest.raises(NotFound, match="no matching manifest for linux/amd64 in the manifest list entries") as caught:
        choose([member(offered)], Platform("linux", "amd64"))
    assert offered in str(caught.value.hint)


def test_attestations_are_no_images() -> None:
    attestation = member("linux/amd64", **{"vnd.docker.reference.type": "attestation-manifest"})
    with pytest.raises(NotFound):
        choose([attestation], Platform("linux", "amd64"))


def test_times() -> None:
    assert parse_rfc3339_ns("1970-01-01T00:00:01.000000005Z") == 1_000_000_005
    assert parse_rfc3339_ns("1970-01-01T01:00:00+01:00") == 0
    assert parse_rfc3339_ns("0001-01-01T00:00:00Z") == 0
    assert parse_rfc3339_ns("") == 0
    assert parse_rfc3339_ns(rfc3339(1_700_000_000_123_456_789)) == 1_700_000_000_123_456_789
    assert parse_time_ns("1700000000.5") == 1_700_000_000_500_000_000
    assert abs(parse_time_ns("1h30m") - (time.time_ns() - 5400 * 10**9)) < 10**9
    for bad in ("yesterday", "1h30", "12:00"):
        with pytest.raises(InvalidArgument):
            parse_time_ns(bad)


def test_changes_of_every_kind() -> None:
    before = ContainerConfig(env=["PATH=/bin", "A=0"], labels={"old": "1"})
    config = apply_changes(
        before,
        [
            "cmd echo hello",
            'ENTRYPOINT ["/init"]',
            "ENV A=1\nENV B two words",
            "EXPOSE 80/tcp 1000-1002/udp",
            'LABEL x="y z" k=v',
            'VOLUME ["/a", "/b"]',
            "USER 1:2",
            "WORKDIR /srv",
            "WORKDIR sub",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN true",
        ],
    )
    assert config.cmd == ["/bin/sh", "-c", "echo hello"]
    assert config.entrypoint == ["/init"]
    assert config.env == ["PATH=/bin", "A=1", "B=two words"]
    assert set(config.exposed_ports) == {"80/tcp", "1000/udp", "1001/udp", "1002/udp"}
    assert config.labels == {"old": "1", "x": "y z", "k": "v"}
    assert set(config.volumes) == {"/a", "/b"}
    assert (config.user, config.working_dir, config.stop_signal) == ("1:2", "/srv/sub", "SIGINT")
    assert config.on_build == ["RUN true"]
    assert before.env == ["PATH=/bin", "A=0"]


@pytest.mark.parametrize(
    "change", ["RUN rm -rf /", "ENV", "ENV x", "EXPOSE 99999", "EXPOSE a", "LABEL a=1 b", 'ENV A="', "COPY . ."]
)
def test_bad_changes_are_invalid(change: str) -> None:
    with pytest.raises(InvalidArgument):
        apply_changes(ContainerConfig(), [change])


def test_changes_see_the_environment_so_far() -> None:
    before = ContainerConfig(env=["PATH=/bin", "EMPTY="])
    changes = [
        "ENV A=$PATH:/x B=${PATH} C='$PATH' D=\\$PATH E=${NO:-else} F=${PATH:+yes} G=${EMPTY:-else} H=$NO",
        "# a comment",
        "WORKDIR ${A}",
        "LABEL path=$B",
    ]
    config = apply_changes(before, changes)
    found = dict(entry.split("=", 1) for entry in config.env)
    assert found == {
        "PATH": "/bin",
        "EMPTY": "",
        "A": "/bin:/x",
        "B": "/bin",
        "C": "$PATH",
        "D": "$PATH",
        "E": "else",
        "F": "yes",
        "G": "else",
        "H": "",
    }
    assert config.working_dir == "/bin:/x"
    assert config.labels == {"path": "/bin"}
    assert apply_changes(before, ["CMD echo $PATH"]).cmd == ["/bin/sh", "-c", "echo $PATH"]


def test_an_entrypoint_drops_the_command_unless_one_was_given_before_it() -> None:
    before = ContainerConfig(cmd=["old"], entrypoint=["e"])
    assert apply_changes(before, ["ENTRYPOINT /x"]).cmd is None
    assert apply_changes(before, ["CMD new", "ENTRYPOINT /x"]).cmd == ["/bin/sh", "-c", "new"]
    cleared = apply_changes(before, ["ENTRYPOINT []", 'CMD ["a"]'])
    assert (cleared.entrypoint, cleared.cmd) == ([], ["a"])


def test_health_checks_are_changes() -> None:
    changes = ["HEALTHCHECK --interval=1m30s --timeout=2s --start-period=100ms --retries=3 CMD curl x"]
    found = apply_changes(ContainerConfig(), changes).healthcheck
    assert found is not None
    assert (found.interval, found.timeout, found.start_period, found.retries) == (90 * 10**9, 2 * 10**9, 10**8, 3)
    assert found.test == ["CMD-SHELL", "curl x"]
    shell = apply_changes(ContainerConfig(), ['HEALTHCHECK CMD ["a", "b"]']).healthcheck
    assert shell is not None
    assert shell.test == ["CMD", "a", "b"]
    none = apply_changes(ContainerConfig(), ["HEALTHCHECK NONE"])
    assert image_config(none) == {"Healthcheck": {"Test": ["NONE"]}}
    for bad in ("HEALTHCHECK x", "HEALTHCHECK --nonsense=1 CMD x", "HEALTHCHECK --interval=x CMD y", "HEALTHCHECK CMD"):
        with pytest.raises(InvalidArgument):
            apply_changes(ContainerConfig(), [bad])


def test_a_config_is_written_as_go_programs_write_it() -> None:
    document = {
        "history": [{"created_by": "a > b && c", "author": "Me <m@x>"}],
        "os": "linux",
        "created": rfc3339(1_000_000_500_000_000),
        "config": image_config(ContainerConfig(labels={"b": "ü", "a": "1"}, user="x")),
    }
    assert make_config(document).decode() == (
        '{"created":"1970-01-12T13:46:40.5Z","os":"linux","config":{"User":"x","Labels":{"a":"1","b":"ü"}},'
        r'"history":[{"created_by":"a \u003e b \u0026\u0026 c","author":"Me \u003cm@x\u003e"}]}'
    )


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("a*", "abc", True),
        ("a*", "a/c", False),
        ("a?c", "abc", True),
        ("[a-c]x", "bx", True),
        ("[^a]x", "ax", False),
        ("a.c", "abc", False),
        (r"a\*", "a*", True),
    ],
)
def test_globs_are_those_of_go(pattern: str, text: str, matches: bool) -> None:
    import re

    assert bool(re.fullmatch(_glob(pattern), text)) is matches


def made(folder: Path, name: str) -> str:
    (folder / name).mkdir(parents=True)
    return str(folder / name)


def test_the_index_is_read_from_names_alone(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    index = Index(tmp_path / "s")
    one = Entry(index.number(), "sha256:" + "a" * 64, None, Usage(5, 2))
    index.add(one, made(tmp_path, "x"))
    index.add(Entry(index.number(), "b" * 64, one, None), made(tmp_path, "y"))
    again = Index(tmp_path / "s")
    assert [entry.snapshot for entry in again.all()] == [entry.snapshot for entry in index.all()]
    assert again.get(one.key).usage == Usage(5, 2)
    assert again.number() == 3
    with pytest.raises(Conflict, match="in use by 1"):
        again.take_away(one.key, str(tmp_path / "trash"))
    assert again.take_away("b" * 64, str(tmp_path / "t1"))
    assert again.take_away(one.key, str(tmp_path / "t2"))
    assert not again.take_away(one.key, str(tmp_path / "t3"))


def test_spares_of_a_killed_daemon_are_told_from_those_that_are_made_meanwhile(tmp_path: Path) -> None:
    for number in range(20):
        state = tmp_path / str(number)
        for left in range(50):
            (state / "trash" / f"t{left}").mkdir(parents=True)
            (state / "spare" / f"s{left}" / "diff").mkdir(parents=True)
        folder = SnapshotFolder(state, ("diff", "work"))
        deadline = time.monotonic() + 10
        while len(folder._spares) < 8 and time.monotonic() < deadline:
            time.sleep(0.001)
        folder.close()
        assert [sorted(os.listdir(spare)) for spare in folder._spares] == [["diff", "work"]] * 8
