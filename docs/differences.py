"""The page of what runtimes do not do alike, from the table of the differential test (``tests/differential``)."""

from __future__ import annotations

from docs.markdown import page, table
from tests.differential.corpus import all_cases
from tests.differential.differences import DIFFERENCES

INTRODUCTION = """\
{count} configurations of a bundle run under runc 1.1.5, crun 1.8.1 (Debian 12's) and `scow-runtime`, and what the
program inside can observe is compared, with exit codes, cgroup files and what is left behind
(`tests/differential`). All three show the same but for what stands here. The test fails where an observation differs
and is not here, and where an entry is not needed any more.

Names are those of the cases in `tests/differential/cases_*.py`; `*` stands for anything. Of exit codes and words for
mistakes in a command line, runc's are what the others are measured by."""

TITLES = {"scow-runtime": "scow-runtime", "runc": "runc 1.1.5", "crun": "crun 1.8.1"}


def differences_page() -> str:
    """Where runc, crun and scow-runtime differ, from the table of the differential test."""
    parts = []
    for runtime, title in TITLES.items():
        rows: dict[str, list[str]] = {}
        for entry in DIFFERENCES:
            if entry.runtime == runtime:
                rows.setdefault(entry.reason, []).append(f"`{entry.cases}`: `{entry.keys}`")
        parts += [
            f"## {title}",
            table(("what", "case: observation"), ((why, "; ".join(of)) for why, of in rows.items())),
        ]
    return page("Differences between runtimes", INTRODUCTION.format(count=len(all_cases())), *parts)
