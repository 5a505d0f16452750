"""Markdown from strings, docstrings and signatures, for ``docs.generate``."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

NOTICE = "<!-- written by docs/generate.py (make docs) from the sources: change those, not this page -->"


def page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", NOTICE, *parts]) + "\n"


def table(titles: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [list(titles)]
    lines += [["---"] * len(lines[0]), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ").strip()


def fenced(text: str, language: str = "") -> str:
    return f"```{language}\n{text.strip()}\n```"


def signature(name: str, function: Callable[..., Any]) -> str:
    """As in the source, over several lines where it is long; without *self*."""
    signature = inspect.signature(function)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
    signature = signature.replace(parameters=parameters)
    line = f"def {name}{signature}".replace("'", "").replace('"', "")
    if len(line) <= 110:
        return line
    head, _, tail = line.partition("(")
    inner, _, answer = tail.rpartition(") -> ")
    return f"{head}(\n    " + ",\n    ".join(re.split(r", (?=\w+: )", inner)) + f",\n) -> {answer}"


def markdown(of: Any) -> str:
    """The docstring of *of*: reStructuredText's literals and code blocks as Markdown's."""
    lines: list[str] = []
    code = False
    for line in inspect.cleandoc(of.__doc__ or "").splitlines():
        if code and line and not line.startswith("    "):
            lines += ["```", ""]
            code = False
        if line.rstrip().endswith("::") and not code:
            lines += [*([line.rstrip()[:-1]] if line.strip() != "::" else []), "", "```python"]
            code = True
        elif not (code and lines[-1] == "```python" and not line):
            lines.append(line.removeprefix("    ") if code else line.replace("``", "`"))
    text = "\n".join([*lines, "```"] if code else lines)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"\n+```$", "\n```", text))


def one_line(of: Any) -> str:
    """The first sentence of its docstring, or its first paragraph."""
    return " ".join(inspect.cleandoc(of.__doc__ or "").split("\n\n")[0].split()).replace("``", "`")


def sentence(text: str) -> str:
    text = " ".join(textwrap.dedent(text).split())
    return text if text.endswith(".") or not text else text + "."


def captured(function: Callable[..., Any], arguments: list[str]) -> str:
    """What *function* prints to standard output before it exits, 100 columns wide whatever the terminal."""
    out = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            function(arguments)
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return out.getvalue()
