"""The judgement of the differential test (tests/differential), without runtimes."""

from __future__ import annotations

from tests.differential.compare import compare, reachable
from tests.differential.corpus import Case, Observed, all_cases
from tests.differential.differences import DIFFERENCES, Difference
from tests.differential.looks import MARK, mounts, parse, script, status

EXCUSE = Difference("crun", "a-*", "mount:*", "it does so")


def a_case(name: str = "a-case", **expect: str) -> Case:
    return Case(name, "", lambda spec, run: None, lambda run: {}, (), {}, expect, sample=False)


def seen(runc: Observed, crun: Observed) -> dict[str, Observed]:
    return {"runc": runc, "crun": crun}


def test_a_difference_without_an_entry_is_told_with_each_runtimes_word() -> None:
    verdict = compare(a_case(), seen({"exit": "0", "cwd": "/"}, {"exit": "0", "cwd": "/x"}), ())
    assert len(verdict.unexplained) == 1
    assert "a-case, cwd" in verdict.unexplained[0] and "'/x'" in verdict.unexplained[0]


def test_an_entry_excuses_what_it_names_and_is_used() -> None:
    verdict = compare(a_case(), seen({"mount:/a": "1", "x": "1"}, {"mount:/a": "2", "x": "1"}), (EXCUSE,))
    assert (verdict.unexplained, verdict.used) == ([], {EXCUSE})


def test_an_entry_that_excuses_nothing_is_not_used() -> None:
    assert compare(a_case(), seen({"mount:/a": "1"}, {"mount:/a": "1"}), (EXCUSE,)).used == set()


def test_an_entry_excuses_no_other_case_and_no_other_runtime() -> None:
    different = seen({"mount:/a": "1"}, {"mount:/a": "2"})
    assert compare(a_case("b-case"), different, (EXCUSE,)).unexplained
    other = Difference("scow-runtime", "a-*", "mount:*", "")
    assert compare(a_case(), different, (other,)).unexplained


def test_what_the_specification_says_counts_as_a_runtime_more() -> None:
    same = seen({"exit": "1"}, {"exit": "1"})
    assert compare(a_case(exit="0"), same, ()).unexplained
    assert compare(a_case(exit="1"), same, ()).unexplained == []


def test_where_no_program_ran_only_exit_code_and_leavings_are_compared() -> None:
    verdict = compare(a_case(), seen({"exit": "0", "left": "", "cwd": "/"}, {"exit": "1", "left": ""}), ())
    assert len(verdict.unexplained) == 1 and verdict.unexplained[0].startswith("a-case, exit")


def test_looks_are_told_apart_by_their_marks() -> None:
    text = script(("uts",), {"free": "echo free"})
    assert f"{MARK}uts" in text and f"{MARK}free" in text
    assert parse(f"before\n{MARK}uts\nhost box\n{MARK}free\na\nb\n") == {
        "out": "before",
        "uts:host": "box",
        "free": "a\nb",
    }


def test_mounts_lose_their_numbers_and_the_order_of_their_options() -> None:
    line = "36 35 98:0 /mnt1 /a rw,noatime master:1 - ext3 /dev/root rw,errors=continue"
    again = line.replace("36", "77").replace("rw,noatime", "noatime,rw")
    assert list(mounts(line)) == [("/a", "ext3 noatime,rw errors=continue master root=/mnt1")]
    assert list(mounts(f"{line}\n{again}"))[1] == ("/a#2", "ext3 noatime,rw errors=continue master root=/mnt1")


def test_a_mount_is_read_only_where_its_file_system_is() -> None:
    line = "1 1 0:1 / /p rw - proc proc ro"
    assert list(mounts(line)) == [("/p", "proc ro")]


def test_signals_of_the_c_library_are_not_looked_at() -> None:
    assert dict(status("SigIgn:\t0000000180000004\nSigCgt:\t0000000000000001\n")) == {"SigIgn": "0000000000000004"}


def test_the_corpus_is_large_and_every_case_says_what_it_shows() -> None:
    cases = all_cases()
    assert len(cases) >= 60
    assert [name for name, case in cases.items() if not case.about.endswith(".")] == []


def test_every_entry_speaks_of_cases_that_exist() -> None:
    assert [entry for entry in DIFFERENCES if not reachable(entry, set(all_cases()))] == []
