"""As much of `typing` as our modules use when they run, in a hundredth of the time; the rest is the real module's."""

from __future__ import annotations

import sys
from operator import itemgetter

TYPE_CHECKING = False
Any = NoReturn = object


def cast(_type: object, value: object) -> object:
    """*value*."""
    return value


class _Named(type):
    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, object]) -> type:
        if not bases:
            return super().__new__(cls, name, bases, namespace)
        annotated = namespace.get("__annotations__")
        fields = tuple(map(str, annotated)) if isinstance(annotated, dict) else ()
        defaults = {field: namespace.pop(field) for field in fields if field in namespace}

        def make(cls: type, *values: object, **named: object) -> object:
            try:
                rest = [named.pop(field) if field in named else defaults[field] for field in fields[len(values) :]]
            except KeyError as missing:
                raise TypeError(f"{name}() misses {missing}") from None
            if named or len(values) > len(fields):
                raise TypeError(f"{name}() takes {', '.join(fields)}")
            return tuple.__new__(cls, (*values, *rest))

        def replace(self: tuple[object, ...], **changed: object) -> object:
            values = [changed.pop(field, value) for field, value in zip(fields, self, strict=True)]
            return make(type(self), *values, **changed)

        for place, field in enumerate(fields):
            namespace[field] = property(itemgetter(place))
        return type(name, (tuple,), {**namespace, "__new__": make, "_replace": replace, "_fields": fields})


class NamedTuple(metaclass=_Named):
    """A base class that makes tuples with names, as `typing.NamedTuple` does."""


def use() -> None:
    """Who imports `typing` from now on gets this module."""
    sys.modules["typing"] = sys.modules[__name__]


def __getattr__(name: str) -> object:
    if name.startswith("__") or sys.modules.get("typing") is not sys.modules[__name__]:
        raise AttributeError(name)  # the import system asks for ``__path__``
    del sys.modules["typing"]
    import typing  # the module itself, which whoever imports it gets from now on

    globals().update({name: value for name, value in vars(typing).items() if not name.startswith("__")})
    return getattr(typing, name)
