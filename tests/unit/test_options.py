"""Scow's own options in create requests: where they are taken from, in which order, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from scow.config import load
from scow.engine.engine import Engine
from scow.errors import Forbidden, InvalidArgument
from scow.options import TABLE, Options, resolve
from scow.ports.network import Rates
from scow.rates import bits, parse, show
from tests.unit.test_engine import request, with_engine

RATE, USERNS = "scow.net-rate", "scow.userns"


def rates(annotation: str = "", label: str = "", default: str = "") -> Rates:
    named = [{RATE: text} if text else {} for text in (annotation, label)]
    return resolve(named[0], named[1], {"net-rate": default} if default else {}, {}).options.net_rate


def test_an_annotation_counts_more_than_a_label_and_a_label_more_than_the_default() -> None:
    assert rates("in=1mbit", "in=2mbit", "in=3mbit") == Rates(in_bits=1_000_000)
    assert rates("", "in=2mbit", "in=3mbit") == Rates(in_bits=2_000_000)
    assert rates("", "", "in=3mbit") == Rates(in_bits=3_000_000)
    assert rates() == Rates()


def test_what_was_asked_for_is_told_in_one_spelling_and_the_default_is_not() -> None:
    assert resolve({RATE: "OUT=1000kbit"}, {}, {}, {}).asked == {RATE: "out=1mbit"}
    assert resolve({}, {}, {"net-rate": "in=1mbit"}, {}).asked == {}


@pytest.mark.parametrize("where", ["annotations", "labels"])
def test_an_unknown_option_is_refused_and_the_known_ones_are_listed(where: str) -> None:
    named = {where: {"scow.speed": "1"}}
    with pytest.raises(InvalidArgument, match=r"unknown option 'scow\.speed'") as caught:
        resolve(named.get("annotations", {}), named.get("labels", {}), {}, {})
    assert caught.value.hint is not None
    assert all(f"scow.{name}" in caught.value.hint for name in TABLE)


def test_other_peoples_annotations_and_labels_are_left_alone() -> None:
    assert resolve({"org.scow": "x"}, {"scowl": "y", "com.example.scow.net-rate": "z"}, {}, {}).options == Options()


def test_a_value_that_cannot_be_read_names_where_it_stands() -> None:
    with pytest.raises(InvalidArgument, match=r"label scow\.net-rate: 'fast' is no pair"):
        rates(label="fast")


def test_a_denied_option_is_forbidden_to_requests_and_the_default_still_holds() -> None:
    denied = {"net-rate": "deny"}
    with pytest.raises(Forbidden, match=r"'scow\.net-rate' is denied"):
        resolve({RATE: "off"}, {}, {}, denied)
    assert resolve({}, {}, {"net-rate": "in=1mbit"}, denied).options.net_rate == Rates(in_bits=1_000_000)


def test_the_config_refuses_options_that_there_are_not_and_values_that_they_do_not_take(tmp_path: Path) -> None:
    file = tmp_path / "scow.yaml"
    for text, message in (
        ("container_options: {speed: 1}", r"container_options\.speed .*unknown option 'scow\.speed'"),
        ("container_options: {net-rate: fast}", r"container_options\.net-rate .*'fast' is no pair"),
        ("request_options: {net-rate: maybe}", r"request_options\.net-rate .*allow or deny"),
        ("request_options: {speed: deny}", r"request_options\.speed .*unknown option"),
        ("container_options: {userns: auto}", r"container_options\.userns .*the default of .* is another key"),
    ):
        file.write_text(text)
        with pytest.raises(InvalidArgument, match=message):
            load(file, {}, {})
    file.write_text("container_options: {net-rate: off}\nrequest_options: {net-rate: deny}")
    assert load(file, {}, {}).request_options == {"net-rate": "deny"}


def test_an_image_cannot_grant_itself_an_option(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        image = engine.images.get("img")
        image.config.config.labels = {RATE: "in=1mbit", "scow.unknown": "x"}
        id, _ = await engine.containers.create(request("true"))
        record = engine.containers.get(id)
        assert record.options == Options()
        assert record.config.labels == {RATE: "in=1mbit", "scow.unknown": "x"}

    with_engine(tmp_path, test)


@pytest.mark.parametrize(
    ("flag", "annotation", "label", "mode", "own_ids"),
    [
        ("", None, None, "", False),
        ("", "auto", None, "auto", True),
        ("", None, "auto", "auto", True),
        ("", "host", "auto", "host", False),
        ("host", "auto", "auto", "host", False),
        ("auto", "host", None, "auto", True),
        ("", "", "auto", "", False),
    ],
)
def test_a_user_namespace_is_had_by_flag_or_annotation_or_label(
    tmp_path: Path, flag: str, annotation: str | None, label: str | None, mode: str, own_ids: bool
) -> None:
    async def test(engine: Engine) -> None:
        named = [{} if text is None else {USERNS: text} for text in (annotation, label)]
        asked = request("true", userns_mode=flag, annotations=named[0])
        asked.labels = named[1]
        id, _ = await engine.containers.create(asked)
        record = engine.containers.get(id)
        assert (record.host_config.userns_mode, record.ids is not None) == (mode, own_ids)
        assert record.options.userns == mode

    with_engine(tmp_path, test)


def test_a_user_namespace_that_cannot_be_is_refused_however_it_was_said(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        for value, host, message in (
            ("private", {}, r"annotation scow\.userns: invalid userns mode: private"),
            ("auto", {"privileged": True}, "privileged mode is incompatible with user namespaces"),
            ("auto", {"pid_mode": "host"}, "cannot share the host PID namespace"),
        ):
            with pytest.raises(InvalidArgument, match=message):
                await engine.containers.create(request("true", annotations={USERNS: value}, **host))
        assert engine.containers.records() == []

    with_engine(tmp_path, test)


def test_denied_user_namespaces_are_the_configs_to_choose_for_dockers_own_field_too(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        engine.config.request_options["userns"] = "deny"  # type: ignore[index]
        for host in ({"annotations": {USERNS: "auto"}}, {"userns_mode": "host"}):
            with pytest.raises(Forbidden, match=r"'scow\.userns' is denied"):
                await engine.containers.create(request("true", **host))
        await engine.containers.create(request("true"))

    with_engine(tmp_path, test)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("in=10mbit,out=1mbit", Rates(10_000_000, 1_000_000)),
        ("out=1.5mbit", Rates(0, 1_500_000)),
        ("in=125kbps", Rates(1_000_000, 0)),
        ("IN=1Gbit", Rates(10**9, 0)),
        ("in=64000", Rates(64_000, 0)),
        ("in=off,out=1gbps", Rates(0, 8 * 10**9)),
        ("off", Rates()),
        ("0", Rates()),
    ],
)
def test_rates_are_read_as_tc_reads_them(text: str, expected: Rates) -> None:
    assert parse(text) == expected
    assert parse(show(expected)) == expected


def test_a_side_that_is_not_named_keeps_its_rate() -> None:
    before = parse("in=10mbit,out=1mbit")
    assert show(parse("in=5mbit", before)) == "in=5mbit,out=1mbit"
    assert show(parse("out=off", before)) == "in=10mbit"
    assert show(parse("off", before)) == "off"


@pytest.mark.parametrize(
    "text",
    ["", "10mbit", "in=", "in=1mbit,in=2mbit", "up=1mbit", "in=1mbit out=1mbit", "in=-1mbit", "in=1mb", "in=1e9"],
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse(text)


@pytest.mark.parametrize("text", ["1bit", "7999", "1001gbit", "9999999999999tbit"])
def test_a_rate_out_of_bounds_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="not within"):
        bits(text)
