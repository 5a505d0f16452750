"""``top``: what ps(1) of the host says about a container's processes."""

from __future__ import annotations

import asyncio
import re
import shlex
from typing import TYPE_CHECKING

from scow.errors import InvalidArgument, ScowError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SAFE = re.compile(r"[a-zA-Z0-9_,=:%+-]+")


async def top(pids: Sequence[int], ps_args: str) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of ``ps <ps_args>`` for *pids*; raises `InvalidArgument` where ps shows no PID column."""
    words = shlex.split(ps_args)
    for word in words:
        if not _SAFE.fullmatch(word):
            raise InvalidArgument(f"invalid ps argument {word!r}")
    listed = ",".join(map(str, pids)) or "0"
    lines = await _ps([*words, "-q", listed])
    if lines is None:
        lines = await _ps(words) or []
    if not lines:
        raise InvalidArgument(f"ps {ps_args}: no output")
    titles = lines[0].split()
    if "PID" not in titles:
        raise InvalidArgument("Couldn't find PID field in ps output", hint="add pid to the columns")
    column = titles.index("PID")
    wanted = {str(pid) for pid in pids}
    rows = [line.split(None, len(titles) - 1) for line in lines[1:]]
    return titles, [row for row in rows if len(row) > column and row[column] in wanted]


async def _ps(words: list[str]) -> list[str] | None:
    try:
        process = await asyncio.create_subprocess_exec(
            "ps", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise ScowError("ps is not installed on the host", hint="install procps") from error
    out, _ = await process.communicate()
    return out.decode(errors="replace").splitlines() if process.returncode == 0 else None
