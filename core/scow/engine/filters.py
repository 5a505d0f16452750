"""Docker's ``filters``: names are checked, labels matched."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def check_filters(filters: Mapping[str, Sequence[str]], known: Iterable[str]) -> Mapping[str, Sequence[str]]:
    """*filters* without empty ones; raises `InvalidArgument` for a name that is not *known*."""
    for name in filters:
        if name not in known:
            raise InvalidArgument(f"invalid filter '{name}'", hint=f"known: {', '.join(sorted(known))}")
    return {name: values for name, values in filters.items() if values}


def match_pattern(patterns: Sequence[str], text: str) -> bool:
    """Whether one of *patterns*, regular expressions, is found in *text*; what is no expression matches as it is."""
    for pattern in patterns:
        try:
            if re.search(pattern, text):
                return True
        except re.error:
            if pattern in text:
                return True
    return False


def match_labels(wanted: Sequence[str], labels: Mapping[str, str]) -> bool:
    """Whether every ``key`` or ``key=value`` of *wanted* is in *labels*."""
    for text in wanted:
        key, equals, value = text.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True
