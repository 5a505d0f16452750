"""The filters of ``docker images``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

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


def filter_images(store: ImageStore, filters: Mapping[str, Sequence[str]]) -> list[Image]:
    """The images of *store* that pass *filters*, newest first.

    Raises `InvalidArgument` for an unknown filter or value, `NotFound` for the image of ``before`` or ``since``.
    """
    tests = [_test(store, name, values) for name, values in check_filters(filters, KNOWN).items()]
    found = [image for image in store.all() if all(test(image) for test in tests)]
    patterns = filters.get("reference")
    return [image for image in found if any(matches(image, pattern) for pattern in patterns)] if patterns else found


def matches(image: Image, pattern: str) -> bool:
    """Whether a name of *image* is like *pattern*: ``nginx``, ``nginx:1.*``, ``docker.io/library/ngin?``."""
    try:
        glob = re.compile(_glob(pattern))
    except re.error as error:
        raise InvalidArgument(f"invalid filter 'reference={pattern}': {error}") from error
    for name in (*image.tags, *image.digests):
        ref = Reference.parse(name)
        shapes = (ref.familiar, ref.familiar_name, str(ref), ref.name)
        if any(glob.fullmatch(shape) for shape in shapes):
            return True
    return False


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
        flag = _FLAGS.get(values[0].lower())
        if flag is None:
            raise InvalidArgument(f"invalid filter 'dangling={values[0]}'", hint="true or false")
        return lambda image: (not image.tags) is flag
    if name in ("before", "since"):
        edge = store.get(values[0]).created_ns
        return lambda image: image.created_ns < edge if name == "before" else image.created_ns > edge
    if name == "until":
        limit = min(parse_time_ns(value) for value in values)
        return lambda image: image.created_ns < limit
    return lambda image: True
