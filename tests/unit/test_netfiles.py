"""/etc/hosts, /etc/resolv.conf and /etc/hostname of containers."""

from __future__ import annotations

import pytest

from scow.engine import netfiles
from scow.errors import InvalidArgument


def test_hosts_has_dockers_lines_then_extra_hosts_then_the_container_itself() -> None:
    text = netfiles.hosts_file("c1", ["172.29.0.2"], extra_hosts=["db:10.0.0.9"])
    assert text == (
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::\tip6-localnet\n"
        "ff00::\tip6-mcastprefix\n"
        "ff02::1\tip6-allnodes\n"
        "ff02::2\tip6-allrouters\n"
        "10.0.0.9\tdb\n"
        "172.29.0.2\tc1\n"
    )


def test_hosts_has_a_line_for_each_network_and_none_without_address() -> None:
    text = netfiles.hosts_file("c1", ["172.29.0.2", "", "172.29.1.2"], domainname="example.org", aliases=["web", "c1"])
    assert text.splitlines()[6:] == ["172.29.0.2\tc1.example.org c1 web", "172.29.1.2\tc1.example.org c1 web"]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("db:10.0.0.9", ("10.0.0.9", "db")),
        ("db=10.0.0.9", ("10.0.0.9", "db")),
        ("six:fd00::1", ("fd00::1", "six")),
        ("six:[fd00::1]", ("fd00::1", "six")),
        ("six=[fd00::1]", ("fd00::1", "six")),
    ],
)
def test_extra_hosts_are_understood_in_dockers_forms(entry: str, expected: tuple[str, str]) -> None:
    assert netfiles.parse_extra_hosts([entry]) == [expected]


def test_host_gateway_becomes_every_gateway_address() -> None:
    found = netfiles.parse_extra_hosts(["host.docker.internal:host-gateway"], ["172.29.0.1", "fd00::1"])
    assert found == [("172.29.0.1", "host.docker.internal"), ("fd00::1", "host.docker.internal")]


@pytest.mark.parametrize("entry", ["db", "db:", ":10.0.0.1", "", "a b:10.0.0.1", "db:10.0.0.999", "h:host-gateway"])
def test_an_extra_host_that_cannot_be_used_is_refused_by_name(entry: str) -> None:
    with pytest.raises(InvalidArgument, match="add-host|host-gateway"):
        netfiles.parse_extra_hosts([entry])


def test_host_network_copies_the_hosts_file_and_appends() -> None:
    assert netfiles.host_hosts_file("127.0.0.1 box", ["db:10.0.0.9"]) == "127.0.0.1 box\n10.0.0.9\tdb\n"
    assert netfiles.host_hosts_file("127.0.0.1 box\n") == "127.0.0.1 box\n"


def test_resolv_conf_keeps_the_hosts_servers_search_and_options() -> None:
    host = "# made by dhcp\nnameserver 192.0.2.53\nnameserver 192.0.2.54 ; second\n"
    host += "search a.example b.example\noptions rotate\n"
    expected = "nameserver 192.0.2.53\nnameserver 192.0.2.54\nsearch a.example b.example\noptions rotate\n"
    assert netfiles.resolv_conf(host) == expected


def test_loopback_and_ipv6_servers_are_left_out() -> None:
    host = "nameserver 127.0.0.1\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver 192.0.2.53\n"
    assert netfiles.resolv_conf(host) == "nameserver 192.0.2.53\n"
    assert "fe80::1%eth0" in netfiles.resolv_conf(host, ipv6=True)


def test_public_servers_only_where_none_is_left() -> None:
    assert netfiles.resolv_conf("nameserver 127.0.0.1\n") == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
    assert netfiles.resolv_conf("") == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"


def test_each_option_replaces_its_own_part_of_the_hosts_file() -> None:
    host = "nameserver 192.0.2.53\nsearch a.example\noptions rotate\n"
    assert netfiles.resolv_conf(host, dns=["127.0.0.1"]) == "nameserver 127.0.0.1\nsearch a.example\noptions rotate\n"
    assert netfiles.resolv_conf(host, search=["."]) == "nameserver 192.0.2.53\noptions rotate\n"
    assert netfiles.resolv_conf(host, options=["ndots:2"]).endswith("options ndots:2\n")


def test_the_last_search_or_domain_line_counts() -> None:
    assert netfiles.parse_resolv_conf("search a b\ndomain c\n").search == ("c",)


def test_only_systemds_stub_alone_sends_us_to_its_own_file() -> None:
    assert netfiles.wants_systemd_file("nameserver 127.0.0.53\noptions edns0\n")
    assert not netfiles.wants_systemd_file("nameserver 127.0.0.53\nnameserver 192.0.2.53\n")
    assert not netfiles.wants_systemd_file("")


def test_host_network_has_the_hosts_file_unless_something_is_replaced() -> None:
    host = "# comment\nnameserver 127.0.0.1\n"
    assert netfiles.host_resolv_conf(host) == host
    assert netfiles.host_resolv_conf(host, search=["x"]) == "nameserver 127.0.0.1\nsearch x\n"


def test_embedded_server_takes_names_as_they_are_and_asks_the_hosts_servers() -> None:
    host = "nameserver 127.0.0.1\nsearch a.example\noptions rotate\n"
    text = netfiles.embedded_resolv_conf("127.0.0.11", host)
    assert text == "nameserver 127.0.0.11\nsearch a.example\noptions rotate ndots:0\n"
    assert netfiles.embedded_resolv_conf("127.0.0.11", host, options=["ndots:1"]).endswith("options ndots:1\n")
    assert netfiles.upstream_servers(host) == ("127.0.0.1",)
    assert netfiles.upstream_servers(host, ["192.0.2.1"]) == ("192.0.2.1",)
    assert netfiles.upstream_servers("") == ("8.8.8.8", "8.8.4.4")


def test_hostname_ends_with_a_newline() -> None:
    assert netfiles.hostname_file("c1") == "c1\n"


@pytest.mark.parametrize(
    "words", [(["192.0.2.1\nx"], [], []), (["host"], [], []), ([], ["a b"], []), ([], [], ["x\n"])]
)
def test_what_is_no_line_of_a_resolv_conf_is_refused(words: tuple[list[str], list[str], list[str]]) -> None:
    with pytest.raises(InvalidArgument, match="bad DNS"):
        netfiles.check_resolver(*words)
    netfiles.check_resolver(["192.0.2.1", "2001:db8::1"], ["example.org", "."], ["ndots:1"])
