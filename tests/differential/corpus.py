"""What a case of the differential test is: a change of a base configuration, and what is looked at.

The modules ``cases_*`` fill `CASES` by the decorator `case`; `all_cases` reads them. A case answers *observations*: a
flat mapping of names (``mount:/dev/shm``, ``exit``) to texts without ids, paths and times of one run.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.differential.run import Run

Spec = dict[str, Any]
Observed = dict[str, str]
ERRORS = "(standard error)"  # an observation that is shown and not compared
Change = Callable[[Spec, "Run"], None]
Drive = Callable[["Run"], Observed]


@dataclass(frozen=True)
class Case:
    """*look* names looks of `tests.differential.looks` to take inside, *sh* is shell text whose output is kept as it
    is; *drive* runs the runtime and answers more observations. *expect* is what the specification says: it counts as
    the observation of one runtime more."""

    name: str
    about: str
    change: Change
    drive: Drive
    look: tuple[str, ...]
    sh: Mapping[str, str]
    expect: Mapping[str, str]
    sample: bool


CASES: dict[str, Case] = {}


def case(
    *look: str,
    sh: Mapping[str, str] | None = None,
    drive: Drive | None = None,
    expect: Mapping[str, str] | None = None,
    sample: bool = False,
) -> Callable[[Change], Change]:
    """The decorated function changes the configuration; its name is the case's, its docstring says what is shown."""

    def register(change: Change) -> Change:
        from tests.differential.run import to_the_end

        name = change.__name__.replace("_", "-")
        assert name not in CASES, f"two cases named {name}"
        about = " ".join((change.__doc__ or "").split())
        CASES[name] = Case(name, about, change, drive or to_the_end, look, sh or {}, expect or {}, sample)
        return change

    return register


def all_cases() -> dict[str, Case]:
    """Every case, in the order of modules and lines."""
    for path in sorted(Path(__file__).parent.glob("cases_*.py")):
        importlib.import_module(f"{__package__}.{path.stem}")
    return CASES
