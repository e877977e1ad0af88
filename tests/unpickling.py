"""`python unpickling.py WORDS... [--then WORDS...]`: run command lines of spherectl where nothing can unpickle a file.

In one process, one after another; `kill POINT NTH WORDS...` runs one through tests/training/killing.py, and `control`
tries to unpickle, which must fail. Reading a pickle from a file raises and leaves a line on stderr, should somebody
catch it. Not replaced is `pickle.loads`: with it the processes of one program hand each other objects through pipes of
their own making (multiprocessing, torch.distributed), and no file plays a part.
"""

from __future__ import annotations

import io
import itertools
import pickle
import runpy
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from spherectl.cli import app

KILLING = Path(__file__).parent / "training" / "killing.py"
DENIED = "a pickle was read"
WAYS = 5  # that `control` tries


class PickleReadError(Exception):
    """Something was about to be unpickled."""


class DeniedUnpickler:
    """In the place of `pickle.Unpickler`, which libraries derive from: it cannot even be made."""

    def __init__(self, *_: Any, **__: Any) -> None:
        deny()


def deny(*_: Any, **__: Any) -> NoReturn:
    sys.stderr.write(f"{DENIED}\n")
    raise PickleReadError(DENIED)


def control() -> None:
    """Each way to unpickle a file raises; numpy's own is `np.load(allow_pickle=True)`."""
    saved, array = io.BytesIO(), io.BytesIO()
    torch.save({"weight": torch.zeros(1)}, saved)
    np.save(array, np.array([{}], dtype=object), allow_pickle=True)
    ways = {
        "torch.load": lambda: torch.load(saved, weights_only=False),
        "torch.load, weights_only": lambda: torch.load(saved, weights_only=True),
        "numpy.load": lambda: np.load(array, allow_pickle=True),
        "pickle.load": lambda: pickle.load(io.BytesIO(pickle.dumps(1))),
        "pickle.Unpickler": lambda: pickle.Unpickler(io.BytesIO(pickle.dumps(1))).load(),
    }
    assert len(ways) == WAYS
    for name, way in ways.items():
        for stream in (saved, array):
            stream.seek(0)
        try:
            way()
        except PickleReadError:
            sys.stdout.write(f"control: {name} is denied\n")


def run(words: list[str]) -> None:
    """One command line, to its end."""
    if words == ["control"]:
        control()
        return
    killed = words[0] == "kill"
    sys.argv = [str(KILLING), *words[1:]] if killed else ["spherectl", *words]
    try:
        runpy.run_path(str(KILLING), run_name="__main__") if killed else app.main()
    except SystemExit as ended:
        if ended.code:
            raise


def main() -> None:
    """Deny, then run what was asked for."""
    pickle.load = torch.load = torch.serialization.load = deny
    pickle.Unpickler = DeniedUnpickler  # type: ignore[assignment, misc]
    for is_separator, words in itertools.groupby(sys.argv[1:], lambda word: word == "--then"):
        if not is_separator:
            run(list(words))


if __name__ == "__main__":
    main()
