"""Fuzzes one of the targets with atheris (libFuzzer): ``make fuzz``, or

    python -m tests.fuzz.run layer [-max_total_time=60] [other options of libFuzzer]

What it learnt is kept in ``build/fuzz/<target>`` and taken up again; an input that breaks a promise is kept beside it
as ``<target>-crash-…``, and shown again by naming it as a further argument.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent.parent / "build/fuzz"
PACKAGES = ["scow"]


def main() -> int:
    """Runs until libFuzzer ends; answers 2 for a target that is not there and 3 without atheris."""
    names = sys.argv[1:2]
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        print("atheris is not installed: pip install atheris (wheels for Linux on x86-64)", file=sys.stderr)
        return 3
    with atheris.instrument_imports(include=PACKAGES):
        targets = importlib.import_module("tests.fuzz.targets")
    if not names or names[0] not in targets.TARGETS:
        print(f"usage: python -m tests.fuzz.run {'|'.join(targets.TARGETS)} [libFuzzer's options]", file=sys.stderr)
        return 2
    corpus = FOLDER / names[0]
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(targets.SEEDS[names[0]]):
        (corpus / f"seed-{number}").write_bytes(seed)
    prefix = f"-artifact_prefix={FOLDER}/{names[0]}-"
    given = [argument for argument in sys.argv[2:] if not argument.startswith("-")]
    options = [argument for argument in sys.argv[2:] if argument.startswith("-")]
    atheris.Setup(
        [sys.argv[0], prefix, "-max_len=8192", *options, *(given or [str(corpus)])], targets.TARGETS[names[0]]
    )
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
