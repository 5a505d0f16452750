"""Observations of several runtimes side by side: what differs without an excuse, and which excuses were needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.differential.corpus import ERRORS, Case, Observed
from tests.differential.differences import DIFFERENCES, Difference

SPEC = "the specification"
NOT_SEEN = "(not seen)"
_ALWAYS = {"exit", "left", ERRORS}


@dataclass
class Verdict:
    """*unexplained* has a line for each key that differs; *used* are the entries that excused something."""

    unexplained: list[str] = field(default_factory=list)
    used: set[Difference] = field(default_factory=set)


def compare(case: Case, seen: Mapping[str, Observed], table: tuple[Difference, ...] = DIFFERENCES) -> Verdict:
    """*seen* are the observations of *case* by runtime. What the case expects counts as one runtime more."""
    verdict = Verdict()
    for key in sorted({key for observed in seen.values() for key in observed} - {ERRORS} | set(case.expect)):
        values = {
            runtime: observed.get(key, NOT_SEEN)
            for runtime, observed in seen.items()
            if key in _ALWAYS or key in observed or not _failed(observed)
        }
        excuses = {runtime: [entry for entry in table if entry.covers(runtime, case.name, key)] for runtime in values}
        rest = {runtime: value for runtime, value in values.items() if not excuses[runtime]}
        if key in case.expect:
            rest[SPEC] = case.expect[key]
        if len(set(rest.values())) > 1:
            shown = "\n".join(f"    {runtime:>14}: {value!r}" for runtime, value in rest.items())
            verdict.unexplained.append(f"{case.name}, {key}:\n{shown}")
        elif len(set(rest.values()) | set(values.values())) > 1:
            for runtime, entries in excuses.items():
                if values[runtime] not in rest.values():
                    verdict.used.update(entries)
    if verdict.unexplained:
        said = [
            f"    {runtime:>14} says: {observed[ERRORS]}" for runtime, observed in seen.items() if observed.get(ERRORS)
        ]
        verdict.unexplained += said
    return verdict


def _failed(observed: Observed) -> bool:
    """Whether no program ran: then the exit code says it all."""
    return observed.get("exit", "0") != "0" and not set(observed) - _ALWAYS


def reachable(entry: Difference, cases: set[str]) -> set[str]:
    """Those of *cases* that *entry* speaks of."""
    return {name for name in cases if any(entry.covers(entry.runtime, name, key) for key in (entry.keys,))}
