"""Tables, sizes and ages as docker shows them, and Go's templates."""

from __future__ import annotations

from typing import Any

import pytest

from scow.cli import format as fmt
from scow.cli.gotemplate import Template
from scow.cli.ps import container_row, ports_text
from scow.cli.stats import stats_row
from scow.errors import InvalidArgument

VALUE: dict[str, Any] = {
    "A": {"B": 1},
    "Map": {"k": "v", "list": [1, 2]},
    "List": ["x", "y"],
    "Null": None,
    "Yes": True,
    "Float": 1.5,
    "Zero": 0,
    "Ports": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}], "90/udp": None},
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", "plain"),
        ("{{.A.B}}", "1"),
        ("{{ .Yes }} {{.Float}} {{.Zero}}", "true 1.5 0"),
        ("{{.Map}} {{.List}}", "map[k:v list:[1 2]] [x y]"),
        ("{{.Nope}} {{.Null}} {{.A.Nope}}", "<no value> <no value> <no value>"),
        ("{{json .Map}}", '{"k":"v","list":[1,2]}'),
        ("{{json .Nope}}", "null"),
        ("{{range $k, $v := .Map}}{{$k}}={{$v}};{{end}}", "k=v;list=[1 2];"),
        ("{{range .List}}[{{.}}]{{end}}", "[x][y]"),
        ("{{range .Null}}a{{else}}none{{end}}", "none"),
        ("{{range $i, $e := .List}}{{if $i}},{{end}}{{$e}}{{end}}", "x,y"),
        ("{{range .List}}{{.}}{{break}}{{end}}", "x"),
        ('{{range .List}}{{if eq . "x"}}{{continue}}{{end}}{{.}}{{end}}', "y"),
        ("{{if .Null}}a{{else if .List}}b{{else}}c{{end}}", "b"),
        ("{{if and .Yes (gt .A.B 0) (not .Zero)}}y{{end}}", "y"),
        ("{{if or .Zero .Null}}y{{else}}n{{end}}", "n"),
        ("{{with .A}}{{.B}}{{end}}{{with .Null}}x{{else}}-{{end}}", "1-"),
        ('{{index .Map "k"}} {{index .List 1}} {{index .Map "list" 0}}', "v y 1"),
        ('{{(index (index .Ports "80/tcp") 0).HostPort}}', "8080"),
        (
            "{{range $p, $c := .Ports}}{{$p}} -> {{if $c}}{{(index $c 0).HostPort}}{{else}}-{{end}} {{end}}",
            "80/tcp -> 8080 90/udp -> - ",
        ),
        ("{{len .List}} {{len .Map}}", "2 2"),
        ('{{join .List ", "}}', "x, y"),
        ('{{split "a,b" ","}}', "[a b]"),
        ('{{.Map.k | upper}} {{lower "AB"}} {{title "ab"}}', "V ab Ab"),
        ("{{println .A.B}}", "1\n"),
        ('{{print "a" 1 2 "b"}}', "a1 2b"),
        ('{{printf "%-4s|%4d|%q|%.2f%%" .Map.k 7 "x" 1.5}}', 'v   |   7|"x"|1.50%'),
        ("{{$x := 1}}{{range .List}}{{$x = 2}}{{end}}{{$x}}", "2"),
        ("a {{- .A.B -}} b", "a1b"),
        ("{{/* nothing */}}x", "x"),
        ('{{slice "abcdef" 1 3}} {{truncate "abcdef" 2}}', "bc ab"),
        ("{{.}}", None),
        ("{{$.A.B}}", "1"),
        ('{{pad "x" 1 2}}|', " x  |"),
        ("{{`raw`}}", "raw"),
        (r'{{"a\tb"}}', "a\tb"),
    ],
)
def test_templates_are_gos(template: str, expected: str | None) -> None:
    rendered = Template(template).render(VALUE)
    assert expected is None or rendered == expected


@pytest.mark.parametrize(
    "template",
    ["{{", "{{.A", "{{nope .A}}", "{{range .A}}", "{{end}}", "{{else}}", "{{if}}{{end}}", "{{.A ~ .B}}", "{{(.A}}"],
)
def test_a_malformed_template_is_refused(template: str) -> None:
    with pytest.raises(InvalidArgument, match="template parsing error"):
        Template(template)


@pytest.mark.parametrize("template", ["{{index .List 9}}", "{{.List.x}}", "{{$nope}}", "{{gt .A.B .List}}"])
def test_a_template_that_does_not_fit_is_an_error(template: str) -> None:
    with pytest.raises(InvalidArgument, match="template error"):
        Template(template).render(VALUE)


def test_columns_are_at_least_ten_wide_and_three_apart() -> None:
    assert fmt.table([["A", "LONG HEADING", "C"], ["x", "y", "z"]]) == (
        "A         LONG HEADING   C\nx         y              z\n"
    )


COLUMNS = {"ID": "CONTAINER ID", "Name": "NAMES"}
ROWS = [{"ID": "abc", "Name": "one", "Label": lambda name="": f"<{name}>"}]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, "CONTAINER ID   NAMES\nabc            one\n"),
        ("table", "CONTAINER ID   NAMES\nabc            one\n"),
        ("table {{.Name}}\\t{{.ID}}", "NAMES     CONTAINER ID\none       abc\n"),
        ('table {{.ID}}\t{{.Label "x"}}', "CONTAINER ID   x\nabc            <x>\n"),
        ("{{.ID}}/{{.Name}}", "abc/one\n"),
        ("json", '{"ID":"abc","Name":"one"}\n'),
    ],
)
def test_formats(template: str | None, expected: str) -> None:
    assert fmt.show(ROWS, COLUMNS, default="ID Name", template=template) == expected


def test_no_rows_leave_the_heading() -> None:
    assert fmt.show([], COLUMNS, default="ID Name", template=None) == "CONTAINER ID   NAMES\n"


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (1234567, "1.235MB"), (192_000_000, "192MB"), (5_500_000_000, "5.5GB")],
)
def test_human_sizes(size: int, expected: str) -> None:
    assert fmt.human_size(size) == expected


def test_binary_sizes() -> None:
    assert (fmt.binary_size(1536), fmt.binary_size(0), fmt.binary_size(7 << 30)) == ("1.5KiB", "0B", "7GiB")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.3, "Less than a second"),
        (1, "1 second"),
        (47, "47 seconds"),
        (60, "About a minute"),
        (3 * 60 + 40, "3 minutes"),
        (60 * 60, "About an hour"),
        (3 * 3600, "3 hours"),
        (47 * 3600, "47 hours"),
        (2 * 86400, "2 days"),
        (15 * 86400, "2 weeks"),
        (65 * 86400, "2 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations_for_people(seconds: float, expected: str) -> None:
    assert fmt.human_duration(seconds) == expected


def test_api_times() -> None:
    assert fmt.seconds_of("2023-11-14T22:13:20.5Z") == 1700000000.5
    assert fmt.seconds_of("2023-11-14T23:13:20.123456789+01:00") == pytest.approx(1700000000.123456789)
    assert fmt.seconds_of("0001-01-01T00:00:00Z") == 0


def port(private: int, public: int = 0, ip: str = "", kind: str = "tcp") -> dict[str, Any]:
    return {"PrivatePort": private, "Type": kind, **({"PublicPort": public, "IP": ip} if public else {})}


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ([], ""),
        ([port(80)], "80/tcp"),
        ([port(80, 8080, "0.0.0.0")], "0.0.0.0:8080->80/tcp"),
        ([port(80, 8080, "::"), port(80, 8080, "0.0.0.0")], "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"),
        (
            [port(9002, 8002, "0.0.0.0"), port(9000, 8000, "0.0.0.0"), port(9001, 8001, "0.0.0.0")],
            "0.0.0.0:8000-8002->9000-9002/tcp",
        ),
        ([port(5), port(6), port(9, kind="udp")], "5-6/tcp, 9/udp"),
    ],
)
def test_ports_are_grouped(ports: list[dict[str, Any]], expected: str) -> None:
    assert ports_text(ports) == expected


def test_a_container_row_is_short() -> None:
    entry = {
        "Id": "0123456789abcdef" * 4,
        "Image": "nginx",
        "ImageID": "sha256:" + "1" * 64,
        "Command": "/docker-entrypoint.sh nginx -g daemon",
        "Created": 1700000000,
        "State": "running",
        "Status": "Up 2 hours",
        "Names": ["/web", "/other/alias"],
        "Labels": {"a": "b"},
        "SizeRw": 1093,
        "SizeRootFs": 187_000_000,
    }
    row = container_row(entry, trunc=True)
    assert row["ID"] == "0123456789ab"
    assert row["Command"] == '"/docker-entrypoint.…"'
    assert row["Names"] == "web"
    assert row["Size"]() == "1.09kB (virtual 187MB)"
    assert row["Label"]("a") == "b"
    assert container_row(entry, trunc=False)["Names"] == "web,other/alias"


def test_stats_are_computed_as_dockers() -> None:
    row = stats_row(
        {
            "id": "f" * 64,
            "name": "/web",
            "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
            "memory_stats": {"usage": 3 << 20, "limit": 8 << 20, "stats": {"inactive_file": 1 << 20}},
            "networks": {"eth0": {"rx_bytes": 1000, "tx_bytes": 2000}, "eth1": {"rx_bytes": 500, "tx_bytes": 0}},
            "blkio_stats": {"io_service_bytes_recursive": [{"op": "Read", "value": 4096}, {"op": "write", "value": 5}]},
            "pids_stats": {"current": 3},
        },
        trunc=True,
    )
    assert (row["Name"], row["CPUPerc"], row["MemUsage"], row["MemPerc"]) == ("web", "40.00%", "2MiB / 8MiB", "25.00%")
    assert (row["NetIO"], row["BlockIO"], row["PIDs"]) == ("1.5kB / 2kB", "4.1kB / 5B", "3")


def test_filters_are_collected_by_name() -> None:
    assert fmt.filters(["label=a=b", "label=c", "status=running"]) == {"label": ["a=b", "c"], "status": ["running"]}
    with pytest.raises(InvalidArgument, match="invalid filter 'x'"):
        fmt.filters(["x"])
