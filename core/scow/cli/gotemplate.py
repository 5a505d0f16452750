"""Go's text/template for ``--format``: the part that people write for docker, on values decoded from JSON.

``{{.A.B}} {{json .X}} {{range $k, $v := .X}}…{{else}}…{{end}} {{if and .A (gt .B 1)}}…{{else if}}…{{end}}
{{with .X}}…{{end}} {{index .X "k" 0}} {{$v := .X}} {{.A | upper}} {{- trim -}} {{/* comment */}}``

Fields look into mappings; a missing one prints ``<no value>`` as Go does for maps. A field that is a function is called
with the words behind it (``{{.Label "x"}}``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scow.cli.gofunctions import FUNCTIONS, MISSING, go_text, to_json, truth
from scow.errors import InvalidArgument

__all__ = ["Template", "to_json"]

_ACTION = re.compile(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<char>'(?:\\.|[^'\\])')|(?P<number>-?\d+(?:\.\d+)?)"""
    r"""|(?P<variable>\$\w*)|(?P<field>\.\w+)|(?P<dot>\.)|(?P<word>\w+)|(?P<sign>:=|[=,|()]))"""
)
Scope = dict[str, Any]
Expression = Callable[[Any, Scope], Any]


@dataclass
class _Block:
    """``if``, ``with`` or ``range`` while it is read: its *then* and *otherwise* parts."""

    kind: str
    condition: Expression
    variables: list[str]
    then: list[Any] = field(default_factory=list)
    otherwise: list[Any] = field(default_factory=list)


class Template:
    """A compiled template; raises `InvalidArgument` where it is not one."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.nodes: list[Any] = []
        try:
            self._compile()
        except _Malformed as error:
            raise InvalidArgument(f"template parsing error: {error} in {text!r}") from error

    def render(self, value: Any) -> str:
        """The text for *value*; raises `InvalidArgument` where the template does not fit it."""
        out: list[str] = []
        try:
            _run(self.nodes, value, {"$": value}, out)
        except _Stop:  # a break or continue outside of a loop ends it
            pass
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise InvalidArgument(f"template error: {error} in {self.text!r}") from error
        return "".join(out)

    def _compile(self) -> None:
        stack: list[tuple[_Block, list[Any]]] = []
        target, position, trim = self.nodes, 0, False
        for match in _ACTION.finditer(self.text):
            literal = self.text[position : match.start()]
            literal = literal.lstrip() if trim else literal
            literal = literal.rstrip() if match[1] else literal
            if literal:
                target.append(literal)
            position, trim = match.end(), bool(match[3])
            target = self._action(match[2], target, stack)
        if stack:
            raise _Malformed(f"no end for {stack[-1][0].kind!r}")
        rest = self.text[position:]
        if "{{" in rest:
            raise _Malformed("unclosed action")
        self.nodes.append(rest.lstrip() if trim else rest)

    def _action(self, text: str, target: list[Any], stack: list[tuple[_Block, list[Any]]]) -> list[Any]:
        """Add one action to *target*; answers where the next one belongs."""
        if text.startswith("/*"):
            return target
        parser = _Parser(text)
        word = parser.keyword()
        if word in ("if", "with", "range"):
            names, condition = parser.assignment()
            block = _Block(word, condition, names)
            target.append(block)
            stack.append((block, target))
            return block.then
        if word == "else":
            if not stack:
                raise _Malformed("unexpected {{else}}")
            block, outer = stack[-1]
            if (inner := parser.keyword()) in ("if", "with"):
                names, condition = parser.assignment()
                nested = _Block(inner, condition, names)
                block.otherwise.append(nested)
                stack[-1] = (nested, outer)
                return nested.then
            return block.otherwise
        if word == "end":
            if not stack:
                raise _Malformed("unexpected {{end}}")
            return stack.pop()[1]
        if word in ("break", "continue"):
            target.append(_Stop(word))
            return target
        names, expression = parser.assignment()
        target.append((names[0] if names else None, expression))
        return target


class _Malformed(Exception):
    pass


class _Stop(Exception):
    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class _Parser:
    """Recursive descent over one action's tokens."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str, bool]] = []  # kind, text, whether a space stands before it
        position = 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise _Malformed(f"unexpected {text[position:]!r}")
            token = match[match.lastgroup]
            self.tokens.append((match.lastgroup, token, match.end() - len(token) > position or position == 0))
            position = match.end()
        self.at = 0

    def peek(self) -> tuple[str, str, bool]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "", True)

    def take(self) -> tuple[str, str, bool]:
        token = self.peek()
        self.at += 1
        return token

    def keyword(self) -> str:
        kind, text, _ = self.peek()
        if kind == "word" and text in ("if", "with", "range", "else", "end", "break", "continue"):
            self.at += 1
            return text
        return ""

    def assignment(self) -> tuple[list[str], Expression]:
        """``$k, $v := pipeline``, ``$v = pipeline`` or a pipeline."""
        start, names = self.at, []
        while self.peek()[0] == "variable":
            names.append(self.take()[1])
            if self.peek()[1] != ",":
                break
            self.take()
        if names and self.peek()[1] in (":=", "="):
            self.take()
        else:
            self.at, names = start, []
        expression = self.pipeline()
        if self.peek()[0] != "end":
            raise _Malformed(f"unexpected {self.peek()[1]!r}")
        return names, expression

    def pipeline(self) -> Expression:
        expression = self.call(None)
        while self.peek()[1] == "|":
            self.take()
            expression = self.call(expression)
        return expression

    def call(self, piped: Expression | None) -> Expression:
        """A function or a field with its arguments, or one operand."""
        kind, text, _ = self.peek()
        if kind == "word" and text not in ("true", "false", "nil"):
            self.take()
            function = FUNCTIONS.get(text)
            if function is None:
                raise _Malformed(f"function {text!r} not defined")
            return _apply(function, [*self.arguments(), *([piped] if piped else [])])
        operand = self.operand()
        arguments = [*self.arguments(), *([piped] if piped else [])]
        return _invoke(operand, arguments)

    def arguments(self) -> list[Expression]:
        result = []
        while self.peek()[0] != "end" and self.peek()[1] not in ("|", ")"):
            kind, text, _ = self.peek()
            if kind == "word" and text in FUNCTIONS:
                self.take()
                result.append(_apply(FUNCTIONS[text], []))
            else:
                result.append(_invoke(self.operand(), []))
        return result

    def operand(self) -> Expression:
        kind, text, _ = self.take()
        if text == "(":
            inner = self.pipeline()
            if self.take()[1] != ")":
                raise _Malformed("unclosed parenthesis")
            return self.fields(inner)
        if kind == "dot":
            return lambda dot, _: dot
        if kind == "field":
            self.at -= 1
            return self.fields(lambda dot, _: dot, first=True)
        if kind == "variable":
            return self.fields(_variable(text))
        if kind in ("string", "char", "number") or text in ("true", "false", "nil"):
            constant = _constant(kind, text)
            return lambda *_: constant
        raise _Malformed(f"unexpected {text!r}" if text else "missing value for command")

    def fields(self, base: Expression, *, first: bool = False) -> Expression:
        """*base* and the fields that follow it without a space."""
        names: list[str] = []
        while self.peek()[0] == "field" and (first or not self.peek()[2]):
            names.append(self.take()[1][1:])
            first = False
        if not names:
            return base
        return lambda dot, scope: _lookup(base(dot, scope), names)


def _variable(name: str) -> Expression:
    def value(_: Any, scope: Scope) -> Any:
        if name not in scope:
            raise ValueError(f"undefined variable {name!r}")
        return scope[name]

    return value


def _constant(kind: str, text: str) -> Any:
    if kind == "number":
        return float(text) if "." in text else int(text)
    if kind == "char":
        return ord(_unescape(text[1:-1]))
    if kind == "string":
        return text[1:-1] if text.startswith("`") else _unescape(text[1:-1])
    return {"true": True, "false": False}.get(text)


def _unescape(text: str) -> str:
    escapes = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "a": "\a", "b": "\b"}
    return re.sub(r"\\(.)", lambda match: escapes.get(match[1], match[0]), text)


def _lookup(value: Any, names: list[str]) -> Any:
    for index, name in enumerate(names):
        if value is None or value is MISSING:
            return MISSING if index else value
        if callable(value):
            value = value()
        if not isinstance(value, Mapping):
            raise ValueError(f"can't evaluate field {name} in {go_text(value)!r}")
        value = value.get(name, MISSING)
    return value


def _apply(function: Callable[..., Any], arguments: list[Expression]) -> Expression:
    return lambda dot, scope: function(*(argument(dot, scope) for argument in arguments))


def _invoke(operand: Expression, arguments: list[Expression]) -> Expression:
    def value(dot: Any, scope: Scope) -> Any:
        found = operand(dot, scope)
        words = [argument(dot, scope) for argument in arguments]
        if callable(found):
            return found(*words)
        if words:
            raise ValueError("a value that is no function is given arguments")
        return found

    return value


def _run(nodes: list[Any], dot: Any, scope: Scope, out: list[str]) -> None:
    for node in nodes:
        if isinstance(node, str):
            out.append(node)
        elif isinstance(node, _Block):
            _run_block(node, dot, scope, out)
        elif isinstance(node, _Stop):
            raise node
        else:
            name, expression = node
            value = expression(dot, scope)
            if name is None:
                out.append(go_text(value))
            else:
                scope[name] = value


def _run_block(block: _Block, dot: Any, scope: Scope, out: list[str]) -> None:
    value = block.condition(dot, scope)
    if block.kind == "range":
        _run_range(block, value, dot, scope, out)
        return
    inner = scope if not block.variables else {**scope, block.variables[0]: value}
    if truth(value):
        _run(block.then, value if block.kind == "with" else dot, inner, out)
    else:
        _run(block.otherwise, dot, inner, out)


def _run_range(block: _Block, value: Any, dot: Any, scope: Scope, out: list[str]) -> None:
    items = list(_items(value))
    if not items:
        _run(block.otherwise, dot, scope, out)
    for key, item in items:
        inner = dict(scope)
        if len(block.variables) == 2:
            inner[block.variables[0]], inner[block.variables[1]] = key, item
        elif block.variables:
            inner[block.variables[0]] = item
        try:
            _run(block.then, item, inner, out)
        except _Stop as stop:
            if stop.word == "break":
                return
        finally:  # what an outer variable was set to stays
            scope.update((name, inner[name]) for name in scope if name not in block.variables)


def _items(value: Any) -> Any:
    if value is None or value is MISSING:
        return ()
    if isinstance(value, Mapping):
        return ((key, value[key]) for key in sorted(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return enumerate(range(value))
    if isinstance(value, (list, tuple)):
        return enumerate(value)
    raise ValueError(f"range can't iterate over {go_text(value)}")
