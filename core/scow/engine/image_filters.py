"""The filters of ``docker images``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from scow.engine.filters import check_filters, match_labels
from scow.engine.times import parse_time_ns
from scow.errors import InvalidArgument
from scow.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scow.engine.image_store import ImageStore
    from scow.engine.model import Image

KNOWN = ("reference", "dangling", "label", "label!", "before", "since", "until")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def filter_images(store: ImageStore, filters: Mapping[str, Sequence[str]], all: bool) -> list[Image]:
    """The images of *store* that pass *filters*, newest first; with ``reference`` only with the names that match.
    Those that have children and no name, the steps of a build, only with *all*.

    Raises `InvalidArgument` for an unknown filter or value, `NotFound` for the image of ``before`` or ``since``.
    """
    tests = [_test(store, name, values) for name, values in check_filters(filters, KNOWN).items()]
    found = [image for image in store.all() if False not in (test(image) for test in tests)]
    found = [image for image in found if all or image.tags or image.digests or not store.children(image.id)]
    patterns = filters.get("reference")
    if not patterns:
        return found
    tests_of_names = [_name_test(pattern) for pattern in patterns]
    shown = (_with_names(image, lambda name: any(test(name) for test in tests_of_names)) for image in found)
    return [image for image in shown if image.tags or image.digests]


def matches(image: Image, pattern: str) -> bool:
    """Whether a name of *image* is like *pattern*: ``nginx``, ``nginx:1.*``, ``docker.io/library/ngin?``."""
    return any(map(_name_test(pattern), (*image.tags, *image.digests)))


def parse_flag(name: str, values: Sequence[str]) -> bool:
    """What the filter *name* says. Raises `InvalidArgument` where that is neither true nor false."""
    flag = _FLAGS.get(values[0].lower())
    if flag is None:
        raise InvalidArgument(f"invalid filter '{name}={values[0]}'", hint="true or false")
    return flag


def _with_names(image: Image, wanted: Callable[[str], bool]) -> Image:
    tags, digests = tuple(filter(wanted, image.tags)), tuple(filter(wanted, image.digests))
    return msgspec.structs.replace(image, tags=tags, digests=digests)


def _name_test(pattern: str) -> Callable[[str], bool]:
    try:
        glob = re.compile(_glob(pattern))
    except re.error as error:
        raise InvalidArgument(f"invalid filter 'reference={pattern}': {error}") from error

    def test(name: str) -> bool:
        ref = Reference.parse(name)
        return any(glob.fullmatch(shape) for shape in (ref.familiar, ref.familiar_name, str(ref), ref.name))

    return test


def _glob(pattern: str) -> str:
    """*pattern* as a regular expression, as Go's path.Match reads it: ``*`` and ``?`` stop at a slash."""
    parts = []
    for token in re.findall(r"\[[^\]]+\]|\\?.", pattern, re.DOTALL):
        if token == "*":
            parts.append("[^/]*")
        elif token == "?":
            parts.append("[^/]")
        elif len(token) > 2:
            parts.append("[" + re.sub(r"([\\\[&~|])", r"\\\1", token[1:-1]) + "]")
        else:
            parts.append(re.escape(token[-1]))
    return "".join(parts)


def _test(store: ImageStore, name: str, values: Sequence[str]) -> Callable[[Image], bool]:
    if name == "label":
        return lambda image: match_labels(values, image.config.config.labels)
    if name == "label!":
        return lambda image: not any(match_labels([value], image.config.config.labels) for value in values)
    if name == "dangling":
        if parse_flag("dangling", values):
            return lambda image: not image.tags
        return lambda image: bool(image.tags or image.digests)
    if name in ("before", "since"):
        edge = store.get(values[0]).created_ns
        return lambda image: image.created_ns < edge if name == "before" else image.created_ns > edge
    if name == "until":
        limit = min(parse_time_ns(value) for value in values)
        return lambda image: image.created_ns < limit
    return lambda image: True
